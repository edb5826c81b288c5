"""A loop over aiohttp and orjson, as an expert would write it: the least that Python can do.

Workers share one iterator and one session; connector, headers, timeouts and bodies are those
of the fan-out. What it does without: retries, limits, keys, state, progress.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import aiohttp
import orjson
import uvloop
from yarl import URL

from benchmarks.sample import Meter, Sample
from benchmarks.workload import (
    IN_FLIGHT,
    MAX_TOKENS,
    MODEL,
    QUESTION,
    Item,
    lost,
    molecules,
    warm_up,
)
from langgraph_hpc_fanout.runs import garbage

_WARM_UP = 64
_ATTEMPT_SECONDS = 600.0


def ask(
    urls: Sequence[str],
    count: int,
    width: int = IN_FLIGHT,
    *,
    timeout: float = _ATTEMPT_SECONDS,
    relaxed: bool = False,
) -> Sample:
    """Ask about so many items.

    Args:
        urls: Where.
        count: How many items.
        width: How many at a time.
        timeout: Seconds that a call may take.
        relaxed: Whether to set our thresholds for the garbage collector.
    """
    if relaxed:
        garbage.relax()
    uvloop.run(_ask_all(urls, warm_up(_WARM_UP), width, timeout))
    items = molecules(count)
    with Meter(count) as meter:
        answers = uvloop.run(_ask_all(urls, items, width, timeout))
    return replace(meter.sample, lost=lost(answers, count))


async def _ask_all(
    urls: Sequence[str], items: Sequence[Item], width: int, timeout: float
) -> list[str | None]:
    answers: list[str | None] = [None] * len(items)
    targets = [URL(f"{url}/chat/completions") for url in urls]
    waiting = iter(enumerate(items))
    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0),
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=10.0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/json"},
        ) as session,
        asyncio.TaskGroup() as group,
    ):
        for number in range(width):
            target = targets[number % len(targets)]
            group.create_task(_work(session, target, waiting, answers))
    return answers


async def _work(
    session: aiohttp.ClientSession,
    target: URL,
    waiting: Iterator[tuple[int, Item]],
    answers: list[str | None],
) -> None:
    for index, item in waiting:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": QUESTION.format_map(item)}],
            "max_tokens": MAX_TOKENS,
            "stream": False,
        }
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            answers[index] = await _call(session, target, orjson.dumps(body))


async def _call(session: aiohttp.ClientSession, target: URL, body: bytes) -> str:
    async with session.post(target, data=body, allow_redirects=False) as response:
        raw = await response.read()
    response.raise_for_status()
    answer: str = orjson.loads(raw)["choices"][0]["message"]["content"]
    return answer
