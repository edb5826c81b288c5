"""The login that ALCF's program `alcf-tokens` keeps."""

from __future__ import annotations

import threading

from langgraph_hpc_fanout.tokens.extras import needs_extra
from langgraph_hpc_fanout.tokens.source import CredentialError, Token, TokenSource

_LOGIN = "alcf-tokens login inference"


class AlcfTokens(TokenSource):
    """Tokens for FIRST of the login that `alcf-tokens` keeps. Needs the extra `alcf`.

    Source: alcf-tokens 0.4.0, auth.py: `get_access_token` is `get_service_authorizer` and
    `ensure_valid_token`; taken in two steps here, because only the authorizer tells when its
    token expires and renews one that was refused. Neither ever begins a login.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.login = _LOGIN

    def token(self, refused: str | None = None) -> Token:
        """The token that is kept, or the one that takes its place."""
        with needs_extra("alcf", "alcf_tokens", self.describe()):
            from alcf_tokens import auth  # noqa: PLC0415 - an extra
        with needs_extra("globus", "globus_sdk", self.describe()):
            from langgraph_hpc_fanout.tokens import globus_auth  # noqa: PLC0415 - of the extra
        # One at a time: the second finds what the first has renewed.
        with self._lock, globus_auth.explained("alcf-tokens", self.login):
            try:
                authorizer = auth.get_service_authorizer(auth.ServiceName.inference)
            except auth.AuthError:
                raise CredentialError(
                    f"nobody is logged in to FIRST with alcf-tokens. Log in with: {self.login}"
                ) from None
            return globus_auth.renewed(authorizer, refused)

    def describe(self) -> str:
        """The program's name."""
        return "the login of alcf-tokens"
