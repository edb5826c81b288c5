"""Rates: nothing passes that the limits forbid, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import math
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from properties import repeatable
from scripted import in_virtual_time

from langgraph_hpc_fanout import Limits
from langgraph_hpc_fanout.dispatch.pacing.bucket import TokenBucket
from langgraph_hpc_fanout.dispatch.pacing.gate import Gate

# -- the token bucket -------------------------------------------------------------------------

rates = st.floats(0.1, 1e5)
capacities = st.floats(0.1, 1e5)
gaps = st.floats(0, 100) | st.just(0.0)


@st.composite
def traffic(draw):
    """A bucket's rate and capacity, and requests: the pause before each, and its tokens."""
    rate, capacity = draw(rates), draw(capacities)
    amounts = st.floats(0, 3).map(lambda share: share * capacity)
    start = draw(st.sampled_from([0.0, 1.0, 12345.678, 1e7]))
    return rate, capacity, start, draw(st.lists(st.tuples(gaps, amounts), max_size=15))


def pass_through(bucket, now, requests):
    """Let requests through one after another; returns when each left, and its tokens.

    The clock ticks: it goes on by at least its smallest step while somebody waits.
    """
    left = []
    for gap, amount in requests:
        now += gap
        for _ in range(5):
            delay = bucket.delay(now, amount)
            if delay == 0:
                break
            now = max(now + delay, math.nextafter(now, math.inf))
        else:
            raise AssertionError(f"waits for ever for {amount} of {bucket}")
        bucket.charge(now, amount)
        left.append((now, amount))
    return left


@repeatable
@given(traffic())
def test_no_more_passes_in_any_time_than_the_rate_the_capacity_and_one_oversize(drawn):
    rate, capacity, start, requests = drawn
    left = pass_through(TokenBucket(rate, capacity, start), start, requests)
    oversize = max((amount - capacity for _, amount in left), default=0.0)
    for first in range(len(left)):
        total = 0.0
        for when, amount in left[first:]:
            total += amount
            allowed = rate * (when - left[first][0]) + capacity + max(0.0, oversize)
            assert total <= allowed + 1e-6 * (capacity + rate)


@repeatable
@given(traffic())
def test_nobody_waits_longer_than_it_takes_to_pay_the_debt_and_fill_the_bucket(drawn):
    rate, capacity, now, requests = drawn
    bucket = TokenBucket(rate, capacity, now)
    largest = capacity
    for gap, amount in requests:
        now += gap
        delay = bucket.delay(now, amount)
        assert 0 <= delay <= (largest / rate) * (1 + 1e-9) + 1e-6
        ((now, _),) = pass_through(bucket, now, [(0.0, amount)])
        largest = max(largest, amount)


@repeatable
@given(
    st.sampled_from([0.0, 10.0, 3600.0, 1e7]),
    st.sampled_from([100.0, 1000.0, 50000 / 60]),
    st.lists(st.integers(1, 2000), min_size=1, max_size=8),
)
@example(0.0, 50000 / 60, [487, 1188, 1120, 268, 754, 1214])
def test_nobody_waits_for_ever_on_a_clock_that_moves_only_by_delays(now, rate, amounts):
    bucket = TokenBucket(rate, rate, now)
    for amount in amounts:
        while (delay := bucket.delay(now, amount)) > 0:
            assert now + delay > now, f"{bucket} asks for a delay of {delay} s at {now} s"
            now += delay
        bucket.charge(now, amount)


@repeatable
@given(rates, st.floats(0, 1), st.floats(0, 1), st.floats(0, 2))
def test_settling_is_as_if_the_truth_had_been_charged(rate, charged, used, wanted):
    settled, honest = TokenBucket(rate, 100.0, 0.0), TokenBucket(rate, 100.0, 0.0)
    settled.charge(0.0, charged * 100)
    settled.settle(0.0, charged * 100, used * 100)
    honest.charge(0.0, used * 100)
    for now in (0.0, 10 / rate, 1000 / rate):
        expected = honest.delay(now, wanted * 100)
        assert settled.delay(now, wanted * 100) == pytest.approx(expected, abs=1e-9 + 1e-9 / rate)


def test_a_full_bucket_lets_its_capacity_through_at_once():
    bucket = TokenBucket(10.0, 100.0, 5.0)
    assert bucket.delay(5.0, 100.0) == 0.0
    bucket.charge(5.0, 100.0)
    assert bucket.delay(5.0, 1.0) == pytest.approx(0.1)
    assert bucket.delay(10.0, 51.0) == pytest.approx(0.1)
    assert bucket.delay(10.0, 50.0) == 0.0


