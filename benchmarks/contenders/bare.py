"""A loop over aiohttp and orjson, as an expert would write it: the least that Python can do.

Workers share one iterator and one session; connector, headers, timeouts and bodies are those
of the fan-out. What it does without: retries, limits, keys, order of failures, state, progress.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import aiohttp
import orjson
import uvloop
from yarl import URL

from benchmarks.sample import Meter, Sample
from benchmarks.workload import IN_FLIGHT, MAX_TOKENS, MODEL, QUESTION, Item, check, molecules
from langgraph_hpc_fanout.runs import garbage

_WARM_UP = 64
_ATTEMPT_SECONDS = 600.0


def ask(
    urls: Sequence[str], count: int, width: int = IN_FLIGHT, *, relaxed: bool = False
) -> Sample:
    """Ask about so many items, so many at a time, with our collector's thresholds if wanted."""
    if relaxed:
        garbage.relax()
    uvloop.run(_ask_all(urls, molecules(_WARM_UP), width))
    items = molecules(count)
    with Meter(count) as meter:
        answers = uvloop.run(_ask_all(urls, items, width))
    check(answers, count)
    return meter.sample


async def _ask_all(urls: Sequence[str], items: Sequence[Item], width: int) -> list[str | None]:
    answers: list[str | None] = [None] * len(items)
    targets = [URL(f"{url}/chat/completions") for url in urls]
    waiting = iter(enumerate(items))
    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0),
            timeout=aiohttp.ClientTimeout(total=_ATTEMPT_SECONDS, sock_connect=10.0),
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
        async with session.post(target, data=orjson.dumps(body), allow_redirects=False) as response:
            raw = await response.read()
        response.raise_for_status()
        answers[index] = orjson.loads(raw)["choices"][0]["message"]["content"]
