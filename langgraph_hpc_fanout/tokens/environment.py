"""A token that somebody put into the environment."""

from __future__ import annotations

import os
from typing import ClassVar

from langgraph_hpc_fanout.tokens.source import CredentialError, Token, TokenSource

FIRST_API_KEY = "FIRST_API_KEY"
"""What the agent frameworks around FIRST read, too."""


class EnvironmentToken(TokenSource):
    """The value of an environment variable; nobody knows how long it is good.

    Args:
        variable: Its name.
    """

    renewable: ClassVar[bool] = False

    def __init__(self, variable: str = FIRST_API_KEY) -> None:
        self._variable = variable
        self.login = f"export {variable}=<token>"

    def token(self, refused: str | None = None) -> Token:
        """The variable's value, the refused one included: there is no other."""
        value = os.environ.get(self._variable, "").strip()
        if not value:
            raise CredentialError(f"{self.describe()} is not set. Set it with: {self.login}")
        return Token(value)

    def describe(self) -> str:
        """The variable's name."""
        return f"the environment variable {self._variable}"