def test_a_request_larger_than_the_bucket_waits_until_it_is_full_and_leaves_a_debt():
    bucket = TokenBucket(10.0, 100.0, 0.0)
    bucket.charge(0.0, 60.0)
    assert bucket.delay(0.0, 1000.0) == pytest.approx(6.0)
    assert bucket.delay(6.0, 1000.0) == 0.0
    bucket.charge(6.0, 1000.0)
    assert bucket.delay(6.0, 1.0) == pytest.approx(90.1)
    assert bucket.delay(96.2, 1.0) == 0.0


def test_a_refund_saves_up_no_more_than_the_capacity_and_itself():
    bucket = TokenBucket(10.0, 100.0, 0.0)
    for _ in range(3):
        bucket.settle(0.0, 500.0, 0.0)
    bucket.charge(0.0, 600.0)
    assert bucket.delay(0.0, 10.0) == pytest.approx(1.0)


def test_a_refund_counts_from_when_it_comes():
    bucket = TokenBucket(10.0, 100.0, 0.0)
    bucket.charge(0.0, 150.0)
    bucket.settle(10.0, 150.0, 50.0)
    assert bucket.delay(10.0, 100.0) == 0.0
    bucket.charge(10.0, 150.0)
    assert bucket.delay(10.0, 10.0) == pytest.approx(1.0)


def test_a_bucket_that_is_more_than_full_fills_no_further():
    bucket = TokenBucket(10.0, 100.0, 0.0)
    bucket.settle(0.0, 50.0, 0.0)
    bucket.charge(100.0, 150.0)
    assert bucket.delay(100.0, 10.0) == pytest.approx(1.0)


def test_another_rate_holds_from_now_on():
    bucket = TokenBucket(10.0, 100.0, 0.0)
    bucket.charge(0.0, 100.0)
    bucket.change_rate(5.0, 1.0)
    assert bucket.delay(5.0, 60.0) == pytest.approx(10.0)


def test_using_more_than_was_charged_is_paid_later():
    bucket = TokenBucket(10.0, 100.0, 0.0)
    bucket.charge(0.0, 10.0)
    bucket.settle(0.0, 10.0, 150.0)
    assert bucket.delay(0.0, 10.0) == pytest.approx(6.0)


def test_a_clock_that_stands_still_or_goes_back_gives_nothing():
    bucket = TokenBucket(10.0, 100.0, 50.0)
    bucket.charge(50.0, 100.0)
    assert [bucket.delay(now, 10.0) for now in (50.0, 40.0, 50.0)] == [1.0, 1.0, 1.0]


def test_a_bucket_in_words():
    bucket = TokenBucket(10.0, 100.0, 0.0)
    bucket.charge(0.0, 25.0)
    assert repr(bucket) == "TokenBucket(75 of 100, 10/s)"


# -- the gate ---------------------------------------------------------------------------------


def about(expected):
    """Equal but for the microsecond that each timer takes in virtual time."""
    return pytest.approx(expected, abs=1e-4)


def clock():
    return asyncio.get_running_loop().time()


async def admitted(limits, tokens, workers=1):
    """When each request left, with as many workers as wait at the gate."""
    gate = Gate(limits, clock)
    waiting, left = iter(tokens), []

    async def work():
        for amount in waiting:
            async with gate:
                await gate.admit(amount)
                gate.charge(amount)
                left.append(clock())

    await asyncio.gather(*(work() for _ in range(workers)))
    return left


@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize(
    ("limits", "burst", "rate"),
    [
        (Limits(requests="10/s", burst=1), 1, 10),
        (Limits(requests="10/s", burst=10), 10, 10),
        (Limits(requests="600/min", burst=1), 1, 10),
        (Limits(requests="600/min"), 1, 10),
        (Limits(requests="100/s"), 10, 100),
        (Limits(requests="1800/h"), 1, 0.5),
    ],
)
@in_virtual_time
async def test_requests_keep_to_their_rate_and_burst(limits, burst, rate, workers):
    left = await admitted(limits, [0.0] * 60, workers)
    assert left == sorted(left)
    for first, begin in enumerate(left):
        for count, end in enumerate(left[first:], 1):
            assert count <= rate * (end - begin) + burst + 1e-6
    assert left[-1] == pytest.approx((60 - burst) / rate, rel=0.01)


@in_virtual_time
async def test_a_burst_comes_again_after_a_pause():
    gate = Gate(Limits(requests="10/s", burst=5), clock)
    left = []
    for pause in (0.0, 10.0):
        await asyncio.sleep(pause)
        begun = clock()
        for _ in range(6):
            await gate.admit(0)
            left.append(clock() - begun)
    assert left == about([0, 0, 0, 0, 0, 0.1] * 2)


