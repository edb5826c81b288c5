"""HTTP exchanges with one server: connections, tokens, and what went wrong in words."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

import aiohttp
from yarl import URL

from langgraph_hpc_fanout.endpoints.chat import retry_after
from langgraph_hpc_fanout.endpoints.credentials import (
    CredentialError,
    Credentials,
    TokenServiceError,
)
from langgraph_hpc_fanout.endpoints.proxies import proxy_for
from langgraph_hpc_fanout.records import Failure, FailureKind

_CONNECT_SECONDS = 10.0
_CONTROL_SECONDS = 20.0
"""For questions that are no inference; a connection that was lost on the way says nothing."""
_KEEPALIVE_SECONDS = 4.0
"""Less than uvicorn's 5 s (vLLM's server), so that no request meets a closing connection."""

EXCHANGE_ERRORS = (CredentialError, aiohttp.ClientError, TimeoutError, OSError)
"""How an exchange ends without an answer."""

_orphans: list[aiohttp.ClientSession] = []
"""Sessions inherited through a fork. Closing them would disturb the parent's connections."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered.

    Attributes:
        status: The HTTP status.
        raw: The body.
        retry_after: Seconds of a Retry-After header; None without one.
    """

    status: int
    raw: bytes
    retry_after: float | None


class HttpClient:
    """Exchanges with one server, on one event loop at a time.

    Args:
        url: Base URL; its host is who is asked, its user info never shown.
        name: Who is asked, in messages.
        credentials: Where the token comes from; may be shared by several clients.
        verify: Whether the server's certificate must be one that this machine trusts.
    """

    def __init__(
        self, url: URL, name: str, credentials: Credentials, *, verify: bool = True
    ) -> None:
        self.url = url
        self.name = name
        self.credentials = credentials
        self._verify = verify
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._proxy: URL | None = None

    def open(self) -> None:
        """Make a session on the running loop, unless there is one."""
        loop = asyncio.get_running_loop()
        if self._session is not None and self._loop is not loop:
            _orphans.append(self._session)
            self._session = None
        if self._session is None:
            self._loop = loop
            # A cookie jar and the environment's proxies cost time on every request; proxies
            # are looked up once instead.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=_KEEPALIVE_SECONDS, ssl=self._verify
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Content-Type": "application/json"},
            )
            self._proxy = proxy_for(self.url)

    async def close(self) -> None:
        """Close the session and its connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def exchange(self, method: str, url: URL, data: bytes | None = None) -> Answer:
        """One HTTP exchange; a refused token is renewed once where that is possible.

        Raises:
            CredentialError: If there is no token to be had.
            aiohttp.ClientError: If there is no answer; so TimeoutError and OSError.
        """
        if self._session is None:
            self.open()
        assert self._session is not None  # noqa: S101 - narrows the type
        for renewed in (False, True):
            authorization = await self.credentials.header()
            headers = {"Authorization": authorization} if authorization else None
            async with self._session.request(
                method, url, data=data, headers=headers, proxy=self._proxy, allow_redirects=False
            ) as response:
                raw = await response.read()
            if response.status == 401 and self.credentials.renewable and not renewed:
                self.credentials.expire(authorization)
                continue
            break
        return Answer(response.status, raw, retry_after(response.headers.get("Retry-After")))

    async def control(self, method: str, url: URL, data: bytes | None = None) -> Answer:
        """An exchange that has an answer soon, or never.

        Raises:
            CredentialError: If there is no token to be had.
            aiohttp.ClientError: If there is no answer; so TimeoutError and OSError.
        """
        try:
            async with asyncio.timeout(_CONTROL_SECONDS) as scope:
                return await self.exchange(method, url, data)
        except TimeoutError as error:
            if not scope.expired():
                raise  # a connection that was not made has words of its own
            message = f"no answer from {shown(url)} within {_CONTROL_SECONDS:g} s"
            raise TimeoutError(message) from error

    def failure_from(self, error: Exception) -> Failure:
        """What an exchange that ended without an answer means."""
        kind: FailureKind = "transient"
        what = str(error) or type(error).__name__
        if isinstance(error, CredentialError):
            kind = "transient" if isinstance(error, TokenServiceError) else "auth"
        elif isinstance(error, aiohttp.ClientConnectorCertificateError):
            kind = "permanent"
            what = (
                f"the certificate of {shown(self.url)} is not trusted here "
                f"({error.certificate_error}); if it is the server's own, say verify=False."
            )
        elif isinstance(error, aiohttp.ClientConnectorSSLError):
            kind = "cold"
            what = f"no TLS with {shown(self.url)}; does the server speak https?"
        elif isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            kind = "cold"
            what = (
                f"nobody answers at {shown(self.url)} ({cause_of(error)}); "
                "does the server run, and is the URL right?"
            )
        elif isinstance(error, aiohttp.InvalidURL):
            kind = "permanent"
        return self.failure(kind, f"{self.name}: {what}")

    def failure(self, kind: FailureKind, message: str, status: int | None = None) -> Failure:
        """A failure at this server, without secrets."""
        retryable = kind not in ("permanent", "auth")
        return Failure(kind, self.redact(message), status, retryable, self.name)

    def redact(self, message: str) -> str:
        """A message without the token and without passwords of URLs."""
        message = self.credentials.redact(message)
        for url in (self.url, self._proxy):
            if url is not None and url.raw_password:
                message = message.replace(url.raw_password, "***")
        return message


def shown(url: URL) -> str:
    """The URL as it may be shown: without user info and query."""
    try:
        return str(url.with_user(None).with_query(None))
    except ValueError:  # a relative URL: what looks like user info is part of its path
        return str(url).rpartition("@")[2]


def cause_of(error: Exception) -> str:
    """The system's own words, without the socket's address and aiohttp's settings."""
    cause = getattr(error, "os_error", None) or error
    if (number := getattr(cause, "errno", None)) is not None and number > 0:
        return os.strerror(number)
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
