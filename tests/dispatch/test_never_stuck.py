"""Things that once made a job wait for ever, spin, or ask whom it must not."""

from __future__ import annotations

import asyncio

import pytest
from scripted import BODY, Dispatch, Items, Scripted, in_virtual_time, now

from langgraph_hpc_fanout.dispatch.calls import Calls
from langgraph_hpc_fanout.dispatch.costs.budget import Budget, Purse
from langgraph_hpc_fanout.dispatch.job import Job, Ticket
from langgraph_hpc_fanout.dispatch.policy import Policy
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.endpoints.price import Price
from langgraph_hpc_fanout.records import Failure, Reply, Request, Usage, Work

CHEAP, DEAR = Price(input=1, output=1), Price(input=10, output=10)
RESERVED = 281


def priced(name, price=CHEAP, **options):
    endpoint = Scripted(name, **options)
    endpoint.price = price
    return endpoint


async def done(items, seconds=5_000.0):
    async with asyncio.timeout(seconds):
        await items.done.wait()


@pytest.mark.parametrize("how", ["dies", "leaves"])
@in_virtual_time
async def test_what_was_kept_for_a_cheaper_lane_is_judged_anew_when_that_is_gone(how):
    dear, cheap = priced("dear", DEAR), priced("cheap", CHEAP, concurrency=1)
    if how == "dies":
        cheap.script = lambda call: "cold" if call.number >= 3 else None
        cheap.health = lambda number: number == 0
    policy = Policy(absence=0.0)
    async with Dispatch(dear, cheap, policy=policy) as dispatch:
        items = Items(20)
        dispatch.add(items, purse=Purse(Budget(usd=4 * RESERVED * 1e-6)))
        if how == "leaves":
            await asyncio.sleep(3.5)
            dispatch.scheduler.leave(dispatch.lanes["cheap"])
        await done(items)
    assert set(items.kinds) == {None, "budget"}


@in_virtual_time
async def test_a_lane_that_waits_for_its_rate_leaves_its_work_to_others_when_it_goes():
    a = Scripted("a", latency=0.1)
    b = Scripted("b", latency=0.1, requests="1/min")
    async with Dispatch(a, b) as dispatch:
        await dispatch.ask(Items(20, prefix="first"))
        items = Items(5, prefix="second")
        dispatch.add(items)
        dispatch.scheduler.leave(dispatch.lanes["b"])
        await done(items, 10.0)
    assert items.kinds == {None: 5}


@in_virtual_time
async def test_a_twin_that_goes_on_alone_may_come_back_to_the_lane_of_the_other():
    a = Scripted("a", latency=lambda call: 20.0 if call.number == 30 else 1.0)
    a.script = lambda call: "transient" if call.number == 30 else None
    b = Scripted("b", latency=1.1, probe=lambda number: number == 0)
    b.script = lambda call: (
        "hang" if call.key == a.calls[30].key else None if call.at < 25 else "cold"
    )
    b.script = lambda call: (
        "hang" if len(a.calls) > 30 and call.key == a.calls[30].key and call.at > 10 else None
    )
    async with Dispatch(a, b, policy=Policy(hedging=1.0)) as dispatch:
        items = Items(100)
        dispatch.add(items, may_hedge=True, retry=Retry(timeout=60.0, base=1e-3))
        await done(items)
    assert items.kinds == {None: 100}


@in_virtual_time
async def test_who_waits_for_an_ejected_lane_hears_of_it():
    a = Scripted("a", latency=0.1, script=lambda call: "transient" if call.at < 5 else None)
    b = Scripted("b", models=["n"])
    async with Dispatch(a, b, policy=Policy(ejected=1.0)) as dispatch:
        await dispatch.ask(5, retry=Retry(attempts=1))
        assert await asyncio.wait_for(dispatch.scheduler.resolve("m"), 100.0) == "m"
        assert now() > 30.0


@in_virtual_time
async def test_who_waits_to_know_whom_to_ask_hears_of_an_endpoint_that_joins():
    slow = Scripted("slow", probe=lambda number: asyncio.sleep(9.0, result=False))
    async with Dispatch(slow) as dispatch:
        waiting = asyncio.create_task(dispatch.scheduler.resolve("m"))
        await asyncio.sleep(1.0)
        dispatch.scheduler.join(Scripted("late"))
        assert await asyncio.wait_for(waiting, 1.0) == "m"


