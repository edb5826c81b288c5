"""What is late is asked a second time when there is nothing else to do; one answer counts."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import repeatable
from scripted import Dispatch, Items, Scripted, in_virtual_time, now

from langgraph_hpc_fanout.dispatch.hedging import HedgeBudget
from langgraph_hpc_fanout.dispatch.policy import Policy
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.endpoints.protocol import Bundling
from langgraph_hpc_fanout.testing.virtual_time import run

GENEROUS = Policy(hedging=1.0)


async def ask(count, *endpoints, policy=GENEROUS, **options):
    async with Dispatch(*endpoints, policy=policy) as dispatch:
        items = await dispatch.ask(count, may_hedge=True, **options)
        await asyncio.sleep(0.001)
        assert [lane.in_flight for lane in dispatch.scheduler.lanes] == [0] * len(endpoints)
    return items


def asked_twice(*endpoints):
    calls = Counter(call.key for endpoint in endpoints for call in endpoint.calls)
    return {key for key, count in calls.items() if count > 1}


def pair(seconds=500.0, *, hangs=False, says=None):
    """Two endpoints; the thirty-first request at the first takes long, and says this."""
    a = Scripted("a", latency=lambda call: seconds if call.number == 30 else 1.0)
    a.script = lambda call: ("hang" if hangs else says) if call.number == 30 else None
    return a, Scripted("b", latency=1.1)


def test_hedges_are_paid_for_by_answers():
    budget = HedgeBudget(0.02)
    assert budget.is_on
    assert not budget.take(1.0)
    budget.answered(1_000)
    assert budget.take(15.0)
    assert not budget.take(15.0)
    assert budget.take(5.0)
    assert not HedgeBudget(0.0).is_on


@in_virtual_time
async def test_a_straggler_is_asked_elsewhere_and_the_first_answer_counts():
    a, b = pair(hangs=True)
    items = await ask(100, a, b, retry=Retry(timeout=600.0))
    assert items.kinds == {None: 100}
    assert now() < 20.0, "it did not wait for the timeout"
    answer = items.answers[a.calls[30].key]
    assert (answer.lane, answer.attempts) == ("b", 2)


@in_virtual_time
async def test_the_loser_is_cancelled():
    a, b = pair()
    items = await ask(100, a, b)
    slow = a.calls[30]
    assert slow.cancelled
    assert slow.end == pytest.approx(items.answers[slow.key].at)
    assert now() < 20.0


@in_virtual_time
async def test_without_a_second_lane_there_is_none():
    a, _ = pair()
    items = await ask(100, a)
    assert items.kinds == {None: 100}
    assert asked_twice(a) == set()


@pytest.mark.parametrize("policy", [Policy(hedging=0.0), Policy(hedging=0.001)])
@in_virtual_time
async def test_no_more_is_spent_than_allowed(policy):
    a, b = pair(50.0)
    await ask(100, a, b, policy=policy)
    assert asked_twice(a, b) == set()
    assert now() > 50.0


@in_virtual_time
async def test_a_client_that_does_not_let_it_be_has_none():
    a, b = pair(50.0)
    async with Dispatch(a, b, policy=GENEROUS) as dispatch:
        await dispatch.ask(100)
    assert asked_twice(a, b) == set()


@in_virtual_time
async def test_nothing_is_hedged_while_other_items_wait():
    a, b = pair(60.0)
    items = await ask(400, a, b)
    key = a.calls[30].key
    (second,) = b.calls_of(key)
    assert items.kinds == {None: 400}
    assert second.at >= max(call.at for call in a.calls) > 40.0


@in_virtual_time
async def test_a_slow_endpoint_is_no_help():
    a, _ = pair()
    slow, quick = Scripted("slow", latency=5.0), Scripted("quick", concurrency=1)
    items = await ask(200, a, slow, quick)
    answer = items.answers[a.calls[30].key]
    assert (answer.lane, answer.attempts) == ("quick", 2)


@in_virtual_time
async def test_a_lane_on_trial_is_no_help():
    a, _ = pair(hangs=True)
    ill = Scripted("ill", script=lambda call: "transient", latency=0.1)
    async with Dispatch(a, ill, policy=GENEROUS) as dispatch:
        asked = asyncio.ensure_future(
            dispatch.ask(100, may_hedge=True, retry=Retry(timeout=300.0, attempts=50))
        )
        await asyncio.sleep(200.0)
        assert dispatch.lanes["ill"].condition.on_trial
        assert ill.calls_of(a.calls[30].key) == []
        asked.cancel()


@in_virtual_time
async def test_what_a_slow_endpoint_has_at_the_end_is_asked_elsewhere_at_once():
    slow, quick = Scripted("slow", latency=10.0), Scripted("quick")
    await ask(200, slow, quick)
    twice = asked_twice(slow, quick)
    assert twice
    drained = max(call.at for call in quick.calls if call.key not in twice)
    for key in twice:
        (first,), (second,) = slow.calls_of(key), quick.calls_of(key)
        assert first.cancelled
        assert second.at < drained + 1.5, "95 % take up to ten seconds"


@in_virtual_time
async def test_what_is_only_long_is_left_where_it_is():
    a = Scripted("a", latency=lambda call: 1.9 if call.number == 199 else 1.0)
    b = Scripted("b", latency=1.0, concurrency=1)
    await ask(250, a, b)
    assert a.calls[199].end is not None
    assert asked_twice(a, b) == set(), "1.9 s is late, but the endpoint is well"


@in_virtual_time
async def test_who_has_answered_before_is_asked_before_a_stranger():
    a, well = pair(hangs=True)
    strangers = [Scripted(f"stranger {n}", latency=1_000.0, concurrency=1) for n in range(3)]
    items = await ask(100, a, well, *strangers)
    assert items.answers[a.calls[30].key].lane == "b"
    assert [len(each.calls) for each in strangers] == [1, 1, 1]


@in_virtual_time
async def test_what_waits_in_a_queue_is_not_late():
    queue = Scripted("queue", latency=200.0, bundling=Bundling(4, queues=True))
    b = Scripted("b", concurrency=2)
    items = await ask(60, queue, b)
    assert items.lanes["queue"] >= 4
    assert asked_twice(queue, b) == set()


@in_virtual_time
async def test_when_both_fail_the_item_is_tried_again():
    a, b = pair(40.0, says="transient")
    b.script = lambda call: "transient" if call.key == a.calls[30].key and call.at < 60 else None
    b.latency = lambda call: 40.0 if len(a.calls) > 30 and call.key == a.calls[30].key else 1.1
    items = await ask(100, a, b, retry=Retry(base=1e-6))
    assert items.kinds == {None: 100}
    assert items.answers[a.calls[30].key].attempts == 3


@in_virtual_time
async def test_an_items_own_fault_ends_both():
    a, b = pair()
    b.script = lambda call: (
        "permanent" if len(a.calls) > 30 and call.key == a.calls[30].key else None
    )
    items = await ask(100, a, b)
    assert items.kinds == {None: 99, "permanent": 1}
    assert now() < 50.0


@in_virtual_time
async def test_a_job_that_is_removed_takes_both_with_it():
    a, b = pair()
    b.latency = lambda call: 500.0 if len(a.calls) > 30 and call.key == a.calls[30].key else 1.1
    async with Dispatch(a, b, policy=GENEROUS) as dispatch:
        job = dispatch.add(Items(100), may_hedge=True)
        await asyncio.sleep(100.0)
        assert (a.in_flight, b.in_flight) == (1, 1)
        dispatch.scheduler.remove(job)
        await asyncio.sleep(0.001)
        assert (a.in_flight, b.in_flight) == (0, 0)


says = st.lists(
    st.sampled_from([None] * 6 + ["transient", "hang", "permanent", "cold", "rate_limited", "end"]),
    min_size=1,
    max_size=12,
)
latencies = st.lists(st.sampled_from([0.1, 1.0, 1.0, 1.0, 30.0]), min_size=1, max_size=7)


@settings(repeatable, max_examples=150)
@given(
    st.lists(st.tuples(says, latencies, st.sampled_from([1, 3, 20])), min_size=2, max_size=4),
    st.integers(1, 80),
    st.sampled_from([None, 20.0]),
)
def test_every_item_has_one_outcome_and_every_attempt_is_counted(doors, count, deadline):
    def scripted(number, says, latencies, concurrency):
        return Scripted(
            f"door {number}",
            script=lambda call: says[call.number % len(says)],
            latency=lambda call: latencies[call.number % len(latencies)],
            concurrency=concurrency,
        )

    fleet = [scripted(number, *door) for number, door in enumerate(doors)]
    retry = Retry(attempts=4, timeout=60.0, patience=100.0, base=0.1)

    async def main():
        items = await ask(count, *fleet, retry=retry, item_deadline=deadline)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return items

    items = run(main())
    calls = Counter(call.key for endpoint in fleet for call in endpoint.calls)
    if items.aborted is None:
        assert len(items.answers) == count
        for key, answer in items.answers.items():
            assert answer.attempts == calls[key]
    for endpoint, (_, _, concurrency) in zip(fleet, doors, strict=True):
        assert endpoint.in_flight == 0
        assert endpoint.peak <= concurrency
