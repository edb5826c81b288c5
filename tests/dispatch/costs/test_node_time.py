"""NodeTime and WorkTime: shares that add up to the time in which there was work."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable
from scripted import in_virtual_time, now

from langgraph_hpc_fanout.dispatch.costs.node_time import NodeTime, WorkTime
from langgraph_hpc_fanout.records import Work

spans = st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 600)), min_size=1, max_size=20)


def shares_of(spans):
    """The share of each request, from when it left and how long it took."""
    events = [(start, 1, nth) for nth, (start, _) in enumerate(spans)]
    events += [(start + length, 2, nth) for nth, (start, length) in enumerate(spans)]
    clock, marks, shares = NodeTime(), {}, {}
    for at, what, nth in sorted(events):
        if what == 1:
            marks[nth] = clock.begin(at)
        else:
            shares[nth] = clock.end(marks[nth], at)
    return shares


def busy(spans):
    """Seconds in which at least one was in flight."""
    total, until = 0.0, 0.0
    for start, end in sorted((start, start + length) for start, length in spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


@repeatable
@given(spans)
def test_shares_add_up_to_the_busy_time_and_none_is_longer_than_its_request(spans):
    shares = shares_of(spans)
    assert sum(shares.values()) == pytest.approx(busy(spans), abs=1e-6)
    for nth, (_, length) in enumerate(spans):
        assert -1e-9 <= shares[nth] <= length + 1e-9


def test_two_requests_share_the_time_in_which_both_are_there():
    assert shares_of([(0, 10), (5, 10)]) == {0: 7.5, 1: 7.5}


@in_virtual_time
async def test_requests_on_a_loop_share_its_time():
    clock, shares = NodeTime(), []

    async def request(seconds):
        mark = clock.begin(now())
        await asyncio.sleep(seconds)
        shares.append(clock.end(mark, now()))

    await asyncio.gather(*(request(8.0) for _ in range(4)))
    await request(3.0)
    assert shares == pytest.approx([2.0, 2.0, 2.0, 2.0, 3.0], abs=1e-3)


# -- as workers tell it -----------------------------------------------------------------------

bundles = st.lists(
    st.tuples(st.floats(0, 1000), st.floats(0, 600), st.integers(1, 9), st.floats(0, 5000)),
    min_size=1,
    max_size=20,
)


@repeatable
@given(bundles)
def test_shares_of_bundles_add_up_to_the_time_in_which_workers_worked(bundles):
    """However long they waited before: their work began so many seconds after they were sent."""
    clock, total = WorkTime(), 0.0
    for start, length, requests, waited in sorted(bundles, key=lambda each: each[0] + each[1]):
        work = Work(length, requests)
        shares = [clock.share(work, start - waited, start + length) for _ in range(requests)]
        assert len(set(shares)) == 1
        assert -1e-9 <= sum(shares) <= length + 1e-9
        total += sum(shares)
    assert total == pytest.approx(busy([each[:2] for each in bundles]), abs=1e-6)


def test_two_bundles_that_tell_the_same_are_two():
    clock = WorkTime()
    assert clock.share(Work(10.0, 1), 0.0, 10.0) == 10.0
    assert clock.share(Work(10.0, 1), 0.0, 15.0) == 5.0


@pytest.mark.parametrize(
    ("work", "seconds"), [(Work(1e9, 1), 7.0), (Work(-1.0, 1), 0.0), (Work(4.0, 0), 4.0)], ids=str
)
def test_what_cannot_be_is_not_believed(work, seconds):
    assert WorkTime().share(work, 3.0, 10.0) == seconds
