"""Who gets which request when: the fan-out's scheduler, and what people write by hand.

All ask the same simulated endpoints in virtual time, so what differs is the choice alone. The
others have as many requests in flight as the endpoints have slots, and ask elsewhere when one
fails.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders.client import Client
from langgraph_hpc_fanout.dispatch.job import Job
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.dispatch.scheduler import Scheduler
from langgraph_hpc_fanout.records import Request
from langgraph_hpc_fanout.testing import virtual_time
from langgraph_hpc_fanout.testing.simulated import SimulatedEndpoint

Fleet = Sequence[SimulatedEndpoint]
Choice = Callable[[Fleet, int, random.Random], SimulatedEndpoint]
"""Where a request goes, by its number, which is another one when it is asked again."""


@dataclass(frozen=True, slots=True)
class Course:
    """What came of asking.

    Attributes:
        ends: When each answer came, in order, in seconds of virtual time.
        cpu: Seconds of CPU, the endpoints' included.
    """

    ends: Sequence[float]
    cpu: float


def by_scheduler(fleet: Fleet, requests: Sequence[Request], seed: int) -> Course:
    """As a pool does."""

    async def ask() -> list[float]:
        scheduler = Scheduler(fleet, random.Random(seed))
        client = Client(requests, len(requests))
        (model,) = fleet[0].models
        job = Job(client, model, Retry(), may_hedge=True)
        scheduler.add(job)
        await client.done.wait()
        scheduler.remove(job)
        await scheduler.close()
        return client.ends

    return _timed(ask)


def by_hand(fleet: Fleet, requests: Sequence[Request], seed: int, choose: Choice) -> Course:
    """As a loop with a semaphore does."""

    async def ask() -> list[float]:
        rng = random.Random(seed)
        numbered = enumerate(requests)
        ends: list[float] = []
        slots = sum(endpoint.slots for endpoint in fleet)
        await asyncio.gather(*(_ask(fleet, numbered, rng, choose, ends) for _ in range(slots)))
        return ends

    return _timed(ask)


async def _ask(
    fleet: Fleet,
    numbered: enumerate[Request],
    rng: random.Random,
    choose: Choice,
    ends: list[float],
) -> None:
    loop = asyncio.get_running_loop()
    for number, request in numbered:
        failed = None
        while True:
            endpoint = choose(fleet, number, rng)
            number += 1  # noqa: PLW2901 - it is asked elsewhere when it fails
            if endpoint is failed:
                continue
            async for reply in endpoint.send((request,)):
                if reply.failure is not None:
                    failed = endpoint
            if endpoint is not failed:
                break
        ends.append(loop.time())


def in_turn(fleet: Fleet, number: int, _rng: random.Random) -> SimulatedEndpoint:
    """`workers[i % n]`."""
    return fleet[number % len(fleet)]


def at_random(fleet: Fleet, _number: int, rng: random.Random) -> SimulatedEndpoint:
    """Any."""
    return rng.choice(fleet)


def of_two(fleet: Fleet, _number: int, rng: random.Random) -> SimulatedEndpoint:
    """The less busy of any two (Mitzenmacher, 1996)."""
    one, other = rng.choice(fleet), rng.choice(fleet)
    return one if one.in_flight <= other.in_flight else other


def _timed(ask: Callable[[], Coroutine[Any, Any, list[float]]]) -> Course:
    begun = time.process_time()
    ends = virtual_time.run(ask)
    return Course(sorted(ends), time.process_time() - begun)
