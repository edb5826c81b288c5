"""Jobs that share lanes: turns by weight, and lanes that tags keep out."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import repeatable
from scripted import Dispatch, Items, Scripted, in_virtual_time, now

from langgraph_hpc_fanout.dispatch.reasons import NoEndpointError
from langgraph_hpc_fanout.testing.virtual_time import run

# Turns


async def shares(weights, seconds=50.0, **options):
    """How many answers each of these jobs has after some time."""
    a = Scripted("a", concurrency=8, **options)
    async with Dispatch(a) as dispatch:
        clients = [Items(10_000, prefix=f"{number}/") for number in range(len(weights))]
        for client, weight in zip(clients, weights, strict=True):
            dispatch.add(client, weight=weight)
        await asyncio.sleep(seconds + 0.5)
        return [len(client.answers) for client in clients]


@settings(repeatable, max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0]), min_size=1, max_size=5))
def test_jobs_get_turns_in_proportion_to_their_weights(weights):
    got = run(shares(weights))
    total = sum(weights)
    assert got == pytest.approx([400 * weight / total for weight in weights], abs=5)


@pytest.mark.parametrize("options", [{"requests": "8/s"}, {"bundle": 4}])
@in_virtual_time
async def test_turns_hold_for_lanes_with_rates_and_bundles(options):
    got = await shares([1.0, 3.0], **options)
    assert got == pytest.approx([100, 300], rel=0.1)


@in_virtual_time
async def test_who_comes_late_begins_level_and_catches_up_with_nobody():
    a = Scripted("a", concurrency=2)
    async with Dispatch(a) as dispatch:
        early, late = Items(1_000, prefix="early"), Items(1_000, prefix="late")
        dispatch.add(early)
        await asyncio.sleep(100.5)
        dispatch.add(late)
        await asyncio.sleep(20.0)
        assert len(late.answers) == pytest.approx(20, abs=2)


@in_virtual_time
async def test_turns_that_a_job_had_no_use_for_are_not_made_up_for():
    a = Scripted("a", concurrency=2)
    async with Dispatch(a) as dispatch:
        idle = Items(0)
        idle.count = 1_000
        job = dispatch.add(idle)
        busy = Items(1_000, prefix="busy")
        dispatch.add(busy)
        await asyncio.sleep(100.5)
        idle.keys.extend(map(str, range(1_000)))
        dispatch.scheduler.refresh(job)
        await asyncio.sleep(20.0)
        assert len(idle.answers) == pytest.approx(20, abs=2)


# Tags


def tagged(name, *tags, **options):
    endpoint = Scripted(name, **options)
    endpoint.tags = frozenset(tags)
    return endpoint


@pytest.mark.parametrize(
    ("require", "forbid", "lanes"),
    [
        ([], [], {"site", "cloud", "plain"}),
        (["on-site"], [], {"site"}),
        ([], ["cloud"], {"site", "plain"}),
        (["gpu"], ["cloud"], {"site"}),
    ],
)
@in_virtual_time
async def test_a_request_never_leaves_for_a_lane_that_its_tags_forbid(require, forbid, lanes):
    site = tagged(
        "site", "on-site", "gpu", script=lambda call: "transient" if call.nth < 3 else None
    )
    cloud, plain = tagged("cloud", "cloud", "gpu"), Scripted("plain")
    async with Dispatch(site, cloud, plain) as dispatch:
        items = await dispatch.ask(60, require=require, forbid=forbid)
        assert await dispatch.scheduler.resolve("m", require, forbid) == "m"
    assert items.kinds == {None: 60}
    asked = {endpoint.name for endpoint in (site, cloud, plain) if endpoint.calls}
    assert asked == lanes


@in_virtual_time
async def test_tags_that_leave_nobody_are_told_at_once():
    async with Dispatch(tagged("site", "on-site"), Scripted("plain")) as dispatch:
        with pytest.raises(NoEndpointError) as caught:
            await dispatch.scheduler.resolve("m", ["gpu"], ["on-site"])
    assert caught.value.kind == "permanent"
    assert str(caught.value) == (
        "No endpoint may be asked: the task requires ['gpu'] and forbids ['on-site'], and their "
        "tags are site: ['on-site']; plain: none. Change either."
    )


@in_virtual_time
async def test_a_job_ends_when_all_that_its_tags_leave_are_dead():
    site = tagged("site", "on-site", probe=lambda number: False)
    async with Dispatch(site, Scripted("plain")) as dispatch:
        items = await dispatch.ask(5, require=["on-site"])
    assert [failure.message for failure in items.aborted] == ["site is away."]


# Lanes that join and leave


@in_virtual_time
async def test_a_lane_may_join_and_leave_while_items_are_asked():
    a, b = Scripted("a", concurrency=2, latency=1.5), Scripted("b", concurrency=2)
    async with Dispatch(a) as dispatch:
        items = Items(200)
        dispatch.add(items)
        await asyncio.sleep(10.0)
        lane = dispatch.scheduler.join(b)
        await asyncio.sleep(10.2)
        await dispatch.scheduler.leave(dispatch.lanes["a"])
        assert a.closed == 1
        assert not any(call.cancelled for call in a.calls), "what was in flight could end"
        await items.done.wait()
        assert dispatch.scheduler.lanes == [lane]
    assert items.kinds == {None: 200}
    assert min(b.times) == pytest.approx(10.0)
    assert 19.0 < max(a.times) < 20.3


@in_virtual_time
async def test_the_last_lane_that_leaves_ends_what_waits():
    a = Scripted("a", concurrency=2)
    async with Dispatch(a) as dispatch:
        items = Items(100)
        dispatch.add(items)
        await asyncio.sleep(5.5)
        leaving = dispatch.scheduler.leave(dispatch.lanes["a"])
        await leaving
        await asyncio.sleep(0)
    assert now() == pytest.approx(6.0), "what was in flight has ended"
    assert items.kinds == {None: 12}
    assert [failure.message for failure in items.aborted] == [
        "The last endpoint that could be asked has left."
    ]
    assert a.closed == 1


@in_virtual_time
async def test_closing_does_not_wait_for_who_is_leaving():
    a, b = Scripted("a", latency=500.0), Scripted("b", latency=500.0)
    async with Dispatch(a, b) as dispatch:
        dispatch.add(Items(100))
        await asyncio.sleep(5.5)
        leaving = dispatch.scheduler.leave(dispatch.lanes["a"])
    await leaving
    assert now() == pytest.approx(5.5)
    assert a.in_flight == b.in_flight == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}
