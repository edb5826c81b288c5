"""Single requests through the lanes: each gets its reply, nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest
from scripted import Dispatch, Items, Scripted, fail, in_virtual_time, now

from langgraph_hpc_fanout.dispatch.calls import Calls
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.records import Request


def request(key):
    return Request(str(key), "m", {"messages": []}, 0, 10)


def calls_over(dispatch, **options):
    return Calls(dispatch.scheduler, "m", Retry(**options))


@in_virtual_time
async def test_each_gets_its_own_reply():
    a, b = Scripted("a", concurrency=3), Scripted("b", concurrency=3)
    async with Dispatch(a, b) as dispatch:
        calls = calls_over(dispatch)
        replies = await asyncio.gather(*(calls.ask(request(number)) for number in range(30)))
        assert not dispatch.scheduler.busy, "no job is left when nobody waits"
    assert all(reply.body is not None for reply in replies)
    assert sorted(int(call.key) for call in [*a.calls, *b.calls]) == list(range(30))
    assert now() == pytest.approx(5.0)
    assert len(a.calls) == len(b.calls) == 15


@in_virtual_time
async def test_one_after_the_other():
    a = Scripted("a")
    async with Dispatch(a) as dispatch:
        calls = calls_over(dispatch)
        for number in range(5):
            assert (await calls.ask(request(number))).body is not None
    assert now() == pytest.approx(5.0)


@in_virtual_time
async def test_they_take_turns_with_a_run():
    a = Scripted("a", concurrency=2)
    async with Dispatch(a) as dispatch:
        calls = calls_over(dispatch)
        dispatch.add(Items(1000, prefix="run"))
        await asyncio.sleep(10)
        began = now()
        await asyncio.gather(*(calls.ask(request(number)) for number in range(10)))
        assert now() - began < 12


@in_virtual_time
async def test_the_last_failure_is_a_reply():
    a = Scripted("a", script=lambda call: fail("transient"))
    async with Dispatch(a) as dispatch:
        reply = await calls_over(dispatch, attempts=3, base=0.01).ask(request(1))
    assert reply.failure.kind == "transient"
    assert len(a.calls) == 3


@in_virtual_time
async def test_a_refused_token_is_everybodys_reply_and_the_next_call_asks_anew():
    a = Scripted("a", script=lambda call: fail("auth") if now() < 5 else None, concurrency=2)
    async with Dispatch(a) as dispatch:
        calls = calls_over(dispatch)
        replies = await asyncio.gather(*(calls.ask(request(number)) for number in range(9)))
        assert {reply.failure.kind for reply in replies} == {"auth"}
        await asyncio.sleep(10)
        assert (await calls.ask(request(10))).body is not None


@in_virtual_time
async def test_who_is_cancelled_is_not_asked_for():
    a = Scripted("a", concurrency=1, latency=10.0)
    async with Dispatch(a) as dispatch:
        calls = calls_over(dispatch)
        tasks = [asyncio.create_task(calls.ask(request(number))) for number in range(3)]
        await asyncio.sleep(1)
        for task in tasks[:2]:  # one in flight, one that waits
            task.cancel()
        assert (await tasks[2]).body is not None
        assert now() == pytest.approx(11.0)
        assert [call.key for call in a.calls] == ["0", "2"]
        assert not dispatch.scheduler.busy


@in_virtual_time
async def test_a_closed_pool_is_a_reply():
    a = Scripted("a", latency=60.0)
    async with Dispatch(a) as dispatch:
        asked = asyncio.create_task(calls_over(dispatch).ask(request(1)))
        await asyncio.sleep(1)
    assert (await asked).failure.kind == "cancelled"


@in_virtual_time
async def test_what_was_told_its_failure_is_not_sent_later():
    a = Scripted("a", script=lambda call: fail("auth") if now() < 5 else None, concurrency=1)
    async with Dispatch(a) as dispatch:
        calls = calls_over(dispatch)
        await asyncio.gather(*(calls.ask(request(f"old{number}")) for number in range(200)))
        await asyncio.sleep(10)
        asked = len(a.calls)
        await calls.ask(request("new"))
        assert [call.key for call in a.calls[asked:]] == ["new"]


@in_virtual_time
async def test_a_burst_is_shared_evenly():
    lanes = [Scripted(name, concurrency=100) for name in "abc"]
    async with Dispatch(*lanes) as dispatch:
        calls = calls_over(dispatch)
        await calls.ask(request("first"))
        await asyncio.gather(*(calls.ask(request(number)) for number in range(90)))
    assert all(len(lane.calls) in (30, 31) for lane in lanes)
