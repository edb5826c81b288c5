"""FIRST's question of who asks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import aiohttp
import orjson
from yarl import URL

from langgraph_hpc_fanout.endpoints.chat import error_message
from langgraph_hpc_fanout.endpoints.proxies import proxy_for

_SECONDS = 20.0
_REFUSALS = (401, 403)
_UNKNOWN = (404, 405)
"""Of a gateway that has no such route."""

Verdict = Literal["accepted", "refused", "unknown", "unreachable"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a gateway says of a token.

    Attributes:
        verdict: `accepted` or `refused`; `unknown` of a gateway that does not tell,
            `unreachable` of one that does not answer.
        said: Its own words, where it does not accept.
        name: The person's name.
        username: Such as a mail address.
    """

    verdict: Verdict
    said: str = ""
    name: str | None = None
    username: str | None = None


def whoami(root: URL, token: str) -> Answer:
    """Ask the gateway whose token this is.

    Source: FIRST main 329c0cd, views/core.py: `GET /whoami`, a cheap check of the token; its
    answer is `UserPydantic` of schemas/structured_logs.py.
    """
    try:
        status, raw = asyncio.run(_get(root / "whoami", token))
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Answer("unreachable", _cause(error))
    if status == 200:
        return _accepted(raw)
    said = error_message(raw).replace(token, "***")
    if status in _REFUSALS:
        return Answer("refused", said)
    if status in _UNKNOWN:
        return Answer("unknown", "it has no /whoami")
    return Answer("unreachable", f"it answered {status}: {said}")


async def _get(url: URL, token: str) -> tuple[int, bytes]:
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(
            url,
            headers={"Authorization": f"Bearer {token}"},
            proxy=proxy_for(url),
            allow_redirects=False,  # the token is for this host
        ) as response,
    ):
        return response.status, await response.read()


def _cause(error: Exception) -> str:
    """The system's own words, without the socket's address and aiohttp's settings."""
    if isinstance(error, TimeoutError):
        return f"no answer within {_SECONDS:g} s"
    number = getattr(error, "errno", None)
    return os.strerror(number) if number and number > 0 else str(error)


def _accepted(raw: bytes) -> Answer:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, Mapping):
        return Answer("unknown", "its /whoami answers no JSON; is the URL that of a gateway?")
    name, username = body.get("name"), body.get("username")
    return Answer(
        "accepted",
        name=name if isinstance(name, str) else None,
        username=username if isinstance(username, str) else None,
    )
