"""Virtual time: it passes when everything sleeps, and says so when nothing ever will."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import time
from itertools import pairwise

import pytest

from langgraph_hpc_fanout.dispatch.pacing.gate import Gate
from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.testing.virtual_time import DeadlockError, VirtualTimeLoop, run


def now():
    return asyncio.get_running_loop().time()


def test_time_passes_without_waiting():
    async def main():
        assert now() == 0.0
        await asyncio.sleep(3600 * 24 * 30)
        return now()

    begun = time.monotonic()
    assert run(main()) == run(main) == 3600 * 24 * 30
    assert time.monotonic() - begun < 5


def test_years_pass_too():
    """A float of so many seconds is coarser than the slack that asyncio gives a timer."""

    async def main():
        for _ in range(100):
            await asyncio.sleep(1e7 / 3)
            await asyncio.sleep(0.1)
        return now()

    assert run(main) == pytest.approx(1e9 / 3 + 10, abs=1e-3)


def test_sleepers_wake_in_the_order_of_their_times():
    woken = []

    async def sleeper(seconds):
        await asyncio.sleep(seconds)
        woken.append((seconds, now()))

    async def main():
        await asyncio.gather(*(sleeper(number * 7 % 10 / 3) for number in range(10)))

    run(main)
    assert woken == [(number / 3, number / 3) for number in range(10)]


def test_what_is_ready_takes_no_time():
    async def main():
        for _ in range(1000):
            await asyncio.sleep(0)
        return now()

    assert run(main) == 0.0


def test_timeouts_strike():
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.Event().wait()
        assert now() == 10.0
        async with asyncio.timeout(10):
            await asyncio.sleep(9)
        return now()

    assert run(main) == 19.0


def test_a_timer_takes_at_least_a_microsecond():
    """A delay that is lost in rounding must not hold the clock for ever."""

    async def main():
        await asyncio.sleep(1e6)
        moments = []
        for _ in range(10):
            await asyncio.sleep(1e-18)
            moments.append(now())
        return moments

    assert all(0 < later - sooner < 2e-6 for sooner, later in pairwise(run(main)))


@pytest.mark.parametrize("limits", [Limits(requests="7/s"), Limits(tokens="7/s")])
def test_rate_limiters_do_not_spin_on_rounding_errors(limits):
    async def main():
        gate = Gate(limits, asyncio.get_running_loop().time)
        await asyncio.sleep(12345.678)
        begun = now()
        for _ in range(500):
            await gate.admit(1.3)
            gate.charge(1.3)
        return 500 / (now() - begun)

    assert run(main) == pytest.approx(7 if limits.requests else 7 / 1.3, rel=0.05)


def test_a_deadlock_is_told_with_who_waits():
    async def wait_for(event):
        await event.wait()

    async def main():
        await asyncio.sleep(5)
        event = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(wait_for(event), name=f"waiter {number:02}")

    with pytest.raises(DeadlockError) as caught:
        run(main)
    first, *rest = str(caught.value).splitlines()
    assert first.startswith("At 5.000000 s of virtual time every task waits")
    assert len(rest) == 9
    assert "main, " in rest[0]
    assert "wait_for" in rest[1]
    assert rest[1].strip().startswith("waiter 00: ")
    assert rest[-1].strip() == "and 13 more"


def test_nothing_is_left_behind():
    cleaned = []

    async def numbers():
        try:
            yield 1
        finally:
            cleaned.append("generator")

    async def forever():
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("task")

    async def main():
        task = asyncio.create_task(forever())
        async for _ in numbers():
            break
        gc.collect()  # the generator is closed by the loop, from its own thread
        await asyncio.sleep(1)
        assert cleaned == ["generator"]
        return task, asyncio.get_running_loop()

    task, loop = run(main)
    assert cleaned == ["generator", "task"]
    assert task.cancelled()
    assert loop.is_closed()


def test_a_deadlock_leaves_nothing_behind_either():
    loops = []

    async def main():
        loops.append(asyncio.get_running_loop())
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    with pytest.raises(DeadlockError):
        run(main)
    assert loops[0].is_closed()


def test_errors_come_through():
    async def main():
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run(main)


def test_one_loop_does_not_run_in_another():
    async def inner():
        pass

    async def main():
        coroutine = inner()
        try:
            run(coroutine)
        finally:
            coroutine.close()

    with pytest.raises(RuntimeError, match="A loop is running already"):
        run(main)


async def in_a_thread():
    await asyncio.to_thread(time.sleep, 0.01)


async def in_a_process():
    await asyncio.create_subprocess_exec("true")


async def in_a_shell():
    await asyncio.create_subprocess_shell("true")


async def over_a_socket():
    with socket.socket() as server:
        server.setblocking(False)
        server.bind(("127.0.0.1", 0))
        server.listen()
        await asyncio.get_running_loop().sock_accept(server)


@pytest.mark.parametrize("work", [in_a_thread, in_a_process, in_a_shell, over_a_socket])
def test_what_takes_real_time_is_refused(work):
    with pytest.raises(RuntimeError, match="neither threads nor I/O"):
        run(work)


def test_other_threads_are_refused():
    async def main():
        loop, errors = asyncio.get_running_loop(), []

        def call():
            try:
                loop.call_soon_threadsafe(print)
            except RuntimeError as error:
                errors.append(str(error))

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        called = asyncio.Event()
        loop.call_soon_threadsafe(called.set)
        await called.wait()
        return errors

    (error,) = run(main)
    assert error.startswith("Another thread calls into the loop")


def test_a_loop_says_what_time_it_is():
    loop = VirtualTimeLoop()
    loop.run_until_complete(asyncio.sleep(1.5))
    assert repr(loop) == "<VirtualTimeLoop at 1.500000 s>"
    loop.close()
