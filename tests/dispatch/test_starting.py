"""Endpoints that are on their way: waited for, and no item's fault."""

from __future__ import annotations

import asyncio

import pytest
from scripted import Dispatch, Items, Scripted, ask, in_virtual_time, most_in_a_window, now

from langgraph_hpc_fanout.dispatch.health import Condition, State
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.endpoints.protocol import Health
from langgraph_hpc_fanout.records import Failure

COLD_START = 720.0


def starting(until, since=0.0):
    """The probe of a model that is being loaded up to a time."""

    def probe(number):
        if since <= now() < until:
            failure = Failure("cold", "The model is queued.", None, True)
            return Health(ok=False, failure=failure, retry_after=60.0)
        return Health(ok=True)

    return probe


def test_it_is_never_given_up():
    condition = Condition()
    health = Health(ok=False, failure=Failure("cold", "Queued.", None, True), retry_after=60.0)
    assert [condition.probed(health) for _ in range(100)] == [60.0] * 100
    assert condition.state is State.STARTING
    assert condition.may_recover
    assert condition.wake(), "whoever comes later has it probed again"
    assert condition.probed(Health(ok=False, failure=None)) == 0.2, "no more on its way"
    assert condition.probed(Health(ok=True)) is None
    assert condition.is_hot


def test_a_wait_of_no_time_is_no_storm_of_probes():
    assert Condition().probed(Health(ok=False, retry_after=-1.0)) == 0.2


@in_virtual_time
async def test_a_run_waits_for_the_only_endpoint_however_long():
    slow = Scripted("slow", probe=starting(COLD_START))
    items = await ask(20, slow, retry=Retry(patience=10.0), item_deadline=5.0)
    assert items.kinds == {None: 20}
    assert slow.probes == [60.0 * minute for minute in range(13)]
    assert min(slow.times) == COLD_START


@in_virtual_time
async def test_meanwhile_others_work():
    slow, fast = Scripted("slow", probe=starting(COLD_START)), Scripted("fast")
    items = await ask(4_000, slow, fast)
    assert items.kinds == {None: 4_000}
    assert min(fast.times) == 0.0
    assert min(slow.times) == COLD_START
    assert items.lanes["fast"] > items.lanes["slow"] > 400


@in_virtual_time
async def test_items_that_found_it_gone_have_all_their_time_when_it_is_back():
    leaves, back = 10.0, 10.0 + COLD_START
    a = Scripted(
        "a",
        probe=starting(back, since=leaves),
        script=lambda call: "cold" if leaves <= call.at < back else None,
    )
    items = await ask(100, a, retry=Retry(patience=30.0), item_deadline=3.0)
    assert items.kinds == {None: 100}
    assert [time for time in a.times if leaves < time < back] == [], "one look tells enough"
    assert now() > back + 10


@in_virtual_time
async def test_what_a_job_waits_for_is_told_in_words():
    a = Scripted("a", probe=starting(COLD_START))
    b = Scripted("b", models=["other"])
    async with Dispatch(a, b) as dispatch:
        job = dispatch.add(items := Items(3))
        await asyncio.sleep(1.0)
        assert job.waiting_for == "The model is queued."
        later = dispatch.add(Items(1))
        assert later.waiting_for == "The model is queued."
        await items.done.wait()
        assert job.waiting_for is None


@in_virtual_time
async def test_who_waits_for_one_that_is_gone_says_so():
    a = Scripted("a", script=lambda call: "cold" if 5 <= call.at < 50 else None)
    a.health = lambda number: not 5 <= now() < 50
    async with Dispatch(a) as dispatch:
        job = dispatch.add(items := Items(100))
        await asyncio.sleep(20.0)
        assert job.waiting_for == "No endpoint can be used: a is away."
        await items.done.wait()
        assert job.waiting_for is None
    assert items.kinds == {None: 100}


@in_virtual_time
async def test_nobody_is_probed_for_nobody():
    a = Scripted("a", probe=starting(COLD_START))
    async with Dispatch(a) as dispatch:
        job = dispatch.add(Items(1))
        await asyncio.sleep(130.0)
        dispatch.scheduler.remove(job)
        await asyncio.sleep(1_000.0)
        assert a.probes == [0.0, 60.0, 120.0, 180.0], "the last was waited for already"
        dispatch.add(items := Items(1))
        await items.done.wait()
        assert a.probes[4:] == [1130.0]


@in_virtual_time
async def test_who_only_wants_to_know_whom_to_ask_waits_no_longer_than_it_takes_to_know():
    a = Scripted("a", models=["m"], probe=starting(COLD_START))
    async with Dispatch(a) as dispatch:
        assert await dispatch.scheduler.resolve("m") == "m"
        assert now() == 0.0
        assert await dispatch.scheduler.resolve(None) == "m"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(COLD_START - 1):
                await dispatch.scheduler.resolve("other")


@in_virtual_time
async def test_limits_may_come_with_the_probe():
    a = Scripted("a", latency=0.1)

    def probe(number):
        a.limits = Limits(concurrency=2, requests="1/s")
        return True

    a.health = probe
    await ask(20, a)
    assert a.peak <= 2
    assert a.times[-1] >= 18.0


@in_virtual_time
async def test_endpoints_are_held_to_a_rate_that_they_share():
    shared = {"requests": "10/s", "shared": "the gateway's, by user", "concurrency": 20}
    a, b = Scripted("a", **shared), Scripted("b", **shared)
    alone = Scripted("alone", models=["other"], requests="10/s", concurrency=20)
    async with Dispatch(a, b, alone) as dispatch:
        dispatch.add(both := Items(100))
        dispatch.add(one := Items(100, model="other"))
        await asyncio.gather(both.done.wait(), one.done.wait())
    assert most_in_a_window(a.times + b.times, 1.0) <= 11
    assert max(a.times + b.times) == pytest.approx(max(alone.times), abs=0.2)
    assert min(len(a.calls), len(b.calls)) > 20


@in_virtual_time
async def test_one_shared_rate_is_one_number():
    a, b = (
        Scripted(name, requests=rate, shared="x") for name, rate in (("a", "1/s"), ("b", "2/s"))
    )
    with pytest.raises(
        ValueError, match="share the rate 'x', but one allows 1/s and the other 2/s"
    ):
        Dispatch(a, b)


def test_a_shared_rate_is_a_rate():
    with pytest.raises(ValueError, match="needs requests="):
        Limits(concurrency=2, shared="x")
    assert Limits(requests="1/s", shared="x").describe().endswith("1/s requests (shared: x)")
