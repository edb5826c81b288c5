"""Budgets: never overdrawn, whatever comes in which order; and what is said when they are spent."""

from __future__ import annotations

import asyncio
import math
import sys
import threading
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from functools import reduce
from operator import add

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable
from scripted import in_virtual_time, now

from langgraph_hpc_fanout.dispatch.costs.budget import Budget, Past, Purse, reserve_in
from langgraph_hpc_fanout.dispatch.costs.charges import NO_CHARGE, Charge
from langgraph_hpc_fanout.endpoints.price import NODE_HOUR, PICODOLLARS, Price

PARTS = ("prompt_tokens", "completion_tokens", "requests", "picodollars", "node_time")
CENT = PICODOLLARS // 100

budgets = st.builds(
    Budget,
    usd=st.none() | st.floats(1e-6, 1) | st.sampled_from([0.1, 0.3]),
    tokens=st.none() | st.integers(1, 3000),
    requests=st.integers(1, 30),
    node_hours=st.none() | st.floats(1e-6, 1),
    seconds=st.none() | st.floats(1, 100),
)
bounds = st.builds(
    Charge,
    st.integers(0, 500),
    st.integers(0, 500),
    st.just(1),
    st.integers(0, PICODOLLARS // 10),
    st.integers(0, NODE_HOUR // 10),
)


@st.composite
def within(draw, charge):
    """A charge of which no part is larger."""
    return Charge(*(draw(st.integers(0, getattr(charge, part))) for part in PARTS))


@st.composite
def traffic(draw):
    """A budget, and what happens: reservations, and ends of some of them (None: nobody knows)."""
    steps, flying = [], []
    for _ in range(draw(st.integers(0, 40))):
        if flying and draw(st.booleans()):
            bound = flying.pop(draw(st.integers(0, len(flying) - 1)))
            steps.append(("settle", bound, draw(st.none() | within(bound))))
        else:
            flying.append(draw(bounds))
            steps.append(("reserve", flying[-1], draw(st.floats(0, 5))))
    return draw(budgets), steps


def keeps(budget, charge):
    """Whether a charge is within a budget, in exact arithmetic."""
    used = {
        "usd": Fraction(charge.picodollars, PICODOLLARS),
        "tokens": charge.tokens,
        "requests": charge.requests,
        "node_hours": Fraction(charge.node_time, NODE_HOUR),
    }
    return all(
        getattr(budget, name) is None or amount <= Fraction(Decimal(str(getattr(budget, name))))
        for name, amount in used.items()
    )


@repeatable
@given(traffic())
def test_spent_and_reserved_are_never_more_than_the_budget(drawn):
    budget, steps = drawn
    purse, time, began = Purse(budget), 0.0, None
    flying, settled, unconfirmed = [], [], []
    for what, bound, detail in steps:
        if what == "reserve":
            time += detail
            before = purse.spent, purse.reserved
            late = began is not None and time >= began + (budget.seconds or math.inf)
            room = keeps(budget, purse.spent + purse.reserved + bound)
            assert purse.fits(bound, time) == (room and not late)
            assert (purse.refusal(bound, time) is None) == (room and not late)
            if purse.reserve(bound, time):
                began = time if began is None else began
                flying.append(bound)
            else:
                assert (purse.spent, purse.reserved) == before
        elif bound in flying:
            flying.remove(bound)
            purse.settle(bound, detail)
            if detail is None:
                unconfirmed.append(bound + Charge(unconfirmed=1))
            settled.append(unconfirmed[-1] if detail is None else detail)
        assert keeps(budget, purse.spent + purse.reserved)
        assert purse.reserved == reduce(add, flying, NO_CHARGE)
    assert purse.spent == reduce(add, settled, NO_CHARGE)
    assert purse.unconfirmed == reduce(add, unconfirmed, NO_CHARGE)
    assert purse.unconfirmed.unconfirmed == len(unconfirmed)
    assert purse.exceeded == 0


@repeatable
@given(traffic(), budgets)
def test_two_purses_take_together_or_not_at_all(drawn, other):
    budget, steps = drawn
    run, pool, time = Purse(budget), Purse(other, "pool"), 0.0
    for what, bound, detail in steps:
        if what == "settle":
            continue
        time += detail
        before = run.reserved
        fit = run.fits(bound, time) and pool.fits(bound, time)
        assert reserve_in((run, pool), bound, time) == fit
        assert run.reserved == pool.reserved == (before + bound if fit else before)
        assert keeps(budget, run.reserved)
        assert keeps(other, pool.reserved)


def test_a_purse_that_refuses_does_not_start_the_time_of_the_other():
    run, pool = Purse(Budget(seconds=10)), Purse(Budget(tokens=1), "pool")
    assert not reserve_in((run, pool), Charge(2), 0.0)
    assert run.fits(Charge(2), 100.0)


@repeatable
@given(st.integers(1, 1000))
def test_money_adds_up_to_the_last_cent(cents):
    purse = Purse(Budget(usd=cents / 100))
    reserved = sum(purse.reserve(Charge(picodollars=CENT), 0.0) for _ in range(cents + 3))
    assert reserved == cents


@repeatable
@given(bounds, bounds)
def test_what_costs_more_than_was_reserved_is_charged_truly_and_counted(bound, more):
    purse = Purse(Budget(tokens=bound.tokens + 1))
    assert purse.reserve(bound, 0.0)
    actual = bound + more
    purse.settle(bound, actual)
    assert purse.spent == actual
    assert purse.reserved == NO_CHARGE
    assert purse.exceeded == (more.tokens > 0)
    assert purse.fits(Charge(1), 0.0) == (more.tokens == 0)


def test_what_has_no_limit_cannot_be_exceeded():
    purse = Purse(Budget(requests=5))
    assert purse.reserve(Charge(requests=1), 0.0)
    purse.settle(Charge(requests=1), Charge(100, 100, 1, CENT))
    assert purse.exceeded == 0
    assert purse.spent == Charge(100, 100, 1, CENT)


def test_what_was_never_sent_is_given_back():
    purse = Purse(Budget(requests=1))
    assert purse.reserve(Charge(requests=1), 0.0)
    assert not purse.reserve(Charge(requests=1), 0.0)
    purse.settle(Charge(requests=1), NO_CHARGE)
    assert purse.reserve(Charge(requests=1), 0.0)


def test_what_was_spent_is_spent():
    purse = Purse(Budget(tokens=100))
    assert purse.reserve(Charge(60, 30, 1), 0.0)
    purse.settle(Charge(60, 30, 1), Charge(60, 30, 1))
    assert not purse.reserve(Charge(11), 0.0)
    assert purse.reserve(Charge(10), 0.0)


@given(traffic(), st.integers(0, 40))
@repeatable
def test_a_budget_holds_over_what_follows_one_another(happens, cut):
    """Of two purses of one budget, the second allows what the first would have allowed."""
    given_budget, steps = happens
    budget = replace(given_budget, seconds=None)  # which count while there is something to send
    whole = purse = Purse(budget)
    time, flying = 0.0, []
    for number, (kind, charge, arg) in enumerate(steps):
        if number == cut:
            purse = Purse(budget, past=whole.used(time))
            for bound in flying:  # nobody hears of it any more
                whole.settle(bound, bound)
            flying = []
        if kind == "reserve":
            time += arg
            fits = whole.fits(charge, time)
            assert purse.fits(charge, time) == fits
            assert purse.is_spent(charge, time) == whole.is_spent(charge, time)
            if purse.reserve(charge, time):
                flying.append(charge)
                if whole is not purse:
                    assert whole.reserve(charge, time)
        elif charge in flying:
            flying.remove(charge)
            purse.settle(charge, arg)
            if whole is not purse:
                whole.settle(charge, arg)


def test_a_past_is_used_and_not_spent():
    first = Purse(Budget(tokens=100, seconds=10))
    assert first.reserve(Charge(60, 30, 1), 5.0)
    first.settle(Charge(60, 30, 1), Charge(50, 0, 1))
    assert first.reserve(Charge(20, 10, 1), 5.0)
    past = first.used(9.0)  # the second is in flight, and counts as it was reserved
    assert past == Past(Charge(70, 10, 2), 4.0)
    assert Past.from_dict(orjson.loads(orjson.dumps(past.to_dict()))) == past
    second = Purse(first.budget, "tree", past)
    assert second.spent == NO_CHARGE
    assert not second.is_unused
    assert second.refusal(Charge(21), 1000.0) == (
        "The tree's budget of 100 tokens is spent: 80 used, and one more call may use 21; run again"
        " with a larger budget to go on."
    )
    assert second.reserve(Charge(20), 1000.0)
    assert second.used(1003.0) == Past(Charge(90, 10, 2), 7.0)
    assert not second.fits(NO_CHARGE, 1006.0)


@pytest.fixture
def restless_threads():
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_who_looks_from_another_thread_misses_nothing(restless_threads):
    purse, one, count = Purse(None), Charge(requests=1), 20_000
    for _ in range(count):
        assert purse.reserve(one, 0.0)

    def settle():
        for _ in range(count):
            purse.settle(one, one)

    settling = threading.Thread(target=settle)
    settling.start()
    seen = []
    while settling.is_alive():
        seen.append(purse.used(0.0).charge.requests)
    settling.join()
    assert min(seen) >= count
    assert purse.used(0.0).charge.requests == count


def test_no_time_is_left_of_a_past():
    purse = Purse(Budget(seconds=10), past=Past(seconds=10.5))
    assert not purse.fits(NO_CHARGE, 0.0)
    assert purse.is_spent(NO_CHARGE, 0.0)
    assert purse.used(7.0) == Past(seconds=10.5)
    assert "it has been sending for 10.5 s" in purse.refusal(NO_CHARGE, 0.0)


def test_a_purse_without_a_budget_counts():
    purse = Purse(None)
    assert purse.reserve(Charge(10**18, 0, 1, 10**30, 10**30), 1e9)
    purse.settle(Charge(10**18, 0, 1, 10**30, 10**30), Charge(5, 6, 1))
    assert purse.spent == Charge(5, 6, 1)
    assert not purse.is_spent(Charge(10**18), 2e9)
    assert purse.refusal(Charge(10**18), 2e9) is None


def test_what_is_in_flight_may_leave_room():
    purse = Purse(Budget(tokens=100))
    assert purse.reserve(Charge(60), 0.0)
    assert not purse.fits(Charge(60), 0.0)
    assert not purse.is_spent(Charge(60), 0.0)
    purse.settle(Charge(60), Charge(41))
    assert purse.is_spent(Charge(60), 0.0)


@in_virtual_time
async def test_the_seconds_count_from_the_first_request():
    await asyncio.sleep(1000)
    purse = Purse(Budget(seconds=10))
    assert not purse.is_spent(Charge(), now())
    assert purse.reserve(Charge(requests=1), now())
    await asyncio.sleep(9.9)
    assert purse.reserve(Charge(requests=1), now())
    await asyncio.sleep(0.2)
    assert not purse.reserve(Charge(requests=1), now())
    assert purse.is_spent(Charge(requests=1), now())
    assert purse.refusal(Charge(requests=1), now()) == (
        "The run's budget of 10 s is spent: it has been sending for 10.1 s; run again with a"
        " larger budget to go on."
    )


# -- in words ---------------------------------------------------------------------------------


def test_the_words_when_it_is_spent():
    purse = Purse(Budget(tokens=1_000_000))
    assert purse.reserve(Charge(999_000), 0.0)
    purse.settle(Charge(999_000), Charge(999_000, 120))
    assert purse.reserve(Charge(600, 40), 0.0)
    assert purse.refusal(Charge(500, 12), 0.0) == (
        "The run's budget of 1,000,000 tokens is spent: 999,120 used, 640 reserved by what is in"
        " flight, and one more call may use 512; run again with a larger budget to go on."
    )


def test_what_is_not_reserved_is_not_told_of():
    purse = Purse(Budget(usd=5), "pool")
    assert purse.reserve(Charge(picodollars=499 * CENT), 0.0)
    purse.settle(Charge(picodollars=499 * CENT), Charge(picodollars=499 * CENT))
    assert purse.refusal(Charge(picodollars=CENT + CENT // 8), 0.0) == (
        "The pool's budget of $5.00 is spent: $4.99 used, and one more call may use $0.01125; run"
        " again with a larger budget to go on."
    )


def test_a_budget_that_is_too_small_for_one_call_says_so():
    assert Purse(Budget(tokens=100)).refusal(Charge(90, 11), 0.0) == (
        "The run's budget of 100 tokens is too small for one call, which may use 101; give a larger"
        " budget, or a smaller max_tokens."
    )
    assert Purse(Budget(node_hours=0.25)).refusal(Charge(node_time=NODE_HOUR), 0.0) == (
        "The run's budget of 0.25 node-hours is too small for one call, which may use 1; give a"
        " larger budget, or a smaller timeout."
    )


def test_a_budget_in_words():
    assert Budget(usd=5, tokens=1_000_000).describe() == "at most $5.00, 1,000,000 tokens"
    rest = Budget(requests=1, node_hours=1.5, seconds=3600)
    assert rest.describe() == "at most 1 request, 1.5 node-hours, 3,600 s"
    assert Budget(usd=1e-7).describe() == "at most $1.0e-07"
    assert "at most $5.00, spent Charge(" in repr(Purse(Budget(usd=5)))
    assert "Purse(run, without limit" in repr(Purse(None))


# -- nonsense ---------------------------------------------------------------------------------


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"Budget\(\) limits nothing; give usd="):
        Budget()


@pytest.mark.parametrize("name", ["usd", "tokens", "requests", "node_hours", "seconds"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "5"])
def test_an_absurd_amount_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"Budget\({name}=.*\) must be a (whole|finite) number"):
        Budget(**{name: value})


@pytest.mark.parametrize("name", ["tokens", "requests"])
def test_what_is_counted_is_whole(name):
    with pytest.raises(ValueError, match="whole number"):
        Budget(**{name: 1e6})


def test_an_endpoint_without_a_price_cannot_keep_a_budget_of_money():
    budget = Budget(usd=1)
    for price in (None, Price(nodes=2)):
        with pytest.raises(ValueError, match=r"Budget\(usd=1\) needs to know what theta costs"):
            budget.check_price(price, "theta")
    budget.check_price(Price(0, 0), "theta")
    budget.check_price(Price(nodes=2, usd_per_node_hour=3), "theta")
    Budget(tokens=1).check_price(None, "theta")


def test_an_endpoint_without_nodes_cannot_keep_a_budget_of_node_hours():
    for price in (None, Price(1, 1)):
        with pytest.raises(ValueError, match="needs to know the nodes of theta"):
            Budget(node_hours=1).check_price(price, "theta")
    Budget(node_hours=1).check_price(Price(nodes=2), "theta")


def test_tokens_need_a_bound_where_they_are_limited_or_cost_something():
    assert Budget(tokens=1).needs_tokens(None)
    assert Budget(usd=1).needs_tokens(Price(1, 1))
    assert not Budget(usd=1).needs_tokens(Price(nodes=2, usd_per_node_hour=3))
    assert not Budget(requests=1, node_hours=1, seconds=1).needs_tokens(Price(1, 1, nodes=2))


@repeatable
@given(budgets, st.lists(bounds, max_size=5), bounds, st.floats(0, 200))
def test_the_next_purse_has_what_is_left(budget, spent, charge, now):
    purse = Purse(budget)
    paid = [each for each in spent if purse.reserve(each, 0.0)]
    for each in paid:
        purse.settle(each, each)
    following = purse.next().next()
    assert following.spent == following.reserved == NO_CHARGE
    assert following.is_unused == (not paid)
    assert following.is_spent(charge, now) == purse.is_spent(charge, now)
    assert following.refusal(charge, now) == purse.refusal(charge, now)
    assert following.reserve(charge, now) == purse.reserve(charge, now)
