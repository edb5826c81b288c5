"""Lanes that fail, freeze or die: they are left alone, and what they had goes elsewhere."""

from __future__ import annotations

import asyncio

import pytest
from scripted import Dispatch, Items, Scripted, ask, fail, in_virtual_time, now

from langgraph_hpc_fanout.dispatch.health import State
from langgraph_hpc_fanout.dispatch.policy import Policy
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.endpoints.protocol import Bundling

NO_JITTER = Retry(attempts=100, base=1e-9, cap=1e-9)


def bad_until(seconds):
    return lambda call: "transient" if call.at < seconds else None


@in_virtual_time
async def test_who_only_fails_is_left_alone_then_tried_with_one_request():
    bad = Scripted("bad", latency=0.1, concurrency=8, script=bad_until(40.0))
    good = Scripted("good", latency=1.0, concurrency=8)
    items = await ask(1_000, bad, good, retry=NO_JITTER)
    assert items.kinds == {None: 1_000}
    early = [moment for moment in bad.times if moment < 30.0]
    assert 5 <= len(early) <= 16, "five faults in a row, and what was in flight then"
    assert len([moment for moment in bad.times if 30.0 < moment < 31.0]) == 1, "on trial"
    assert [moment for moment in bad.times if 31.0 < moment < 90.0] == []
    assert bad.times[-1] > 90.0
    assert bad.peak == 8
    assert items.lanes["bad"] > 200


@in_virtual_time
async def test_who_is_frozen_is_left_alone():
    frozen = Scripted("frozen", concurrency=16, script=lambda call: "hang")
    good = Scripted("good", latency=1.0, concurrency=16)
    items = await ask(2_000, frozen, good, retry=Retry(timeout=20.0, base=1e-9))
    assert items.lanes == {"good": 2_000}
    begun = [moment for moment in frozen.times if moment > 20.1]
    assert begun == pytest.approx([50.0], abs=0.1), "one on trial, after 30 s"
    assert len(frozen.calls) == 16 + 4 + 1, "four were taken before the fifth had timed out"


@pytest.mark.parametrize("kind", ["rate_limited", "overloaded", "permanent"])
@in_virtual_time
async def test_refusals_and_items_faults_eject_nobody(kind):
    a = Scripted("a", script=lambda call: fail(kind, retry_after=0.01) if call.nth == 1 else None)
    b = Scripted("b", models=["other"])
    async with Dispatch(a, b) as dispatch:
        dispatch.add(items := Items(50))
        while not items.done.is_set():
            assert dispatch.lanes["a"].state in (State.COLD, State.HOT)
            await asyncio.sleep(0.1)
    assert sum(items.kinds.values()) == 50


@pytest.mark.parametrize(("share", "most"), [(0.0, 0), (0.5, 2), (1.0, 4)])
@in_virtual_time
async def test_no_more_than_a_share_of_the_pool_is_left_alone(share, most):
    fleet = [Scripted(name, latency=0.1, script=bad_until(10.0)) for name in "abcd"]
    async with Dispatch(*fleet, policy=Policy(ejected=share, retries=10.0)) as dispatch:
        items = Items(400)
        dispatch.add(items, retry=Retry(attempts=10_000, base=0.2, cap=0.2))
        seen = 0
        while not items.done.is_set():
            ejected = [lane.state is State.EJECTED for lane in dispatch.scheduler.lanes]
            seen = max(seen, sum(ejected))
            await asyncio.sleep(0.05)
    assert items.kinds == {None: 400}
    assert seen == most


@in_virtual_time
async def test_a_pool_that_may_be_left_alone_as_a_whole_waits_and_loses_nothing():
    fleet = [Scripted(name, latency=0.1, script=bad_until(25.0)) for name in "abcd"]
    async with Dispatch(*fleet, policy=Policy(ejected=1.0)) as dispatch:
        items = await dispatch.ask(400, retry=Retry(base=0.1))
    assert items.kinds == {None: 400}
    assert 30.0 < now() < 60.0


