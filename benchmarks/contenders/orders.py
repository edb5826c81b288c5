"""Endpoints for which the order of requests matters, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from benchmarks.contenders.client import Client
from langgraph_hpc_fanout.dispatch.job import Job
from langgraph_hpc_fanout.dispatch.ordering import Order
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.dispatch.scheduler import Scheduler
from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.endpoints.protocol import Bundling, Health
from langgraph_hpc_fanout.records import Reply, Request, Usage
from langgraph_hpc_fanout.testing import virtual_time

_ANSWER = {"choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}]}
_TOKENS_A_SECOND = 50.0
_PREFILL_SECONDS = 4.0
_DECODE_SECONDS = 2.0
_CACHED = 64


@dataclass(frozen=True, slots=True)
class Course:
    """What came of asking.

    Attributes:
        seconds: Until the last answer, of virtual time.
        read: Prompts that no cache had.
    """

    seconds: float
    read: int


def uneven(order: Order, endpoints: int, items: int, seed: int) -> Course:
    """Items of very different lengths, on endpoints that are all alike."""
    rng = random.Random(seed)
    tokens = [round(rng.lognormvariate(5.5, 0.8)) for _ in range(items)]
    return _ask(
        [_Endpoint(f"node {number}", 16) for number in range(endpoints)],
        [Request(str(index), "m", {"messages": []}, each) for index, each in enumerate(tokens)],
        order,
        lambda request, _: request.prompt_tokens / _TOKENS_A_SECOND,
    )


def papers(order: Order, endpoints: int, count: int, questions: int) -> Course:
    """Several questions about each paper, on endpoints that remember what they read last."""
    requests = [
        Request(
            f"{paper}/{question}",
            "m",
            {"messages": [{"role": "user", "content": f"Paper {paper}. " + "x" * 2_000}]},
            1_000,
        )
        for paper in range(count)
        for question in range(questions)
    ]

    def seconds(request: Request, endpoint: _Endpoint) -> float:
        paper = request.key.partition("/")[0]
        return _DECODE_SECONDS + (0.0 if endpoint.remembers(paper) else _PREFILL_SECONDS)

    fleet = [_Endpoint(f"node {number}", 16) for number in range(endpoints)]
    return _ask(fleet, requests, order, seconds)


class _Endpoint:
    """Takes as long as it is told, and remembers a few papers."""

    bundling = Bundling()
    models: ClassVar = {"m": "m"}

    def __init__(self, name: str, slots: int) -> None:
        self.name = name
        self.limits = Limits(concurrency=slots)
        self.read = 0
        self.seconds: Callable[[Request, _Endpoint], float] = _no_time
        self._papers: OrderedDict[str, None] = OrderedDict()

    def remembers(self, paper: str) -> bool:
        """Whether it has read this lately; from now on it has."""
        known = paper in self._papers
        self._papers[paper] = None
        self._papers.move_to_end(paper)
        if len(self._papers) > _CACHED:
            self._papers.popitem(last=False)
        self.read += not known
        return known

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def probe(self) -> Health:
        return Health(ok=True)

    async def send(self, requests: Sequence[Request]) -> AsyncIterator[Reply]:
        for position, request in enumerate(requests):
            await asyncio.sleep(self.seconds(request, self))
            yield Reply(position, body=_ANSWER, usage=Usage(request.prompt_tokens, 10))


def _no_time(_request: Request, _endpoint: _Endpoint) -> float:
    return 0.0


def _ask(
    fleet: Sequence[_Endpoint],
    requests: Sequence[Request],
    order: Order,
    seconds: Callable[[Request, _Endpoint], float],
) -> Course:
    async def ask() -> float:
        for endpoint in fleet:
            endpoint.seconds = seconds
        scheduler = Scheduler(fleet, random.Random(1))
        client = Client(requests, len(requests))
        job = Job(client, "m", Retry(), order=order)
        scheduler.add(job)
        await client.done.wait()
        end = asyncio.get_running_loop().time()
        scheduler.remove(job)
        await scheduler.close()
        return end

    return Course(virtual_time.run(ask), sum(endpoint.read for endpoint in fleet))
