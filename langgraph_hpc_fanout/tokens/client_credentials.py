"""Tokens of a service account, for programs that belong to no person."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from pydantic import SecretStr

from langgraph_hpc_fanout.tokens.extras import needs_extra
from langgraph_hpc_fanout.tokens.source import RENEW_SECONDS, CredentialError, Token, TokenSource

# As ALCF's own script has them: argonne-lcf/inference-endpoints eb9636e,
# globus_service_account_token/get_service_account_token.py.
CLIENT_ID = "GLOBUS_SERVICE_ACCOUNT_CLIENT_ID"
CLIENT_SECRET = "GLOBUS_SERVICE_ACCOUNT_CLIENT_SECRET"  # noqa: S105 - the name of a variable


class ClientCredentials(TokenSource):
    """Tokens of a confidential client of Globus Auth. Needs the extra `globus`.

    The gateway must know the account: ALCF keeps a list. Nothing is stored; each process gets a
    token of its own.

    Args:
        client_id: Of the account; by default the environment variable
            `GLOBUS_SERVICE_ACCOUNT_CLIENT_ID`.
        client_secret: Its secret; by default the environment variable
            `GLOBUS_SERVICE_ACCOUNT_CLIENT_SECRET`.
        now: The time, in seconds since the epoch.

    Raises:
        ValueError: If one of the two is given and the other is not.
    """

    def __init__(
        self,
        client_id: str | None = None,
        client_secret: str | SecretStr | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        if (client_id is None) != (client_secret is None):
            raise ValueError("ClientCredentials needs client_id= and client_secret=, or neither.")
        if isinstance(client_secret, str):
            client_secret = SecretStr(client_secret)
        self._id, self._secret = client_id, client_secret
        self._now = now
        self._lock = threading.Lock()
        self._token: Token | None = None
        self.login = f"export {CLIENT_ID}=<id> {CLIENT_SECRET}=<secret>"

    def token(self, refused: str | None = None) -> Token:
        """The token in use, or a new one if it is about to expire or was refused."""
        with needs_extra("globus", "globus_sdk", self.describe()):
            from langgraph_hpc_fanout.tokens import globus_auth  # noqa: PLC0415 - an extra
        with self._lock:
            if (token := self._token) is None or self._is_over(token, refused):
                client_id, client_secret = self._account()
                with globus_auth.explained(f"the service account {client_id}", self.login):
                    token = self._token = globus_auth.client_token(client_id, client_secret)
            return token

    def describe(self) -> str:
        """The account's id, or the names of the variables that hold it."""
        return (
            f"the service account {self._id}"
            if self._id is not None
            else f"the service account in {CLIENT_ID} and {CLIENT_SECRET}"
        )

    def _is_over(self, token: Token, refused: str | None) -> bool:
        ends = token.expires_at if token.expires_at is not None else float("inf")
        return token.value == refused or self._now() >= ends - RENEW_SECONDS

    def _account(self) -> tuple[str, str]:
        if self._id is not None and self._secret is not None:
            return self._id, self._secret.get_secret_value()
        values = {name: os.environ.get(name, "").strip() for name in (CLIENT_ID, CLIENT_SECRET)}
        if unset := [name for name, value in values.items() if not value]:
            raise CredentialError(
                f"the environment lacks {' and '.join(unset)} of the service account. "
                f"Set both with: {self.login}"
            )
        return values[CLIENT_ID], values[CLIENT_SECRET]
