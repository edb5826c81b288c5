"""The login that ALCF's script `inference_auth_token.py` stores."""

from __future__ import annotations

import threading
from pathlib import Path

from langgraph_hpc_fanout.tokens.extras import needs_extra
from langgraph_hpc_fanout.tokens.source import CredentialError, Token, TokenSource

# argonne-lcf/inference-endpoints eb9636e, inference_auth_token.py; where globus-sdk keeps the
# file of such an app: globus_sdk 4.9.1, token_storage/base.py.
_CLIENT_ID = "58fdd3bc-e1c3-4ce5-80ea-8d6b87cfb944"
_APP_NAME = "inference_app"
_STORE = Path("~/.globus/app", _CLIENT_ID, _APP_NAME, "tokens.json")
_LOGIN = "python inference_auth_token.py authenticate --force"


class GlobusTokens(TokenSource):
    """Tokens of the login that `inference_auth_token.py` stored. Needs the extra `globus`.

    The file is read, and a renewed token written into it, so the script and other programs go
    on with the same login.

    Args:
        path: Of the store; by default where the script puts it.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self._path = Path(path) if path is not None else _STORE.expanduser()
        self._lock = threading.Lock()
        self.login = _LOGIN

    def token(self, refused: str | None = None) -> Token:
        """The stored token, or the one that takes its place."""
        # Looked for first, because the SDK would make the directories of a store that is not there.
        if not self._path.is_file():
            raise CredentialError(
                f"nobody is logged in to FIRST: there is no {self._path}. "
                f"Log in with: {self.login} (the script is in "
                "https://github.com/argonne-lcf/inference-endpoints)"
            )
        with needs_extra("globus", "globus_sdk", self.describe()):
            from langgraph_hpc_fanout.tokens import globus_auth  # noqa: PLC0415 - an extra
        # One at a time: globus-sdk's apps are not thread safe, and the second finds what the
        # first has renewed.
        with self._lock, globus_auth.explained(str(self._path), self.login):
            return globus_auth.stored_token(self._path, _CLIENT_ID, _APP_NAME, refused)

    def describe(self) -> str:
        """The file's path."""
        return f"the login of inference_auth_token.py in {self._path}"
