"""One endpoint object in several lanes: nobody closes it under the others' hands."""

from __future__ import annotations

import asyncio
import gc
import weakref

from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable
from scripted import Dispatch, Items, Scripted, in_virtual_time, now

from langgraph_hpc_fanout.dispatch.sharing import share
from langgraph_hpc_fanout.testing.virtual_time import run


class Closing(Scripted):
    """An endpoint that drops what is in flight when it is closed, as one with connections does."""

    def __init__(self, *args, closes_in=0.0, **options):
        super().__init__(*args, **options)
        self.closes_in = closes_in
        self.is_open = False
        self.sends = set()
        self.said = []

    async def open(self):
        await super().open()
        self.is_open = True
        self.said.append("opened")

    async def close(self):
        await super().close()
        self.is_open = False
        self.said.append("closing")
        for send in self.sends:
            send.cancel()
        await asyncio.sleep(self.closes_in)
        self.said.append("closed")

    async def send(self, requests):
        send = asyncio.current_task()
        self.sends.add(send)
        try:
            async for reply in super().send(requests):
                yield reply
        finally:
            self.sends.discard(send)


@in_virtual_time
async def test_an_endpoint_that_comes_back_while_its_old_lane_drains_stays_open():
    a = Closing("a", latency=lambda call: 15.0 if call.number < 4 else 10.0)
    async with Dispatch(a) as dispatch:
        dispatch.add(items := Items(12))
        await asyncio.sleep(8.0)
        leaving = dispatch.scheduler.leave(dispatch.lanes["a"])
        dispatch.scheduler.join(a)
        await leaving
        assert (now(), a.in_flight, a.closed) == (15.0, 4, 0)
        await items.done.wait()
        assert not any(call.cancelled for call in a.calls)
    assert items.kinds == {None: 12}
    assert len(a.calls) == 12
    assert a.closed == 1


@in_virtual_time
async def test_the_last_lane_closes_it_whichever_that_is():
    a, b = Closing("a", latency=100.0), Scripted("b")
    async with Dispatch(a, b) as dispatch:
        dispatch.add(Items(1_000))
        await asyncio.sleep(8.0)
        old = dispatch.scheduler.leave(dispatch.lanes["a"])
        new = dispatch.scheduler.join(a)
        await asyncio.sleep(8.0)
        await new.close()
        assert a.closed == 0
        await old
        assert a.closed == 1


@in_virtual_time
async def test_a_pool_that_closes_leaves_open_what_the_next_use_works_with():
    a = Closing("a", latency=10.0)
    first, second = Dispatch(a), Dispatch(a)
    first.add(Items(4))
    await asyncio.sleep(5.0)
    second.add(items := Items(4))
    await asyncio.sleep(1.0)
    await first.scheduler.close()
    await items.done.wait()
    assert now() == 15.0
    await second.scheduler.close()
    assert a.said.count("closed") == 1


@in_virtual_time
async def test_it_is_not_opened_while_it_is_being_closed():
    a = Closing("a", closes_in=5.0)
    first = Dispatch(a)
    await first.ask(1)
    closing = asyncio.create_task(first.scheduler.close())
    await asyncio.sleep(1.0)
    async with Dispatch(a) as second:
        items = await second.ask(1)
        assert items.kinds == {None: 1}
        assert a.said == ["opened", "closing", "closed", "opened"]
    await closing


class User:
    """As good as a lane."""


@repeatable
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=30))
def test_it_is_open_as_long_as_anybody_uses_it(steps):
    async def main():
        endpoint, users, using = Closing("a"), [User() for _ in range(4)], set()
        shared = share(endpoint)
        assert share(endpoint) is shared
        for number, opens in steps:
            if opens:
                await shared.open(users[number])
                using.add(number)
            else:
                await shared.close(users[number])
                using.discard(number)
            assert endpoint.is_open == bool(using)

    run(main())


@in_virtual_time
async def test_nothing_is_kept_of_endpoints_that_are_gone():
    endpoint = Scripted("a")
    async with Dispatch(endpoint) as dispatch:
        await dispatch.ask(1)
    gone = weakref.ref(endpoint)
    del dispatch, endpoint
    await asyncio.sleep(100.0)
    gc.collect()
    assert gone() is None
