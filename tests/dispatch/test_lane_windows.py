"""How many requests a lane has in flight where nobody said how many: it finds out."""

from __future__ import annotations

import asyncio

import pytest
from scripted import Dispatch, Items, Scripted, ask, fail, in_virtual_time, now

from langgraph_hpc_fanout.endpoints.gauges import Gauges
from langgraph_hpc_fanout.endpoints.protocol import Bundling


class Limited(Scripted):
    """A server with so many slots: beyond them it refuses, or lets wait in silence."""

    def __init__(self, slots, *, refuses=False, gauged=False, name="a"):
        super().__init__(name, latency=1.0, concurrency=None)
        self.slots = asyncio.Semaphore(slots)
        self.room = slots
        self.refuses = refuses
        if gauged:
            self.gauges = self.read

    async def send(self, requests):
        if self.refuses and self.in_flight >= self.room:
            self._arrived(requests[0])
            yield fail("rate_limited", retry_after=0.5)
            return
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            async with self.slots:
                self._arrived(requests[0])
                await asyncio.sleep(self.latency)
        finally:
            self.in_flight -= 1
        for reply in self._replies(0, None):
            yield reply

    async def read(self):
        running = min(self.in_flight, self.room)
        return Gauges(self.in_flight - running, running)


async def in_flight_after(seconds, endpoint, count=10**6):
    """How wide the lane is after some time, and what the endpoint has answered by then."""
    async with Dispatch(endpoint) as dispatch:
        items = Items(count)
        job = dispatch.add(items)
        await asyncio.sleep(seconds)
        width = dispatch.lanes["a"].width.window.limit
        dispatch.scheduler.remove(job)
    return width, len(items.answers)


@pytest.mark.parametrize("slots", [4, 32, 200])
@in_virtual_time
async def test_a_server_that_lets_wait_is_filled_and_not_flooded(slots):
    width, answered = await in_flight_after(300.0, Limited(slots))
    assert slots <= width <= 2 * slots + 4
    assert answered >= 0.9 * 300 * slots


@pytest.mark.parametrize("slots", [4, 32, 200])
@in_virtual_time
async def test_a_server_that_tells_its_queue_is_filled_just_so(slots):
    width, answered = await in_flight_after(300.0, Limited(slots, gauged=True))
    assert slots <= width <= 1.4 * slots + 4
    assert answered >= 0.9 * 300 * slots


@pytest.mark.parametrize("slots", [8, 32, 200])
@in_virtual_time
async def test_a_server_that_refuses_is_seldom_asked_for_more_than_it_has(slots):
    endpoint = Limited(slots, refuses=True)
    _, answered = await in_flight_after(300.0, endpoint)
    assert answered >= 0.8 * 300 * slots
    refused = len(endpoint.calls) - answered
    assert refused <= 0.1 * len(endpoint.calls)


@in_virtual_time
async def test_stray_refusals_make_no_lane_narrower():
    a = Scripted("a", concurrency=100)
    a.script = lambda call: fail("rate_limited", retry_after=1.0) if call.number % 50 == 7 else None
    async with Dispatch(a) as dispatch:
        dispatch.add(Items(10**6))
        await asyncio.sleep(100.0)
        assert dispatch.lanes["a"].width.window.limit == 100


@in_virtual_time
async def test_a_given_limit_is_used_from_the_first_moment():
    a = Scripted("a", concurrency=500)
    await ask(500, a)
    assert a.peak == 500
    assert now() == pytest.approx(1.0)


@in_virtual_time
async def test_bundles_keep_to_their_endpoints_own_width():
    a = Scripted("a", bundling=Bundling(8, queues=True), concurrency=64, latency=5.0)
    a.script = lambda call: "timeout" if call.nth == 1 else None
    async with Dispatch(a) as dispatch:
        await dispatch.ask(640)
        assert dispatch.lanes["a"].width.window.limit == 64


@pytest.mark.parametrize("said", [None, ValueError("x"), "hang"])
@in_virtual_time
async def test_gauges_that_are_not_there_are_asked_for_once(said):
    asked = []

    class Odd(Limited):
        async def gauges(self):
            asked.append(now())
            if said == "hang":
                await asyncio.Event().wait()
            if said is not None:
                raise said

    width, _ = await in_flight_after(100.0, Odd(32))
    assert asked == [pytest.approx(5.0)]
    assert width >= 32


@in_virtual_time
async def test_gauges_are_read_only_while_there_is_work():
    endpoint = Limited(8, gauged=True)
    reads = []
    read = endpoint.gauges

    async def gauges():
        reads.append(now())
        return await read()

    endpoint.gauges = gauges
    async with Dispatch(endpoint) as dispatch:
        await dispatch.ask(200)
        end = now()
        await asyncio.sleep(1_000.0)
        assert reads
        assert max(reads) <= end + 5.0
    assert asyncio.all_tasks() == {asyncio.current_task()}