@in_virtual_time
async def test_tokens_keep_to_their_rate():
    left = await admitted(Limits(tokens="64/s"), [16] * 20, workers=4)
    assert left == about([0.0] * 4 + [0.25 * step for step in range(1, 17)])


@in_virtual_time
async def test_an_oversize_request_passes_after_a_full_window_and_is_paid_for():
    left = await admitted(Limits(tokens="64/s"), [32, 640, 32])
    assert left == about([0.0, 0.5, 10.0])


@in_virtual_time
async def test_requests_and_tokens_both_count():
    left = await admitted(Limits(requests="1/s", tokens="64/s", burst=1), [16, 16, 192, 16])
    assert [later - earlier for earlier, later in pairwise(left)] == about([1.0, 1.0, 2.25])


@in_virtual_time
async def test_a_settled_gate_lets_the_next_one_through_sooner():
    gate = Gate(Limits(tokens="64/s"), clock)
    await gate.admit(64)
    gate.charge(64)
    gate.settle(64, 16)
    await gate.admit(64)
    assert clock() == about(0.25)


@in_virtual_time
async def test_who_waits_goes_as_soon_as_an_answer_was_shorter_than_reserved():
    gate = Gate(Limits(tokens="64/s"), clock)
    gate.charge(640)
    waiting = asyncio.create_task(gate.admit(64))
    await asyncio.sleep(1.0)
    gate.settle(640, 64)
    await waiting
    assert clock() == about(1.0)


@in_virtual_time
async def test_a_refused_gate_waits_as_long_as_the_server_says():
    gate = Gate(Limits(requests="10/s"), clock)
    gate.refused(clock(), 5.0)
    assert not gate.is_open(0)
    await gate.admit(0)
    assert clock() == about(5.0)


@in_virtual_time
async def test_a_refusal_goes_to_the_rate_that_holds_requests_back():
    gate = Gate(Limits(requests="1/s", tokens="6000/min", window="fixed"), clock)
    await gate.admit(100)
    gate.charge(10_000)
    waiting = asyncio.create_task(gate.admit(100))
    await asyncio.sleep(1.5)
    gate.refused(clock(), None)
    gate.settle(10_000, 100)
    await waiting
    assert clock() == about(6.5)  # a twelfth of the tokens' minute; the requests' is a second


@in_virtual_time
async def test_a_refusal_that_tokens_brought_leaves_the_requests_alone():
    gate = Gate(Limits(requests="10/s", tokens="64/s"), clock)
    gate.charge(640)
    waiting = asyncio.create_task(gate.admit(64))
    await asyncio.sleep(1.0)
    gate.refused(clock(), None)
    await waiting
    assert "10 of 10/s" in repr(gate._requests)
    assert "of 64/s" in repr(gate._tokens)
    assert "64 of 64/s" not in repr(gate._tokens)


@in_virtual_time
async def test_without_a_rate_of_tokens_they_are_not_counted():
    gate = Gate(Limits(requests="10/s", burst=1), clock)
    gate.charge(1e9)
    gate.settle(0, 1e9)
    await gate.admit(1e9)
    assert clock() == 0.0


@in_virtual_time
async def test_an_open_gate_says_so():
    gate = Gate(Limits(requests="1/s", tokens="64/s", burst=1), clock)
    assert gate.is_open(64)
    await gate.admit(64)
    assert not gate.is_open(1)  # the rate of requests
    gate.charge(64)
    await asyncio.sleep(1.001)
    assert gate.is_open(64)
    gate.charge(192)
    await asyncio.sleep(1.0)
    assert not gate.is_open(1)  # the rate of tokens
    await asyncio.sleep(2.001)
    assert gate.is_open(1)


@in_virtual_time
async def test_one_at_a_time_waits_at_the_gate():
    gate = Gate(Limits(requests="10/s"), clock)
    events = []

    async def work(name):
        async with gate:
            events.append(f"{name} in")
            await asyncio.sleep(1)
            events.append(f"{name} out")

    await asyncio.gather(work("a"), work("b"))
    assert events == ["a in", "a out", "b in", "b out"]


@in_virtual_time
async def test_a_cancelled_wait_leaves_the_gate_open():
    gate = Gate(Limits(tokens="64/s"), clock)
    gate.charge(6400)

    async def work(amount):
        async with gate:
            await gate.admit(amount)
            return clock()

    first = asyncio.create_task(work(64))
    await asyncio.sleep(0.5)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert first.cancelled()
    assert await work(64) == about(100.0)
