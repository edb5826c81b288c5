"""The openai SDK: a client for each endpoint, a task for each item, and a semaphore."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import uvloop
from openai import AsyncOpenAI, DefaultAioHttpClient, OpenAIError

from benchmarks.sample import Meter, Sample
from benchmarks.workload import MAX_TOKENS, MODEL, QUESTION, Item, lost, molecules, warm_up

_WARM_UP = 8


def ask(
    urls: Sequence[str], count: int, width: int, *, timeout: float, aiohttp: bool = False
) -> Sample:
    """Ask about so many items, with the two retries that the SDK makes by default.

    Args:
        urls: Where.
        count: How many items.
        width: How many at a time.
        timeout: Seconds that a call may take.
        aiohttp: Whether to use aiohttp underneath, which the SDK's readme advises for
            concurrency, instead of its default.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        clients = runner.run(_clients(urls, timeout, aiohttp=aiohttp))
        runner.run(_ask_all(clients, warm_up(_WARM_UP), width))
        items = molecules(count)
        with Meter(count) as meter:
            answers = runner.run(_ask_all(clients, items, width))
        runner.run(_close(clients))
    return replace(meter.sample, lost=lost(answers, count))


async def _clients(urls: Sequence[str], timeout: float, *, aiohttp: bool) -> list[AsyncOpenAI]:
    return [
        AsyncOpenAI(
            base_url=url,
            api_key="none",
            timeout=timeout,
            http_client=DefaultAioHttpClient() if aiohttp else None,
        )
        for url in urls
    ]


async def _close(clients: Sequence[AsyncOpenAI]) -> None:
    for client in clients:
        await client.close()


async def _ask_all(
    clients: Sequence[AsyncOpenAI], items: Sequence[Item], width: int
) -> list[str | None]:
    slots = asyncio.Semaphore(width)

    async def ask_one(number: int, item: Item) -> str | None:
        async with slots:
            try:
                answer = await clients[number % len(clients)].chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": QUESTION.format_map(item)}],
                    max_tokens=MAX_TOKENS,
                )
            except OpenAIError:
                return None
            return answer.choices[0].message.content

    return await asyncio.gather(*(ask_one(number, item) for number, item in enumerate(items)))
