"""Bearer tokens: given, named or provided; asked for per attempt, renewed once for everybody."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

from pydantic import SecretStr

from langgraph_hpc_fanout.tokens.source import (
    RENEW_SECONDS,
    CredentialError,
    Token,
    TokenServiceError,
    TokenSource,
)

__all__ = ["ApiKey", "CredentialError", "Credentials", "TokenServiceError"]

Provider = Callable[[], str | Token | Awaitable[str | Token]]
ApiKey = str | SecretStr | TokenSource | Provider

_logger = logging.getLogger(__name__)
_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*_[A-Z0-9_]+")
_PROVIDED_SECONDS = 30.0
"""How long a token is used that does not say when it ends, before its function is asked again."""
_LEAST_SECONDS = 1.0
"""Between two renewals, where a provider does not renew in time."""
_RETRY_SECONDS = 10.0
"""Between two renewals ahead of time, where the first has failed."""
_REPLACED_SECONDS = 60.0
"""A server that refuses a token younger than this, which took a refused one's place, refuses us."""


class Credentials:
    """The value of the Authorization header.

    Args:
        api_key: The token itself, the name of an environment variable that holds it
            (upper case with an underscore, such as `OPENAI_API_KEY`), a source of tokens
            (`langgraph_hpc_fanout.tokens`), or a function, sync or async, that returns it: as a
            string, or as a `Token` that tells how long it is good.
        parameter: What its users call it, for messages.
        now: The time, in seconds since the epoch.
    """

    def __init__(
        self,
        api_key: ApiKey | None,
        *,
        parameter: str = "api_key=",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._parameter = parameter
        self._variable: str | None = None
        self._secret: SecretStr | None = None
        self._provider: TokenSource | Provider | None = None
        if isinstance(api_key, SecretStr):
            self._secret = api_key
        elif isinstance(api_key, str) and _VARIABLE.fullmatch(api_key):
            self._variable = api_key
        elif isinstance(api_key, str):
            self._secret = SecretStr(api_key)
        elif api_key is not None:
            self._provider = api_key
        self._now = now
        self._provided: str | None = None
        self._former: str | None = None
        self._refused: str | None = None
        self._renew_at = self._usable_until = 0.0
        self._replaced_at = float("-inf")
        self._renewing: asyncio.Task[str] | None = None

    def __repr__(self) -> str:
        return f"Credentials({self.describe()})"

    def describe(self) -> str:
        """Where the token comes from, never the token."""
        if self._variable is not None:
            return f"the environment variable {self._variable}"
        if isinstance(self._provider, TokenSource):
            return self._provider.describe()
        if self._provider is not None:
            name = getattr(self._provider, "__qualname__", type(self._provider).__name__)
            return f"the function {name}"
        return self._parameter if self._secret is not None else f"no {self._parameter}"

    def remedy(self) -> str:
        """What a person does about a token that is refused, as an imperative."""
        if isinstance(self._provider, TokenSource):
            return f"get another token with: {self._provider.login}"
        return (
            f"set {self._parameter} of this endpoint to a valid token, to the name of the "
            "environment variable that holds one, or to a function that returns one."
        )

    @property
    def renewable(self) -> bool:
        """Whether asking again may give another token."""
        if isinstance(self._provider, TokenSource):
            return self._provider.renewable
        return self._provider is not None

    def expire(self, header: str | None) -> None:
        """The server refused this header: ask for another token, unless there is one already.

        Or unless that would be for nothing: FIRST answers 401 for a model that one may not use,
        too, and each attempt would have the token renewed.
        """
        if self._provided is None or header != f"Bearer {self._provided}":
            return
        if self._now() - self._replaced_at < _REPLACED_SECONDS:
            return
        self._refused = self._provided
        self._renew_at = self._usable_until = 0.0

    def redact(self, text: str) -> str:
        """The text without the token, should a server have echoed it."""
        variable = os.environ.get(self._variable) if self._variable else None
        secret = self._secret.get_secret_value() if self._secret else None
        # The former one, because a late answer may echo it.
        for token in (variable, secret, self._provided, self._former):
            if token and token.strip():
                text = text.replace(token.strip(), "***")
        return text

    def __reduce__(self) -> NoReturn:
        raise TypeError("Credentials are not pickled: a token must not leave the process.")

    async def header(self) -> str | None:
        """The header's value for an attempt that starts now.

        Raises:
            CredentialError: If there is no token to be had.
            TokenServiceError: If there is none at the moment.
        """
        if self._secret is not None:
            return f"Bearer {self._secret.get_secret_value().strip()}"
        if self._variable is not None:
            token = os.environ.get(self._variable, "").strip()
            if not token:
                raise CredentialError(
                    f"the environment variable {self._variable}, named by {self._parameter}, "
                    "is not set"
                )
            return f"Bearer {token}"
        if self._provider is not None:
            return f"Bearer {await self._provide(self._provider)}"
        return None

    async def _provide(self, provider: TokenSource | Provider) -> str:
        now, provided = self._now(), self._provided
        if provided is not None and now < self._renew_at:
            return provided
        loop = asyncio.get_running_loop()
        if self._renewing is None or self._renewing.get_loop() is not loop:
            self._renewing = loop.create_task(self._renew(provider))
            self._renewing.add_done_callback(_look_at)
        if provided is not None and now < self._usable_until:
            return provided  # nobody waits for what is renewed ahead of time
        # Shielded: one cancelled attempt must not take the token from all the others.
        return await asyncio.shield(self._renewing)

    async def _renew(self, provider: TokenSource | Provider) -> str:
        refused = self._refused
        try:
            token = await self._ask(provider, refused)
        except CredentialError as error:
            left = self._usable_until - self._now()
            if self._provided is None or left <= 0:
                raise
            _logger.warning("The token in use is good for %.0f s and not renewed: %s", left, error)
            self._renew_at = self._now() + min(_RETRY_SECONDS, left)
            return self._provided
        finally:
            self._renewing = None
        self._take_in(token, refused)
        return token.value

    async def _ask(self, provider: TokenSource | Provider, refused: str | None) -> Token:
        try:
            # In a thread, because most providers read files or call a token service.
            if isinstance(provider, TokenSource):
                token: object = await asyncio.to_thread(provider.token, refused)
            else:
                token = await asyncio.to_thread(provider)
            if inspect.isawaitable(token):
                token = await token
        except CredentialError:
            raise
        except Exception as error:
            raise CredentialError(
                f"{self.describe()} raised {type(error).__name__}: {error}"
            ) from error
        if isinstance(token, str):
            token = Token(token)
        if not isinstance(token, Token) or not token.value.strip():
            raise CredentialError(f"{self.describe()} returned no token.")
        return Token(token.value.strip(), token.expires_at)

    def _take_in(self, token: Token, refused: str | None) -> None:
        """Use a token, which was asked for in the place of the refused one, if any."""
        now = self._now()
        if token.value != self._provided:
            self._former, self._provided = self._provided, token.value
        if token.value == self._refused and refused is None:
            return  # refused while it was on its way: it is to be asked for again
        if self._refused is not None:
            if token.value != self._refused:  # the same one again costs no token service anything
                self._replaced_at = now
            self._refused = None
        if token.expires_at is None:
            self._renew_at = self._usable_until = now + _PROVIDED_SECONDS
        else:
            self._usable_until = token.expires_at - _LEAST_SECONDS
            self._renew_at = max(token.expires_at - RENEW_SECONDS, now + _LEAST_SECONDS)


def _look_at(task: asyncio.Task[str]) -> None:
    """Look at what a renewal has raised, which perhaps nobody waits for."""
    if not task.cancelled():
        task.exception()
