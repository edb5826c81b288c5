"""Whatever the fleet does, every item has one outcome or the job is aborted, and all ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import get_args

from hypothesis import given, settings
from hypothesis import strategies as st
from properties import repeatable
from scripted import CoarseLoop, Dispatch, Items, Scripted, fail, most_in_a_window, now

from langgraph_hpc_fanout.dispatch.retry import ACTIONS, Retry
from langgraph_hpc_fanout.endpoints.protocol import Action
from langgraph_hpc_fanout.records import Failure, FailureKind
from langgraph_hpc_fanout.testing.virtual_time import VirtualTimeLoop

# A request is answered with a good body, a failure, or a piece of bad behaviour.
waits = st.none() | st.sampled_from([0.0, 0.0004, 1.0, 7.7, 1000.0])
harmless = [kind for kind in get_args(FailureKind) if ACTIONS[kind] is not Action.ABORT]
failures = st.builds(fail, st.sampled_from(harmless), retry_after=waits)
antics = st.sampled_from(["hang", "end", "twice", "elsewhere", ValueError("x"), KeyError()])
says = st.lists(st.none() | failures | antics, min_size=1, max_size=8)
says_denied = st.lists(st.none() | st.just(fail("auth")), min_size=1, max_size=30)
latencies = st.lists(st.sampled_from([0.0, 0.0003, 0.1, 1.0, 3.3, 40.0]), min_size=1, max_size=4)
healths = st.lists(st.sampled_from([True, True, False, OSError("away")]), max_size=6)
denied = st.lists(st.sampled_from([True, Failure("auth", "401")]), max_size=6)


@dataclass
class Door:
    """How one endpoint behaves; lists are gone through again and again."""

    latencies: list
    says: list
    healths: list
    concurrency: int
    bundle: int
    rates: dict
    models: tuple

    def build(self, name):
        return Scripted(
            name,
            models=self.models,
            latency=lambda call: self.latencies[call.number % len(self.latencies)],
            script=lambda call: self.says[call.number % len(self.says)],
            probe=lambda number: self.healths[number] if number < len(self.healths) else True,
            bundle=self.bundle,
            concurrency=self.concurrency,
            **self.rates,
        )


doors = st.builds(
    Door,
    latencies,
    st.just([None]) | says | says | says | says_denied,
    st.just([]) | st.just([]) | healths | healths | healths | denied,
    concurrency=st.sampled_from([1, 1, 2, 3, 8, 50]),
    bundle=st.sampled_from([1, 1, 1, 2, 8, 40]),
    rates=st.sampled_from(
        [{}, {}, {"requests": "5/s"}, {"tokens": "100/s"}, {"requests": "90/min"}]
    ),
    models=st.sampled_from([("m", "n"), ("m", "n"), ("m",), ("n",)]),
)


@dataclass
class Work:
    """One job, when it comes, and when it is taken back, if it is."""

    count: int
    model: str
    retry: Retry
    item_deadline: float | None
    starts: float
    removed: float | None


works = st.builds(
    Work,
    count=st.integers(0, 60),
    model=st.sampled_from(["m", "m", "n"]),
    retry=st.builds(
        Retry,
        attempts=st.integers(1, 4),
        timeout=st.sampled_from([0.5, 5.0, 60.0]),
        patience=st.sampled_from([0.1, 10.0, 100.0]),
        base=st.sampled_from([0.001, 0.5, 5.0]),
    ),
    item_deadline=st.none() | st.sampled_from([0.2, 3.0, 50.0]),
    starts=st.sampled_from([0.0, 0.0, 2.0, 30.0]),
    removed=st.none() | st.none() | st.sampled_from([0.0, 1.0, 5.0, 60.0]),
)


async def go_through(doors, works):
    """Run the jobs to their ends; returns endpoints and clients."""
    endpoints = [door.build(f"door {number}") for number, door in enumerate(doors)]
    async with Dispatch(*endpoints) as dispatch:
        clients = await asyncio.gather(
            *(one(dispatch, work, f"job {number}/") for number, work in enumerate(works))
        )
        ended = [len(endpoint.calls) for endpoint in endpoints]
        assert not dispatch.scheduler.busy
        await asyncio.sleep(0.001)
        assert [lane.in_flight for lane in dispatch.scheduler.lanes] == [0] * len(endpoints)
        await asyncio.sleep(100.0)
        probes = [len(endpoint.probes) for endpoint in endpoints]
        await asyncio.sleep(2000.0)
        assert [len(endpoint.calls) for endpoint in endpoints] == ended
        assert [len(endpoint.probes) for endpoint in endpoints] == probes
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return endpoints, clients


async def one(dispatch, work, prefix):
    await asyncio.sleep(work.starts)
    items = Items(work.count, model=work.model, prefix=prefix)
    job = dispatch.add(items, retry=work.retry, item_deadline=work.item_deadline)
    items.removed = False
    try:
        async with asyncio.timeout(work.removed):
            await items.done.wait()
    except TimeoutError:
        items.removed = True
    dispatch.scheduler.remove(job)
    items.ended, items.settled = now(), len(items.answers)
    return items


def check_endpoint(door, endpoint):
    assert endpoint.in_flight == 0
    assert endpoint.peak <= door.concurrency
    assert max(map(len, endpoint.bundles), default=0) <= min(door.bundle, door.concurrency)
    assert endpoint.closed == 1
    if (rate := endpoint.limits.requests_per_second) is not None:
        assert most_in_a_window(endpoint.times, 10.0) <= 10 * rate + 1 + 1e-6


def check_items(work, items, endpoints):
    calls = Counter(call.key for endpoint in endpoints for call in endpoint.calls)
    assert len(items.answers) == items.settled, "settled after the end"
    if items.aborted is None and not items.removed:
        assert len(items.answers) == items.count
    for key, answer in items.answers.items():
        assert answer.attempts == calls[key], "an attempt was not counted"
        if answer.kind in ("transient", "timeout") and work.item_deadline is None:
            assert answer.attempts >= work.retry.attempts, "gave up too early"
    sent = [call for endpoint in endpoints for call in endpoint.calls if call.key in items.answers]
    assert all(call.end <= items.ended + 1e-3 for call in sent) or any(
        door.bundling.max_items > 1 for door in endpoints
    )
    if work.item_deadline is not None:
        for key, answer in items.answers.items():
            begun = min(call.at for call in sent if call.key == key)
            assert answer.at <= begun + work.item_deadline + 2e-3


@settings(repeatable, max_examples=300)
@given(
    st.lists(doors, min_size=1, max_size=4),
    st.lists(works, min_size=1, max_size=3),
    st.sampled_from([VirtualTimeLoop, CoarseLoop]),
)
def test_every_item_has_one_outcome_and_all_comes_to_an_end(doors, works, loop):
    with asyncio.Runner(loop_factory=loop) as runner:
        endpoints, clients = runner.run(go_through(doors, works))
    for door, endpoint in zip(doors, endpoints, strict=True):
        check_endpoint(door, endpoint)
    for work, items in zip(works, clients, strict=True):
        check_items(work, items, endpoints)
