"""Globus Auth, and what its refusals mean. Needs globus-sdk."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from globus_sdk import (
    AuthAPIError,
    ConfidentialAppAuthClient,
    GlobusAppConfig,
    NativeAppAuthClient,
    NetworkError,
    UserApp,
)
from globus_sdk.authorizers import GlobusAuthorizer, RefreshTokenAuthorizer
from globus_sdk.token_storage import JSONTokenStorage, TokenStorageData, TokenValidationError

from langgraph_hpc_fanout.tokens.resource import RESOURCE_SERVER, SCOPE
from langgraph_hpc_fanout.tokens.source import CredentialError, Token, TokenServiceError

_logger = logging.getLogger(__name__)
_PASSING = (429, *range(500, 600))
"""Statuses that say nothing of who we are."""
_UNUSABLE = (OSError, ValueError, LookupError, TypeError, AttributeError)
"""What the SDK raises of a store, or an answer, that is none."""
_RETRIES = 1
"""Few, because who waits for a token tries again, and has the old one meanwhile."""


@contextmanager
def explained(whose: str, login: str) -> Iterator[None]:
    """Turn the SDK's errors into ours.

    Nothing is chained: the SDK's errors hold the request, and that the refresh token.

    Args:
        whose: Whose tokens, as the subject of a sentence.
        login: The command by which a person puts it right.

    Raises:
        CredentialError: If somebody has to log in.
        TokenServiceError: If Globus Auth is out of reach or falters.
    """
    try:
        yield
    except TokenValidationError as error:
        raise CredentialError(
            f"{whose} holds no login for FIRST ({error}). Log in with: {login}"
        ) from None
    except NetworkError as error:
        raise TokenServiceError(
            f"Globus Auth cannot be reached to renew a token ({type(error).__name__})."
        ) from None
    except AuthAPIError as error:
        if error.http_status in _PASSING:
            raise TokenServiceError(
                f"Globus Auth answered {error.http_status} when a token was to be renewed."
            ) from None
        raise CredentialError(
            f"Globus Auth gives no token for {whose} ({error.http_status} {_reason(error)}). "
            f"Log in again with: {login}"
        ) from None
    except _UNUSABLE as error:
        raise CredentialError(
            f"nothing usable came of {whose} ({type(error).__name__}). Log in again with: {login}"
        ) from None


def _reason(error: AuthAPIError) -> str:
    """The word of RFC 6749, section 5.2, such as `invalid_grant`."""
    body = error.raw_json or {}
    return str(body.get("error") or error.code or "")


def renewed(authorizer: GlobusAuthorizer, refused: str | None) -> Token:
    """The token of a login, another one if it is about to expire or was refused."""
    # Logins without a refresh token are not valid to who made the authorizer.
    assert isinstance(authorizer, RefreshTokenAuthorizer)  # noqa: S101 - narrows the type
    if refused is not None and authorizer.access_token == refused:
        authorizer.handle_missing_authorization()
    client = authorizer.auth_client
    with closing(client), client.retry_config.tune(max_retries=_RETRIES):
        try:
            authorizer.ensure_valid_token()
        except OSError as error:  # of the store: the token is there
            _logger.warning("A renewed token is used and cannot be stored: %s", error)
    return Token(authorizer.access_token or "", authorizer.expires_at)


class _WholeStorage(JSONTokenStorage):
    """A store that is there whole or not at all.

    The SDK's empties the file and then writes it, so a full disk would cost the login, and
    another process that reads meanwhile would find none.
    """

    def store_token_data_by_resource_server(
        self, token_data_by_resource_server: Mapping[str, TokenStorageData]
    ) -> None:
        path = Path(self.filepath).resolve()
        with tempfile.TemporaryDirectory(prefix=".renewed-", dir=path.parent) as directory:
            draft = Path(directory, path.name)
            draft.touch(mode=0o600)
            draft.write_bytes(path.read_bytes())
            JSONTokenStorage(draft, namespace=self.namespace).store_token_data_by_resource_server(
                token_data_by_resource_server
            )
            draft.replace(path)


def stored_token(path: Path, client_id: str, app_name: str, refused: str | None) -> Token:
    """The token of a login that globus-sdk has stored, renewed where needed.

    The app has no handler for what is missing, so nobody is ever asked to log in.
    """
    app = UserApp(
        app_name,
        login_client=NativeAppAuthClient(client_id),
        scope_requirements={RESOURCE_SERVER: [SCOPE]},
        config=GlobusAppConfig(
            token_storage=_WholeStorage(path),
            request_refresh_tokens=True,
            token_validation_error_handler=None,
        ),
    )
    with app:
        token = renewed(app.get_authorizer(RESOURCE_SERVER), refused)
        return replace(token, identity=app.token_storage.identity_id)


def client_token(client_id: str, client_secret: str) -> Token:
    """A new token of a service account."""
    client = ConfidentialAppAuthClient(client_id, client_secret)
    with closing(client), client.retry_config.tune(max_retries=_RETRIES):
        response = client.oauth2_client_credentials_tokens(requested_scopes=SCOPE)
    granted = response.by_resource_server[RESOURCE_SERVER]
    return Token(granted["access_token"], granted["expires_at_seconds"], client_id)
