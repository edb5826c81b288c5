"""Lanes that gather many requests for one bundle, beside lanes that take them one by one."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable
from scripted import Dispatch, Items, Scripted, ask, fail, in_virtual_time, now

from langgraph_hpc_fanout.dispatch.costs.budget import Budget
from langgraph_hpc_fanout.dispatch.policy import Policy
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.endpoints.protocol import Bundling, Health
from langgraph_hpc_fanout.records import Failure
from langgraph_hpc_fanout.testing.virtual_time import run

MOST = 100_000


def bulk(name="batch", *, latency=1_000.0, least=100, share=0.8, most=MOST, **options):
    bundling = Bundling(most, max_bundles=1, linger=1.0, queues=True, least=least, share=share)
    return Scripted(name, latency=latency, concurrency=MOST, bundling=bundling, **options)


def live(name="live", **options):
    return Scripted(name, **{"latency": 1.0, "concurrency": 4, **options})


def sizes(endpoint):
    return [len(calls) for calls in endpoint.bundles]


class Slowly(Items):
    """A client whose requests are made in portions, as items are read from a file."""

    def __init__(self, count, portion=50, pause=0.02):
        super().__init__(count)
        self._portion, self._pause, self._there = portion, pause, portion

    def feed(self, most):
        tickets = super().feed(min(most, self._there))
        self._there -= len(tickets)
        if not tickets and self.keys:
            asyncio.get_running_loop().call_later(self._pause, self._more)
        return tickets

    def _more(self):
        self._there = self._portion
        self.refresh()


@in_virtual_time
async def test_alone_it_takes_everything_in_one_bundle():
    batch = bulk()
    items = await ask(5_000, batch)
    assert items.kinds == {None: 5_000}
    assert sizes(batch) == [5_000]


@in_virtual_time
async def test_a_bundle_is_gathered_while_items_are_read():
    batch, items = bulk(), Slowly(5_000)
    async with Dispatch(batch) as dispatch:
        job = dispatch.add(items)
        items.refresh = lambda: dispatch.scheduler.refresh(job)
        await items.done.wait()
    assert items.kinds == {None: 5_000}
    assert sizes(batch) == [5_000]


@in_virtual_time
async def test_it_takes_the_bulk_and_live_lanes_the_rest():
    batch, other = bulk(latency=300.0), live()
    items = await ask(2_000, batch, other)
    assert items.kinds == {None: 2_000}
    assert sizes(batch)[0] == pytest.approx(1_600, abs=16)
    assert items.lanes["live"] >= 400
    assert now() < 310


@in_virtual_time
async def test_it_takes_its_share_again_of_what_is_left():
    batch, other = bulk(latency=50.0), live(concurrency=1)
    items = await ask(2_000, batch, other)
    assert items.kinds == {None: 2_000}
    first, second, *_ = sizes(batch)
    assert first > second >= 100
    assert min(sizes(batch)) >= 80, "a share of the least that is worth while"


@in_virtual_time
async def test_few_are_left_to_live_lanes():
    batch, other = bulk(least=100), live()
    items = await ask(99, batch, other)
    assert items.lanes == {"live": 99}
    assert not batch.bundles


@in_virtual_time
async def test_few_are_taken_where_nobody_else_serves_them():
    batch, other = bulk(least=100), live(models=["n"])
    items = await ask(7, batch, other)
    assert items.lanes == {"batch": 7}
    assert sizes(batch) == [7]


@in_virtual_time
async def test_few_are_taken_when_a_lane_that_opens_late_does_not_serve_them():
    async def well():
        await asyncio.sleep(5.0)
        return True

    batch, other = bulk(least=100), live(models=["n"], probe=lambda _: well())
    items = await ask(7, batch, other)
    assert items.lanes == {"batch": 7}


@in_virtual_time
async def test_few_are_taken_when_the_live_lane_comes_back_with_another_model():
    async def swapped():
        await asyncio.sleep(5.0)
        other.served = {"n": "n"}
        return True

    batch = bulk(least=100)
    other = live(probe=lambda number: swapped() if number else True, script=lambda call: "cold")
    items = await ask(7, batch, other)
    assert items.lanes == {"batch": 7}


@in_virtual_time
async def test_few_are_taken_when_the_live_lane_dies():
    batch = bulk(least=100)
    other = live(probe=lambda number: number < 1, script=lambda call: "cold")
    items = await ask(7, batch, other)
    assert items.lanes == {"batch": 7}


@in_virtual_time
async def test_few_wait_for_a_live_lane_that_is_on_its_way():
    loading = Health(ok=False, failure=Failure("cold", "It is being loaded."), retry_after=60.0)
    batch, other = bulk(least=100), live(probe=lambda number: loading if number < 3 else True)
    items = await ask(7, batch, other)
    assert items.lanes == {"live": 7}
    assert now() > 180


@in_virtual_time
async def test_single_retries_go_to_live_lanes():
    is_missing = lambda call: "transient" if call.number % 100 == 0 else None  # noqa: E731
    batch, other = bulk(latency=10.0, least=300, script=is_missing), live(latency=100.0)
    items = await ask(1_000, batch, other)
    assert items.kinds == {None: 1_000}
    retried = {key for key, answer in items.answers.items() if answer.attempts == 2}
    assert retried
    assert {items.answers[key].lane for key in retried} == {"live"}
    assert len(batch.bundles) == 1


@in_virtual_time
async def test_a_bundle_that_fails_is_tried_again_as_a_whole():
    """It costs each request an attempt, but neither retries of the budget nor the lane."""
    again = fail("transient", "The batch failed.", retry_after=60.0)
    batch = bulk(latency=10.0, script=lambda call: again if call.bundle == 0 else None)
    items = await ask(5_000, batch, retry=Retry(attempts=2))
    assert items.kinds == {None: 5_000}
    assert {answer.attempts for answer in items.answers.values()} == {2}
    assert sizes(batch) == [5_000, 5_000]


@in_virtual_time
async def test_a_bundle_that_is_not_taken_costs_no_patience():
    """Live lanes have all the time they need for the rest of it."""
    batch = bulk(
        script=lambda call: "cold", latency=1.0, probe=lambda number: number == 0 or number > 99
    )
    items = await ask(4_000, batch, live(), retry=Retry(patience=5.0, attempts=1))
    assert items.kinds == {None: 4_000}
    assert items.lanes == {"live": 4_000}
    assert now() > 900


@pytest.mark.parametrize("count", [1_000, 90], ids=["while it is busy", "while it is idle"])
@in_virtual_time
async def test_what_is_in_a_batch_is_not_hedged_and_a_batch_is_no_hedge(count):
    batch = bulk(latency=5_000.0)
    late = live("late", latency=lambda call: 500.0 if call.number == 60 else 1.0)
    async with Dispatch(batch, late, policy=Policy(hedging=1.0)) as dispatch:
        items = await dispatch.ask(count, may_hedge=True)
    assert items.kinds == {None: count}
    asked = Counter(call.key for endpoint in (batch, late) for call in endpoint.calls)
    assert set(asked.values()) == {1}


@in_virtual_time
async def test_a_hedge_that_waits_for_a_rate_is_in_no_batch():
    batch = bulk(models=["m", "n"])
    late = live("late", latency=lambda call: 500.0 if call.number == 60 else 1.0)
    quick = live("quick", requests="6/min")
    async with Dispatch(batch, late, quick, policy=Policy(hedging=1.0)) as dispatch:
        items, others = Items(90), Items(20, model="n", prefix="n")
        job = dispatch.add(items, may_hedge=True)
        while not any(ticket.twin for ticket in job.in_flight):
            await asyncio.sleep(0.05)
        dispatch.add(others)
        await asyncio.gather(items.done.wait(), others.done.wait())
    assert {call.key for call in batch.calls} == set(others.answers)


@in_virtual_time
async def test_a_job_that_ends_while_a_bundle_is_gathered_sends_nothing():
    batch, items = bulk(), Slowly(5_000)
    async with Dispatch(batch) as dispatch:
        job = dispatch.add(items)
        items.refresh = lambda: dispatch.scheduler.refresh(job)
        await asyncio.sleep(1.5)
        assert job.in_flight
        assert not batch.bundles
        dispatch.scheduler.remove(job)
        await asyncio.sleep(10.0)
        assert not batch.bundles
        other = await dispatch.ask(20)
    assert other.kinds == {None: 20}


@in_virtual_time
async def test_what_a_lane_has_gathered_when_it_leaves_is_for_others():
    batch, items = bulk(), Slowly(500)
    async with Dispatch(batch, live(), budget=Budget(requests=500)) as dispatch:
        job = dispatch.add(items)
        items.refresh = lambda: dispatch.scheduler.refresh(job)
        await asyncio.sleep(1.05)
        assert len(job.in_flight) > 4
        dispatch.scheduler.leave(dispatch.lanes["batch"])
        await items.done.wait()
        assert dispatch.scheduler.cashier.purse.spent.requests == 500
    assert items.kinds == {None: 500}
    assert not batch.bundles


@repeatable
@given(
    count=st.integers(1, 400),
    least=st.integers(2, 300),
    share=st.sampled_from([0.1, 0.5, 0.8, 1.0]),
    most=st.integers(2, 500),
    lives=st.integers(0, 2),
    faulty=st.booleans(),
)
def test_everything_is_answered_whatever_the_sizes(count, least, share, most, lives, faulty):
    def script(call):
        return "transient" if faulty and call.nth == 1 and call.number % 3 == 0 else None

    async def answered():
        batch = bulk(latency=30.0, least=least, share=share, most=most, script=script)
        others = [live(f"live {number}", script=script) for number in range(lives)]
        items = await ask(count, batch, *others)
        assert items.kinds == {None: count}
        assert all(size <= most for size in sizes(batch))

    run(answered())
