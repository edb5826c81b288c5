"""Bearer tokens: given, named or provided; asked for per attempt, refreshed once for everybody."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
from collections.abc import Awaitable, Callable
from typing import NoReturn

from pydantic import SecretStr

ApiKey = str | SecretStr | Callable[[], str | Awaitable[str]]

_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*_[A-Z0-9_]+")
_PROVIDED_SECONDS = 30.0
"""How long a provider's token is used before it is asked again; providers cache longer."""


class CredentialError(Exception):
    """A token could not be had; the message says what to do and holds no secret."""


class Credentials:
    """The value of the Authorization header.

    Args:
        api_key: The token itself, the name of an environment variable that holds it
            (upper case with an underscore, such as `OPENAI_API_KEY`), or a function, sync or
            async, that returns it.
    """

    def __init__(self, api_key: ApiKey | None) -> None:
        self._variable: str | None = None
        self._secret: SecretStr | None = None
        self._provider: Callable[[], str | Awaitable[str]] | None = None
        if isinstance(api_key, SecretStr):
            self._secret = api_key
        elif isinstance(api_key, str) and _VARIABLE.fullmatch(api_key):
            self._variable = api_key
        elif isinstance(api_key, str):
            self._secret = SecretStr(api_key)
        elif api_key is not None:
            self._provider = api_key
        self._provided: str | None = None
        self._fresh_until = 0.0
        self._refreshing: asyncio.Task[str] | None = None

    def __repr__(self) -> str:
        return f"Credentials({self.describe()})"

    def describe(self) -> str:
        """Where the token comes from, never the token."""
        if self._variable is not None:
            return f"the environment variable {self._variable}"
        if self._provider is not None:
            name = getattr(self._provider, "__qualname__", type(self._provider).__name__)
            return f"the function {name}"
        return "api_key=" if self._secret is not None else "no api_key="

    @property
    def renewable(self) -> bool:
        """Whether asking again may give another token."""
        return self._provider is not None

    def expire(self, header: str | None) -> None:
        """The server refused this header: ask for another token, unless there is one already."""
        if header == f"Bearer {self._provided}":
            self._fresh_until = 0.0

    def redact(self, text: str) -> str:
        """The text without the token, should a server have echoed it."""
        variable = os.environ.get(self._variable) if self._variable else None
        secret = self._secret.get_secret_value() if self._secret else None
        for token in (variable, secret, self._provided):
            if token and token.strip():
                text = text.replace(token.strip(), "***")
        return text

    def __reduce__(self) -> NoReturn:
        raise TypeError("Credentials are not pickled: a token must not leave the process.")

    async def header(self) -> str | None:
        """The header's value for an attempt that starts now.

        Raises:
            CredentialError: If there is no token to be had.
        """
        if self._secret is not None:
            return f"Bearer {self._secret.get_secret_value().strip()}"
        if self._variable is not None:
            token = os.environ.get(self._variable, "").strip()
            if not token:
                raise CredentialError(
                    f"the environment variable {self._variable}, named by api_key=, is not set"
                )
            return f"Bearer {token}"
        if self._provider is not None:
            return f"Bearer {await self._provide(self._provider)}"
        return None

    async def _provide(self, provider: Callable[[], str | Awaitable[str]]) -> str:
        loop = asyncio.get_running_loop()
        if self._provided is not None and loop.time() < self._fresh_until:
            return self._provided
        if self._refreshing is None or self._refreshing.get_loop() is not loop:
            self._refreshing = loop.create_task(self._refresh(provider))
        # Shielded: one cancelled attempt must not take the token from all the others.
        return await asyncio.shield(self._refreshing)

    async def _refresh(self, provider: Callable[[], str | Awaitable[str]]) -> str:
        try:
            # In a thread, because most providers read files or call a token service.
            token = await asyncio.to_thread(provider)
            if inspect.isawaitable(token):
                token = await token
        except Exception as error:
            raise CredentialError(
                f"{self.describe()} raised {type(error).__name__}: {error}"
            ) from error
        finally:
            self._refreshing = None
        if not isinstance(token, str) or not token.strip():
            raise CredentialError(f"{self.describe()} returned no token.")
        self._provided = token = token.strip()
        self._fresh_until = asyncio.get_running_loop().time() + _PROVIDED_SECONDS
        return token
