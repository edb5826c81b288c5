"""FIRST's question of who asks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import orjson
from pydantic import SecretStr
from yarl import URL

from langgraph_hpc_fanout.endpoints.chat import error_message
from langgraph_hpc_fanout.endpoints.credentials import Credentials
from langgraph_hpc_fanout.endpoints.http import EXCHANGE_ERRORS, HttpClient, cause_of
from langgraph_hpc_fanout.endpoints.http import Answer as HttpAnswer

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
        answer = asyncio.run(_ask(root, token))
    except TimeoutError:
        return Answer("unreachable", f"no answer within {_SECONDS:g} s")
    except EXCHANGE_ERRORS as error:
        return Answer("unreachable", cause_of(error))
    status = answer.status
    if status == 200:
        return _accepted(answer.raw)
    said = error_message(answer.raw).replace(token, "***")
    if status in _REFUSALS:
        return Answer("refused", said)
    if status in _UNKNOWN:
        return Answer("unknown", "it has no /whoami")
    return Answer("unreachable", f"it answered {status}: {said}")


async def _ask(root: URL, token: str) -> HttpAnswer:
    client = HttpClient(root, "FIRST", Credentials(SecretStr(token)))
    try:
        async with asyncio.timeout(_SECONDS):
            return await client.exchange("GET", root / "whoami")
    finally:
        await client.close()


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