@in_virtual_time
async def test_an_ejected_lane_that_nobody_wants_is_probed_when_somebody_does():
    bad, good = Scripted("bad", latency=0.1, script=bad_until(5.0)), Scripted("good")
    async with Dispatch(bad, good) as dispatch:
        await dispatch.ask(40, retry=NO_JITTER)
        assert dispatch.lanes["bad"].state is State.EJECTED
        await asyncio.sleep(1_000.0)
        assert len(bad.probes) == 1
        again = await dispatch.ask(Items(40, prefix="again "))
        assert again.lanes["bad"] > 10
        assert len(bad.probes) == 2


@in_virtual_time
async def test_what_a_dead_lane_had_goes_elsewhere_before_its_timeout():
    """Its host is gone: what is in flight there would hang, and a new connection is refused."""
    dead = Scripted("dead", latency=0.5, concurrency=4, probe=lambda number: number == 0)
    dead.script = lambda call: (None, "hang", "hang", "cold")[min(call.number, 3)]
    good = Scripted("good", concurrency=2)
    items = await ask(20, dead, good)
    assert items.kinds == {None: 20}
    assert now() < 15.0
    hung = [call for call in dead.calls if call.cancelled]
    assert len(hung) == 2
    assert [call.end for call in hung] == pytest.approx([2.2] * 2), "the last probe had failed"
    assert {items.answers[call.key].lane for call in hung} == {"good"}


@in_virtual_time
async def test_bundles_in_a_queue_outlive_their_lane():
    queue = Scripted("queue", latency=60.0, bundling=Bundling(4, queues=True), concurrency=8)
    queue.health = lambda number: number == 0
    queue.script = lambda call: "cold" if call.number == 4 else None
    queue.latency = lambda call: 1.0 if call.number == 4 else 60.0
    good = Scripted("good", latency=30.0, concurrency=4)
    items = await ask(12, queue, good)
    assert items.kinds == {None: 12}
    assert items.lanes["queue"] >= 4


@in_virtual_time
async def test_a_storm_of_failures_ends():
    """All fail: beyond what is saved up, there are ten retries a second, whoever fails."""
    a = Scripted("a", latency=0.01, concurrency=1_000, script=bad_until(20.0))
    items = await ask(1_000, a, retry=Retry(attempts=10_000, base=1e-3, cap=1e-3))
    assert items.kinds == {None: 1_000}
    assert len([moment for moment in a.times if moment < 20.0]) < 1_000 + 100 + 20 * 10 + 10
    assert now() < 30.0, "answers pay for the rest"


@in_virtual_time
async def test_an_item_that_waits_for_its_retry_still_has_a_deadline():
    a = Scripted("a", latency=0.01, concurrency=1_000, script=lambda call: "transient")
    items = await ask(1_000, a, retry=Retry(attempts=100, base=1e-3, cap=1e-3), item_deadline=5.0)
    assert items.kinds == {"transient": 1_000}
    assert now() == pytest.approx(5.0, abs=0.1)


@in_virtual_time
async def test_a_job_that_is_removed_forgets_those_that_wait_for_a_retry():
    a = Scripted("a", latency=0.01, concurrency=1_000, script=lambda call: "transient")
    async with Dispatch(a) as dispatch:
        items = Items(1_000)
        job = dispatch.add(items, retry=Retry(attempts=100))
        await asyncio.sleep(2.0)
        dispatch.scheduler.remove(job)
        asked = len(a.calls)
        await asyncio.sleep(100.0)
        assert len(a.calls) == asked


# Being turned away


@in_virtual_time
async def test_a_stray_refusal_holds_up_only_the_request_that_met_it():
    a = Scripted("a", concurrency=16)
    a.script = lambda call: fail("rate_limited", retry_after=5.0) if call.number == 20 else None
    await ask(160, a)
    assert len([moment for moment in a.times if 2.0 < moment < 6.0]) == 16 * 3
    assert now() < 13.0


@in_virtual_time
async def test_refusals_in_a_row_hold_the_whole_lane():
    a = Scripted("a", concurrency=16)
    a.script = lambda call: fail("rate_limited", retry_after=5.0) if 1 < call.at < 3 else None
    await ask(160, a)
    assert [moment for moment in a.times if 3.0 < moment < 7.0 - 1e-3] == []
