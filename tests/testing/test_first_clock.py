"""The FIRST fake's clock and its timers."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from langgraph_hpc_fanout.testing import virtual_time
from langgraph_hpc_fanout.testing.first.clock import Clock, Timers


def test_a_clock_runs_by_its_scale_and_jumps():
    real = [10.0]
    clock = Clock(60.0, real=lambda: real[0])
    assert clock.now() == 0.0
    real[0] += 2.0
    assert clock.now() == 120.0
    clock.advance(5.0)
    assert clock.now() == 125.0
    assert clock.epoch(60.0) - clock.epoch(0.0) == 60.0


@given(
    st.lists(st.floats(0.0, 100.0), max_size=30),
    st.lists(st.floats(0.0, 40.0), min_size=1, max_size=10),
)
def test_what_is_due_in_a_jump_happens_once_in_order_and_at_its_own_time(delays, jumps):
    async def run() -> None:
        clock = Clock(0.0)
        timers = Timers(clock, asyncio.get_running_loop())
        rung: list[tuple[float, float]] = []
        for delay in delays:
            timers.after(delay, lambda due: rung.append((due, clock.now())), delay)
        for jump in jumps:
            timers.advance(jump)
        assert [due for due, _ in rung] == sorted(each for each in delays if each <= clock.now())
        assert all(abs(due - now) < 1e-6 for due, now in rung)

    virtual_time.run(run)


def test_a_chain_of_timers_takes_its_time_within_one_jump():
    async def run() -> None:
        clock = Clock(0.0)
        timers = Timers(clock, asyncio.get_running_loop())
        times: list[float] = []

        def again() -> None:
            times.append(clock.now())
            timers.after(10.0, again)

        timers.after(10.0, again)
        timers.advance(35.0)
        assert times == [10.0, 20.0, 30.0]
        assert clock.now() == 35.0

    virtual_time.run(run)


def test_a_scaled_clock_rings_by_itself():
    async def run() -> None:
        loop = asyncio.get_running_loop()
        clock = Clock(60.0, real=loop.time)
        timers = Timers(clock, loop)
        await timers.sleep(600.0)
        assert 10.0 <= loop.time() < 10.01
        late, soon = asyncio.Event(), asyncio.Event()
        timers.after(600.0, late.set)
        timers.after(60.0, soon.set)
        await soon.wait()
        assert not late.is_set()
        await late.wait()
        assert 20.0 <= loop.time() < 20.01

    virtual_time.run(run)


def test_cancelled_timers_do_not_ring_and_do_not_pile_up():
    async def run() -> None:
        timers = Timers(Clock(0.0), asyncio.get_running_loop())
        rung: list[int] = []
        timers.after(300.0, rung.append, 0)
        for number in range(1, 10_000):
            timer = timers.after(300.0, rung.append, number)
            timer.cancel()
            timer.cancel()
        assert len(timers._heap) < 2_500
        timers.advance(300.0)
        assert rung == [0]
        timers.after(1.0, rung.append, 1)
        timers.close()
        timers.advance(2.0)
        assert rung == [0]

    virtual_time.run(run)
