"""What a source of tokens is, and what goes wrong with one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, NoReturn

RENEW_SECONDS = 60.0
"""How long before it expires a token is renewed.

globus-sdk's authorizers do not renew earlier (globus_sdk 4.9.1, authorizers/renewing.py,
EXPIRES_ADJUST_SECONDS), so asking them earlier would bring the same token.
"""


class CredentialError(Exception):
    """A token could not be had; the message says what to do and holds no secret."""


class TokenServiceError(CredentialError):
    """No token at the moment: the token service is out of reach or falters; try again."""


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token, and what is known of it.

    Attributes:
        value: The secret; no repr shows it.
        expires_at: When it ends, in seconds since the epoch; None where nobody knows.
        identity: Whose it is, as the token service names them; None where nobody knows.
    """

    value: str = field(repr=False)
    expires_at: float | None = None
    identity: str | None = None

    def __reduce__(self) -> NoReturn:
        raise TypeError("Tokens are not pickled: a token must not leave the process.")


class TokenSource(ABC):
    """Somewhere to get tokens from, fit for `api_key=` of any endpoint.

    Called, it gives the token as a string. It never asks a person, may block, and may be called
    from several threads at once.

    Attributes:
        login: The command by which a person gets a token here, to be pasted into a shell.
        renewable: Whether asking again may bring another token.
    """

    login: str
    renewable: ClassVar[bool] = True

    def __call__(self) -> str:
        """The token as a string, for whoever takes a function."""
        return self.token().value

    @abstractmethod
    def token(self, refused: str | None = None) -> Token:
        """A token that is good now.

        Args:
            refused: A token that a server has refused: another one is wanted, though this one
                may not have expired.

        Raises:
            CredentialError: If there is none; the message names the command to log in, or the
                extra to install.
            TokenServiceError: If it has to be renewed and nobody answers.
        """

    @abstractmethod
    def describe(self) -> str:
        """Where the tokens come from, as part of a sentence; never the token."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.describe()})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("Token sources are not pickled: a token must not leave the process.")
