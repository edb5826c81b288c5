"""A pool that follows a list, in virtual time: joining, leaving, waiting, and when it looks."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from listed import of
from properties import repeatable
from scripted import Items, Scripted, in_virtual_time, now

from langgraph_hpc_fanout import Budget, Pool
from langgraph_hpc_fanout.dispatch.job import Job
from langgraph_hpc_fanout.dispatch.reasons import NoEndpointError
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.instances.instance import Reading
from langgraph_hpc_fanout.instances.watch import Watched
from langgraph_hpc_fanout.testing.virtual_time import run

NONE = frozenset()
EVERY = 3.0
ABSENT = Reading(absent="/hosts.txt does not exist", is_complete=False)


class Listed:
    """A source that a test changes."""

    name = "/hosts.txt"
    advice = "is the launcher running? wait= gives it more time."

    def __init__(self, reading):
        self.reading = reading
        self.looks = []

    async def look(self):
        self.looks.append(now())
        if isinstance(self.reading, Exception):
            raise self.reading
        return self.reading


class Allocation:
    """A pool over a list whose instances are scripted endpoints."""

    def __init__(self, reading, *, wait=600.0, budget=None, **script):
        self.source = Listed(reading)
        self.made = {}
        self._script = script
        watched = Watched(self.source, self._make, EVERY, wait)
        self.pool = Pool(watched, budget=budget)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        scheduler = self.pool._scheduler
        await self.pool._close()
        if scheduler is not None:
            await scheduler.close()

    def _make(self, instance):
        endpoint = self.made[instance.name] = Scripted(instance.name, **self._script)
        endpoint.tags = instance.tags
        return endpoint

    @property
    def names(self):
        return [endpoint.name for endpoint in self.pool.endpoints]

    async def resolve(self, model="m", **tags):
        wish = {"require": NONE, "forbid": NONE, **tags}
        return await self.pool.resolve(model, wish["require"], wish["forbid"])

    async def ask(self, count, during=None):
        """Ask for items, and let something happen meanwhile."""
        scheduler, model = await self.resolve()
        items = Items(count, model=model)
        job = Job(items, model, Retry())
        scheduler.add(job)
        if during is not None:
            await during()
        await items.done.wait()
        scheduler.remove(job)
        assert items.aborted is None
        assert items.kinds == {None: count}
        return items


@in_virtual_time
async def test_instances_join_and_leave_while_items_are_asked():
    async with Allocation(of("a", "b")) as allocation:

        async def change():
            await asyncio.sleep(10.0)
            allocation.source.reading = of("b", "c", "d", "e")

        items = await allocation.ask(400, change)
        assert allocation.names == ["b", "c", "d", "e"]
        assert set(items.lanes) == set("abcde")
        gone = allocation.made["a"]
        assert (gone.closed, gone.in_flight) == (1, 0)
        assert not any(call.cancelled for call in gone.calls), "what it had was done"
        assert max(gone.times) <= 12.0
        assert sum(len(each.calls) for each in allocation.made.values()) == 400


@in_virtual_time
async def test_a_list_that_is_away_or_empty_for_a_while_changes_nothing():
    async with Allocation(of("a", "b")) as allocation:

        async def change():
            for reading in (ABSENT, of(), of("a", is_complete=False), OSError("stale")):
                allocation.source.reading = reading
                await asyncio.sleep(2 * EVERY)

        items = await allocation.ask(400, change)
        assert set(items.lanes) == {"a", "b"}
        assert {each.closed for each in allocation.made.values()} == {0}


@in_virtual_time
async def test_a_run_waits_for_the_first_instance_and_says_so(caplog):
    async with Allocation(ABSENT) as allocation:

        async def start():
            await asyncio.sleep(100.0)
            allocation.source.reading = of("a")

        starting = asyncio.create_task(start())
        await allocation.ask(4)
        await starting
        assert allocation.made["a"].times[0] == pytest.approx(102.0)
        assert "/hosts.txt does not exist. Waiting up to 600 s for instances." in caplog.text
        assert caplog.text.count("Waiting") == 1


@in_virtual_time
async def test_a_run_waits_for_instances_that_are_listed_before_they_answer():
    up_at = 200.0
    async with Allocation(of("a", "b"), probe=lambda number: now() > up_at) as allocation:
        await allocation.ask(4)
        first = min(time for each in allocation.made.values() for time in each.times)
        assert up_at < first < up_at + 16.0


@in_virtual_time
async def test_nobody_in_time_is_a_clear_error():
    async with Allocation(of(), wait=60.0) as allocation:
        with pytest.raises(
            NoEndpointError,
            match=r"^/hosts.txt lists no instance. No instance of /hosts.txt has answered within "
            r"60 s; is the launcher running\?",
        ):
            await allocation.resolve()
        assert now() == pytest.approx(60.0)


@in_virtual_time
async def test_a_model_that_those_who_answer_do_not_serve_is_not_waited_for():
    async with Allocation(of("a")) as allocation:
        with pytest.raises(NoEndpointError, match="a does not serve it, it serves m"):
            await allocation.resolve("other")
        assert now() == 0.0


@in_virtual_time
async def test_tags_of_a_list_say_who_may_be_asked():
    async with Allocation(of("a", "b", tags=["role=worker"])) as allocation:
        await allocation.resolve(require=frozenset({"role=worker"}))
        with pytest.raises(NoEndpointError, match="requires"):
            await allocation.resolve(require=frozenset({"role=critic"}))


@in_virtual_time
async def test_a_first_list_with_a_fault_is_an_error_and_may_be_mended():
    bad = Reading(of("a").instances, faults=tuple(f"line {number} is bad." for number in range(6)))
    async with Allocation(bad) as allocation:
        with pytest.raises(
            NoEndpointError, match=r"^line 0 is bad. line 1 .* line 3 is bad. And 2 more.$"
        ):
            await allocation.resolve()
        assert not allocation.made
        allocation.source.reading = of("a")
        await allocation.ask(4)


@in_virtual_time
async def test_a_fault_in_a_later_list_is_logged_once_and_loses_nobody(caplog):
    async with Allocation(of("a")) as allocation:

        async def change():
            await asyncio.sleep(EVERY)
            allocation.source.reading = Reading(of("a", "b").instances, faults=("line 3 is bad.",))

        items = await allocation.ask(200, change)
        assert set(items.lanes) == {"a", "b"}
        assert caplog.text.count("line 3 is bad.") == 1


@in_virtual_time
async def test_there_are_no_looks_and_no_timers_while_nobody_asks():
    async with Allocation(of("a")) as allocation:
        await allocation.ask(40)
        seen = len(allocation.source.looks)
        await asyncio.sleep(100 * EVERY)
        assert len(allocation.source.looks) == seen
        assert asyncio.all_tasks() == {asyncio.current_task()}
        allocation.source.reading = of("a", "b")
        items = await allocation.ask(40)
        assert set(items.lanes) == {"a", "b"}
        assert len(allocation.source.looks) > seen


@in_virtual_time
async def test_a_list_is_looked_at_at_its_pace_however_many_ask():
    async with Allocation(of("a", "b")) as allocation:
        await asyncio.gather(*(allocation.ask(5) for _ in range(50)))
        looks = allocation.source.looks
        assert all(later - look == EVERY for look, later in itertools.pairwise(looks))


@in_virtual_time
async def test_a_pool_that_is_closed_lets_go_of_who_waits():
    async with Allocation(of()) as allocation:
        waiting = asyncio.create_task(allocation.resolve())
        await asyncio.sleep(5.0)
        await allocation.pool._close()
        with pytest.raises(NoEndpointError, match="The pool was closed"):
            await waiting
        assert asyncio.all_tasks() == {asyncio.current_task()}


@in_virtual_time
async def test_a_pool_that_was_closed_follows_its_list_again():
    async with Allocation(of("a", "b")) as allocation:
        await allocation.ask(40)
        scheduler = allocation.pool._scheduler
        await allocation.pool._close()
        await scheduler.close()
        allocation.source.reading = of("b", "c")
        items = await allocation.ask(40)
        assert allocation.names == ["b", "c"]
        assert "a" not in items.lanes


@in_virtual_time
async def test_what_was_added_by_hand_stays():
    async with Allocation(of("a")) as allocation:
        await allocation.resolve()
        await allocation.pool._join(mine := Scripted("mine"))
        allocation.source.reading = of("b", "mine")

        async def change():
            await asyncio.sleep(2 * EVERY)

        items = await allocation.ask(200, change)
        assert allocation.names == ["mine", "b"]
        assert "mine" not in allocation.made
        assert items.lanes["mine"] == len(mine.calls) > 0


@in_virtual_time
async def test_an_instance_that_cannot_join_is_logged_and_loses_nobody(caplog):
    async with Allocation(of("a"), budget=Budget(tokens=10**9)) as allocation:

        def refuse(endpoint):
            raise ValueError("it has no price")

        async def change():
            allocation.pool._scheduler.join = refuse
            allocation.source.reading = of("a", "b")
            await asyncio.sleep(EVERY)

        items = await allocation.ask(200, change)
        assert set(items.lanes) == {"a"}
        assert "b cannot join: it has no price" in caplog.text


@in_virtual_time
async def test_a_pool_that_nobody_holds_is_not_held_by_its_watch():
    pool = Pool(Watched(Listed(of("a")), lambda instance: Scripted(instance.name), EVERY, 1.0))
    scheduler, _ = await pool.resolve("m", NONE, NONE)
    held, watch = weakref.ref(pool), pool._watch
    del pool
    gc.collect()
    assert held() is None
    await watch.close()
    await scheduler.close()


fleets = st.sets(st.sampled_from("abcdefgh"), min_size=1)
steps = st.lists(
    st.tuples(fleets | st.just(frozenset()), st.booleans(), st.floats(0.1, 20.0)), max_size=6
)


@repeatable
@given(fleets, steps)
def test_every_item_is_answered_once_whoever_comes_and_goes(first, course):
    async def follow():
        async with Allocation(of(*sorted(first)), latency=2.0) as allocation:

            async def change():
                for names, is_complete, seconds in course:
                    allocation.source.reading = of(*sorted(names), is_complete=is_complete)
                    await asyncio.sleep(seconds)

            await allocation.ask(300, change)
            for endpoint in allocation.made.values():
                assert not any(call.cancelled for call in endpoint.calls)

    run(follow)


@pytest.mark.parametrize(("times", "says"), [((0.0, 1.0), "every=0.0"), ((1.0, -1.0), "wait=-1.0")])
def test_times_that_mean_nothing_are_refused(times, says):
    with pytest.raises(ValueError, match=says):
        Watched(Listed(of()), Scripted, *times)


@pytest.fixture(autouse=True)
def all_is_logged(caplog):
    caplog.set_level(logging.INFO, "langgraph_hpc_fanout")
