"""NodeTime: shares that add up to the time in which there was work."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable
from scripted import in_virtual_time, now

from langgraph_hpc_fanout.dispatch.costs.node_time import NodeTime

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