@in_virtual_time
async def test_a_job_that_comes_while_the_pool_is_closing_is_told():
    async with Dispatch(Scripted("a", latency=10.0)) as dispatch:
        dispatch.add(Items(10))
        await asyncio.sleep(1.0)
        closing = asyncio.create_task(dispatch.scheduler.close())
        await asyncio.sleep(0)
        late = Items(10, prefix="late")
        dispatch.add(late)
        await closing
        assert late.aborted is not None


def replies(**odd):
    return lambda call: Reply(0, **{"body": BODY, "usage": Usage(1, 1), **odd})


@pytest.mark.parametrize(
    "script",
    [
        replies(tries=None),
        replies(seconds="1"),
        replies(work=1.0),
        replies(work=Work("1", 1)),
        replies(work=Work(1.0, None)),
        replies(usage=Usage(None, 1)),
        replies(body=None, failure=Failure("transient", "x"), retry_after="5"),
    ],
)
@in_virtual_time
async def test_replies_of_odd_types_fail_their_item(script):
    async with Dispatch(Scripted("a", script=script)) as dispatch:
        items = Items(5)
        dispatch.add(items)
        await done(items)
    assert items.kinds == {"permanent": 5}
    assert "gave a reply that is none" in items.answers["0"].reply.failure.message


@pytest.mark.parametrize("limits", [None, {"m": "8192"}, 3])
@in_virtual_time
async def test_context_limits_of_odd_types_end_the_job_with_a_sentence(limits):
    a = priced("a")
    a.context_limits = limits
    async with Dispatch(a) as dispatch:
        items = Items(5, max_tokens=None)
        dispatch.add(items, purse=Purse(Budget(tokens=10_000)))
        await done(items)
    assert items.aborted is not None
    assert items.aborted[0].kind == "budget"


@in_virtual_time
async def test_models_that_cannot_be_read_are_a_bad_probe():
    class Odd(Scripted):
        @property
        def models(self):
            raise KeyError("models")

        @models.setter
        def models(self, value): ...

    async with Dispatch(Odd("a")) as dispatch:
        with pytest.raises(LookupError, match="a could not be opened: KeyError"):
            await dispatch.scheduler.resolve("m")


@in_virtual_time
async def test_a_server_that_comes_back_without_models_is_no_hope():
    a = Scripted("a", script=lambda call: "cold" if call.at > 1.5 else None)

    def probe(number):
        if number:
            a.served = {}
        return True

    a.health = probe
    async with Dispatch(a, policy=Policy(absence=0.0)) as dispatch:
        items = Items(20)
        dispatch.add(items)
        await done(items)
    assert items.aborted is not None


@in_virtual_time
async def test_an_endpoint_that_is_away_must_have_a_price_too():
    away = Scripted("away", probe=lambda number: now() > 20)
    async with Dispatch(priced("here"), away) as dispatch:
        await dispatch.scheduler.resolve(None)
        items = Items(50)
        dispatch.add(items, purse=Purse(Budget(usd=1)))
        await done(items)
    assert "needs to know what away costs" in items.aborted[0].message


@in_virtual_time
async def test_a_forbidden_endpoint_is_not_even_probed_and_its_key_is_nobodys_concern():
    cloud = Scripted("cloud", probe=lambda number: Failure("auth", "The key is wrong."))
    cloud.tags = {"cloud"}
    async with Dispatch(Scripted("site"), cloud) as dispatch:
        assert await dispatch.scheduler.resolve("m", (), ["cloud"]) == "m"
        items = Items(20)
        dispatch.add(items, forbid=["cloud"])
        await done(items)
        assert (cloud.opened, cloud.probes) == (0, [])
        dispatch.lanes["cloud"].start()
        await asyncio.sleep(1.0)
        assert dispatch.lanes["cloud"].failure.kind == "auth"
        again = await dispatch.ask(Items(5, prefix="again"), forbid=["cloud"])
    assert items.kinds == {None: 20}
    assert again.kinds == {None: 5}


class Sizes(Items):
    """Items of which each may write its own number of tokens."""

    def __init__(self, sizes, **options):
        super().__init__(len(sizes), **options)
        self.sizes = sizes

    def feed(self, most):
        keys = [self.keys.popleft() for _ in range(min(most, len(self.keys)))]
        body = {"messages": []}
        return [Ticket(key, Request(key, "m", body, 0, self.sizes[int(key)])) for key in keys]


@in_virtual_time
async def test_what_does_not_fit_for_now_is_waited_for_without_spinning():
    a = Scripted("a", latency=lambda call: 50.0 if call.key == "0" else 1.0)
    async with Dispatch(a) as dispatch:
        items = Sizes([500, 5_000, 400, 10])
        dispatch.add(items, purse=Purse(Budget(tokens=1_200)))
        await done(items)
    assert items.kinds == {None: 3, "budget": 1}
    assert items.answers["1"].kind == "budget"


