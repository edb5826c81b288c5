"""The scheduler alone: neither graph nor HTTP, and endpoints that answer at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar

import uvloop

from benchmarks.contenders.client import Client
from benchmarks.sample import Meter, Sample
from langgraph_hpc_fanout.dispatch.costs.budget import Budget, Purse
from langgraph_hpc_fanout.dispatch.job import Job
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.dispatch.scheduler import Scheduler
from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.endpoints.price import Price
from langgraph_hpc_fanout.endpoints.protocol import Bundling, Health
from langgraph_hpc_fanout.records import Reply, Request, Usage
from langgraph_hpc_fanout.runs import garbage

_ENDPOINTS = 8
_ANSWER = {"choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}]}
_USAGE = Usage(12, 3)
_BODY = {"messages": [{"role": "user", "content": "Is CCO soluble in water?"}], "max_tokens": 16}


def ask(items: int, *, every_feature: bool) -> Sample:
    """Let a scheduler ask for so many items, in input order or with all that it can do."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_ask(items, every_feature=every_feature))


async def _ask(items: int, *, every_feature: bool) -> Sample:
    fleet = [_Instant(f"instant {number}", priced=every_feature) for number in range(_ENDPOINTS)]
    scheduler = Scheduler(fleet, budget=Budget(usd=1e6) if every_feature else None)
    await scheduler.resolve("m")
    client = Client((Request("key", "m", _BODY, 12, 16) for _ in range(items)), items)
    job = (
        Job(
            client,
            "m",
            Retry(),
            require=("on-site",),
            forbid=("cloud",),
            order="longest_first",
            purse=Purse(Budget(tokens=10**12)),
            may_hedge=True,
        )
        if every_feature
        else Job(client, "m", Retry())
    )
    garbage.relax()  # as runs do
    try:
        with Meter(items) as meter:
            scheduler.add(job)
            await client.done.wait()
    finally:
        garbage.restore()
    scheduler.remove(job)
    await scheduler.close()
    return meter.sample


class _Instant:
    """An endpoint that answers at once."""

    models: ClassVar = {"m": "m"}
    bundling = Bundling()
    limits = Limits(concurrency=64)
    tags = frozenset({"on-site"})

    def __init__(self, name: str, *, priced: bool) -> None:
        self.name = name
        self.price = Price(input=0.15, output=0.6) if priced else None

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def probe(self) -> Health:
        return Health(ok=True)

    async def send(self, requests: Sequence[Request]) -> AsyncIterator[Reply]:
        for position, _ in enumerate(requests):
            yield Reply(position, body=_ANSWER, usage=_USAGE)
