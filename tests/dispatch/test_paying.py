"""Budgets in the scheduler: never more is sent than can be paid for, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import repeatable
from scripted import BODY, Dispatch, Items, Scripted, fail, in_virtual_time, now

from langgraph_hpc_fanout.dispatch.costs.budget import Budget, Purse
from langgraph_hpc_fanout.dispatch.costs.charges import NO_CHARGE
from langgraph_hpc_fanout.dispatch.policy import Policy
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.endpoints.price import Price
from langgraph_hpc_fanout.endpoints.protocol import Bundling
from langgraph_hpc_fanout.records import Reply, Usage
from langgraph_hpc_fanout.testing.virtual_time import run

# A request of Items has a body of 15 bytes and 10 tokens to write: 281 tokens are reserved for it.
RESERVED = 281
CHEAP, DEAR = Price(input=1, output=1), Price(input=10, output=10)


def priced(name, price=CHEAP, **options):
    endpoint = Scripted(name, **options)
    endpoint.price = price
    return endpoint


async def ask(count, *endpoints, budget=None, pool=None, policy=Policy(), **options):
    """The client and its purse, once all is over."""
    purse = Purse(budget)
    async with Dispatch(*endpoints, policy=policy, budget=pool) as dispatch:
        items = await dispatch.ask(count, purse=purse, **options)
        await asyncio.sleep(0.001)
        assert purse.reserved == dispatch.scheduler.cashier.purse.reserved == NO_CHARGE
    return items, purse


@in_virtual_time
async def test_a_budget_of_requests_is_used_up_and_what_remains_fails():
    a = Scripted("a")
    items, purse = await ask(100, a, budget=Budget(requests=30))
    assert items.kinds == {None: 30, "budget": 70}
    assert len(a.calls) == 30
    assert purse.spent.requests == 30
    refused = next(each for each in items.answers.values() if each.kind == "budget")
    assert refused.reply.failure.message == (
        "The run's budget of 30 requests is spent: 30 used, and one more call may use 1; "
        "run again with a larger budget to go on."
    )
    assert refused.attempts == 0


@in_virtual_time
async def test_a_budget_of_tokens_waits_for_what_is_in_flight():
    """Only a few can be reserved at once, but each gives back nearly all of it."""
    a = Scripted("a", concurrency=50)
    items, purse = await ask(100, a, budget=Budget(tokens=4 * RESERVED))
    assert a.peak == 4
    asked = (4 * RESERVED - RESERVED) // 10 + 1
    assert items.kinds == {None: asked, "budget": 100 - asked}
    assert purse.spent.tokens == 10 * len(a.calls) <= 4 * RESERVED


@in_virtual_time
async def test_the_pools_budget_holds_for_all_runs_together():
    a = Scripted("a", concurrency=8)
    async with Dispatch(a, budget=Budget(requests=50)) as dispatch:
        first, second = Items(40, prefix="first"), Items(40, prefix="second")
        dispatch.add(first, purse=Purse(Budget(requests=10)))
        dispatch.add(second, purse=Purse(None))
        await asyncio.gather(first.done.wait(), second.done.wait())
    assert first.kinds == {None: 10, "budget": 30}
    assert second.kinds == {None: 40}
    assert len(a.calls) == 50


@in_virtual_time
async def test_a_budget_too_small_for_one_call_is_told_before_anything_is_sent():
    a = Scripted("a")
    items, _ = await ask(100, a, budget=Budget(tokens=100))
    (failure,) = items.aborted
    assert failure.message == (
        "The run's budget of 100 tokens is too small for one call, which may use 281; "
        "give a larger budget, or a smaller max_tokens."
    )
    assert a.calls == []


@in_virtual_time
async def test_a_budget_of_dollars_wants_prices():
    items, _ = await ask(5, Scripted("a"), priced("b"), budget=Budget(usd=1))
    assert "needs to know what a costs" in items.aborted[0].message
    assert items.aborted[0].kind == "budget"


@in_virtual_time
async def test_without_max_tokens_there_must_be_a_context_limit():
    a = Scripted("a")
    items, _ = await ask(Items(5, max_tokens=None), a, budget=Budget(tokens=10_000))
    assert "give the task max_tokens" in items.aborted[0].message
    a.context_limits = {"m": 1_000}
    items, purse = await ask(Items(5, max_tokens=None), a, budget=Budget(tokens=10_000))
    assert items.kinds == {None: 5}
    assert purse.spent.tokens == 50


@in_virtual_time
async def test_what_is_too_dear_here_is_asked_where_it_is_cheaper():
    dear, cheap = priced("dear", DEAR), priced("cheap", CHEAP)
    usd = 4 * RESERVED * 1e-6  # a call at the dear one may cost ten times one at the cheap one
    items, purse = await ask(50, dear, cheap, budget=Budget(usd=usd))
    assert items.lanes["cheap"] == 50
    assert dear.calls == []
    assert purse.spent.usd == pytest.approx(50 * 10 * 1e-6)


@in_virtual_time
async def test_money_is_counted_without_a_budget_too():
    items, purse = await ask(20, priced("a", CHEAP))
    assert items.kinds == {None: 20}
    assert purse.spent.usd == pytest.approx(20 * 10 * 1e-6)
    _, purse = await ask(20, Scripted("free"))
    assert purse.is_unused, "where nothing has a price or a limit, nothing is counted"


@in_virtual_time
async def test_attempts_that_break_off_are_charged_as_reserved():
    a = Scripted("a", script=lambda call: ["end", "hang", "transient", None][min(call.nth - 1, 3)])
    retry = Retry(timeout=5.0, base=1e-6)
    items, purse = await ask(10, a, budget=Budget(tokens=100_000), retry=retry)
    assert items.kinds == {None: 10}
    assert purse.unconfirmed.unconfirmed == 30
    assert purse.spent.tokens == 30 * RESERVED + 10 * 10


@in_virtual_time
async def test_refusals_cost_a_request_and_no_tokens():
    a = Scripted("a", script=lambda call: "rate_limited" if call.nth == 1 else None)
    _, purse = await ask(10, a, budget=Budget(tokens=100_000))
    assert (purse.spent.requests, purse.spent.tokens) == (20, 100)


@in_virtual_time
async def test_a_retry_that_cannot_be_paid_for_fails_for_want_of_money():
    a = Scripted("a", script=lambda call: "transient" if call.key == "0" else None)
    items, _ = await ask(10, a, budget=Budget(requests=11), retry=Retry(base=20.0))
    assert items.kinds == {None: 9, "budget": 1}
    assert items.answers["0"].attempts == 2


@in_virtual_time
async def test_seconds_count_from_the_first_request():
    a = Scripted("a", concurrency=2)
    async with Dispatch(a) as dispatch:
        await asyncio.sleep(100.0)
        items = await dispatch.ask(100, purse=Purse(Budget(seconds=9.5)))
    assert items.kinds == {None: 20, "budget": 80}
    assert now() == pytest.approx(110.0)


@in_virtual_time
async def test_node_hours_are_shared_by_those_in_flight():
    a = priced("a", Price(nodes=2), concurrency=10)
    items, purse = await ask(100, a, budget=Budget(node_hours=1.0), retry=Retry(timeout=60.0))
    assert items.kinds == {None: 100}
    assert purse.spent.node_hours == pytest.approx(10.0 * 2 / 3600, rel=1e-3)


@pytest.mark.parametrize(
    ("tells", "hours"),
    [
        ({"seconds": 6.0}, 4 * 6.0 / 3600),
        ({"seconds": 6.0, "tries": 2}, 1_000.0 / 3600),
        ({"seconds": None}, 1_000.0 / 3600),
        ({"seconds": 900.0}, 1_000.0 / 3600),
    ],
    ids=str,
)
@in_virtual_time
async def test_time_in_a_batch_schedulers_queue_is_no_node_time(tells, hours):
    """Four requests in a bundle that waits for its nodes, and is back after 1,000 seconds."""
    answer = Reply(0, body=BODY, usage=Usage(0, 10), **tells)
    a = priced("a", Price(nodes=1), latency=1_000.0, script=lambda call: answer)
    a.bundling = Bundling(max_items=4, min_items=4, queues=True)
    _, purse = await ask(4, a, budget=Budget(node_hours=100.0))
    assert len(a.bundles) == 1
    assert purse.spent.node_hours == pytest.approx(hours, rel=1e-3)


@in_virtual_time
async def test_a_lanes_rate_does_not_hold_up_what_cannot_be_paid_for():
    a = Scripted("a", requests="1/s", concurrency=50)
    items, _ = await ask(1_000, a, budget=Budget(requests=10))
    assert items.kinds == {None: 10, "budget": 990}
    assert now() < 15.0


@in_virtual_time
async def test_the_loser_of_two_is_charged_as_reserved():
    a = Scripted("a", latency=lambda call: 500.0 if call.number == 30 else 1.0)
    b = Scripted("b", latency=1.1)
    _, purse = await ask(
        100, a, b, budget=Budget(tokens=100_000), policy=Policy(hedging=1.0), may_hedge=True
    )
    lost = sum(call.cancelled for endpoint in (a, b) for call in endpoint.calls)
    assert lost >= 1
    assert purse.spent.tokens == 100 * 10 + lost * RESERVED
    assert purse.unconfirmed.unconfirmed == lost


@in_virtual_time
async def test_a_hedge_that_cannot_be_paid_for_is_not_sent():
    a = Scripted("a", latency=lambda call: 50.0 if call.number == 30 else 1.0)
    b = Scripted("b", latency=1.1)
    items, _ = await ask(
        100, a, b, budget=Budget(requests=100), policy=Policy(hedging=1.0), may_hedge=True
    )
    assert items.kinds == {None: 100}
    assert now() > 50.0


@in_virtual_time
async def test_an_endpoint_that_joins_must_have_a_price_too():
    async with Dispatch(priced("a", latency=10.0)) as dispatch:
        items = Items(100)
        dispatch.add(items, purse=Purse(Budget(usd=1)))
        await asyncio.sleep(5.0)
        with pytest.raises(ValueError, match="needs to know what b costs"):
            dispatch.scheduler.join(Scripted("b"))
        assert [lane.name for lane in dispatch.scheduler.lanes] == ["a"]
        dispatch.scheduler.join(priced("c"))
        await items.done.wait()
    assert items.lanes["c"] > 50


class EndsWhenAsked(Items):
    """A client that ends its job when it is asked for more than there is."""

    def feed(self, most):
        if not self.keys:
            self.end()
        return super().feed(1)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("limits", [{}, {"requests": "100/s"}])
@in_virtual_time
async def test_what_is_given_back_is_offered_to_who_waits_for_it(count, limits):
    """Nothing is in flight that could be settled: all that was taken is not sent after all."""
    bundling = Bundling(max_items=8, min_items=8, max_bundles=1)
    a = Scripted("a", concurrency=8, bundling=bundling, **limits)
    dear = RESERVED + 400
    async with Dispatch(a, budget=Budget(tokens=dear + RESERVED - 1)) as dispatch:
        await dispatch.scheduler.resolve("m")
        ends, fine = EndsWhenAsked(count, max_tokens=10), Items(1, prefix="fine", max_tokens=410)
        job = dispatch.add(ends)
        ends.end = lambda: dispatch.scheduler.remove(job)
        dispatch.add(fine)
        async with asyncio.timeout(100.0):
            await fine.done.wait()
    assert [call.key for call in a.calls] == ["fine0"]
    assert fine.kinds == {None: 1}


says = st.lists(
    st.sampled_from(
        [None] * 5
        + ["transient", "hang", "permanent", "cold", "end", fail("rate_limited", retry_after=0.5)]
    ),
    min_size=1,
    max_size=10,
)
latencies = st.lists(st.sampled_from([0.1, 1.0, 1.0, 30.0]), min_size=1, max_size=5)
budgets = st.one_of(
    st.none(),
    st.builds(Budget, tokens=st.integers(300, 20_000)),
    st.builds(Budget, requests=st.integers(1, 120)),
    st.builds(Budget, usd=st.floats(0.003, 0.1)),
    st.builds(Budget, tokens=st.integers(300, 20_000), requests=st.integers(1, 120)),
    st.builds(Budget, seconds=st.floats(0.5, 60.0)),
)


@settings(repeatable, max_examples=200)
@given(
    st.lists(
        st.tuples(says, latencies, st.sampled_from([1, 3, 20]), st.sampled_from([CHEAP, DEAR])),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.tuples(st.integers(0, 60), budgets, st.booleans()), min_size=1, max_size=3),
    budgets,
)
def test_budgets_are_never_overshot_and_everything_comes_to_an_end(doors, works, pool_budget):
    fleet = [
        priced(
            f"door {number}",
            price,
            script=lambda call, says=says: says[call.number % len(says)],
            latency=lambda call, latencies=latencies: latencies[call.number % len(latencies)],
            concurrency=concurrency,
        )
        for number, (says, latencies, concurrency, price) in enumerate(doors)
    ]
    retry = Retry(attempts=4, timeout=60.0, patience=100.0, base=0.1)

    async def main():
        async with Dispatch(*fleet, policy=Policy(hedging=0.5), budget=pool_budget) as dispatch:
            purses = [Purse(budget) for _, budget, _ in works]
            clients = await asyncio.gather(
                *(
                    dispatch.ask(
                        Items(count, prefix=f"{number}/"),
                        retry=retry,
                        purse=purse,
                        may_hedge=may_hedge,
                    )
                    for number, ((count, _, may_hedge), purse) in enumerate(
                        zip(works, purses, strict=True)
                    )
                )
            )
            await asyncio.sleep(0.001)
            return clients, purses, dispatch.scheduler.cashier.purse

    clients, purses, pool = run(main())
    calls = Counter(call.key for endpoint in fleet for call in endpoint.calls)
    for (count, budget, _), items, purse in zip(works, clients, purses, strict=True):
        assert items.aborted is not None or len(items.answers) == count
        check(purse, budget)
        if items.aborted is None:
            for key, answer in items.answers.items():
                assert answer.attempts == calls[key]
    check(pool, pool_budget)
    for endpoint, (_, _, concurrency, _) in zip(fleet, doors, strict=True):
        assert endpoint.in_flight == 0
        assert endpoint.peak <= concurrency
    assert pool.spent.requests == calls.total()
    confirmed = pool.spent.tokens - pool.unconfirmed.tokens
    ended_well = sum(answer.ok for items in clients for answer in items.answers.values())
    assert confirmed >= 10 * ended_well


def check(purse, budget):
    """Nothing is reserved any more, and nothing was overspent."""
    assert purse.reserved == NO_CHARGE
    if budget is None:
        return
    for name in ("tokens", "requests", "usd"):
        most = getattr(budget, name)
        assert getattr(purse.spent, name) <= (math.inf if most is None else most)
    assert purse.exceeded == 0