@in_virtual_time
async def test_after_a_shortage_all_lanes_go_on():
    fleet = [Scripted(name, concurrency=1) for name in "abcdef"]
    fleet[0].latency = lambda call: 20.0 if call.key == "0" else 1.0
    async with Dispatch(*fleet) as dispatch:
        items = Sizes([20_000] + [10] * 200)
        dispatch.add(items, purse=Purse(Budget(tokens=20_600)))
        await done(items)
    assert items.kinds == {None: 201}
    assert now() < 60.0
    assert min(items.lanes.values()) > 15


@in_virtual_time
async def test_a_call_without_a_bound_fails_alone():
    a = Scripted("a", latency=5.0)
    async with Dispatch(a, budget=Budget(tokens=10_000)) as dispatch:
        calls = Calls(dispatch.scheduler, "m", Retry())
        bounded = Request("1", "m", {"messages": []}, 0, 10)
        unbounded = Request("2", "m", {"messages": []}, 0, None)
        await dispatch.scheduler.resolve("m")
        good, bad = await asyncio.gather(calls.ask(bounded), calls.ask(unbounded))
    assert good.failure is None
    assert "give the task max_tokens" in bad.failure.message


@in_virtual_time
async def test_what_was_cancelled_says_nothing_of_the_server():
    a = Scripted("a", concurrency=128, latency=100.0)
    async with Dispatch(a) as dispatch:
        for _ in range(3):
            job = dispatch.add(Items(500))
            await asyncio.sleep(1.0)
            dispatch.scheduler.remove(job)
            await asyncio.sleep(0.001)
        assert dispatch.lanes["a"].width.window.limit == 128


class Where:
    """A lane, as far as a job looks at it."""


def test_a_ticket_that_is_taken_in_vain_keeps_its_backoff():
    a, b = Where(), Where()
    job = Job(Sizes([10]), "m", Retry())
    ticket = job.take(a)
    job.put_back(ticket, avoid=a, until=30.0, now=0.0)
    assert job.take(b) is ticket
    job.untake(ticket)
    assert job.take(a) is None
    assert job.next_retry() == 30.0
    job.end_backoffs(30.0)
    assert job.take(a) is ticket


def test_a_ticket_that_is_kept_from_a_lane_for_good_sets_no_timer():
    """A real loop has no timer for ever: `call_at(inf)` raises there."""
    dear, cheap = Where(), Where()
    job = Job(Sizes([10]), "m", Retry())
    ticket = job.take(dear)
    job.keep_from(ticket, dear)
    assert job.take(cheap) is ticket
    job.untake(ticket)
    assert job.next_retry() is None
    assert job.take(cheap) is ticket
    job.put_back(ticket, avoid=cheap, until=30.0, now=0.0)
    assert job.next_retry() == 30.0
    job.end_backoffs(30.0)
    assert job.next_retry() is None
    assert job.take(dear) is None
    job.reconsider()
    assert job.take(dear) is ticket


@in_virtual_time
async def test_a_bug_in_an_endpoints_own_settings_ends_the_job_loudly():
    class Odd(Scripted):
        @property
        def bundling(self):
            if self.calls:
                raise ZeroDivisionError("workers")
            return self.usual

        @bundling.setter
        def bundling(self, value):
            self.usual = value

    async with Dispatch(Odd("a", bundle=2)) as dispatch:
        items = Items(50)
        dispatch.add(items)
        await done(items)
    assert "A fault in the dispatcher, at a: ZeroDivisionError" in items.aborted[0].message


@pytest.mark.parametrize("limits", [{}, {"requests": "100/s"}])
@in_virtual_time
async def test_a_lane_that_took_what_nobody_wants_takes_on(limits):
    a = Scripted("a", concurrency=1, **limits)
    async with Dispatch(a) as dispatch:
        await dispatch.scheduler.resolve("m")
        take, unwanted = dispatch.scheduler.take, Ticket("x", Request("x", "m", {}, 0, 1))
        unwanted.open = False
        job = dispatch.add(Items(0))
        given = iter([(job, unwanted)])
        dispatch.scheduler.take = lambda lane: next(given, None) or take(lane)
        dispatch.add(items := Items(3))
        async with asyncio.timeout(60.0):
            await items.done.wait()
    assert items.kinds == {None: 3}
