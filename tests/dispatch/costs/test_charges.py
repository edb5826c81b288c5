"""Charges: a bound before, the truth after."""

from __future__ import annotations

from functools import reduce
from operator import add

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable, texts

from langgraph_hpc_fanout.dispatch.costs.charges import NO_CHARGE, Charge, charge_of, cost_of
from langgraph_hpc_fanout.endpoints.price import NODE_HOUR, PICODOLLARS, Price
from langgraph_hpc_fanout.records import Failure, Reply, Request, Usage

PRICE = Price(1, 2)
NODES = Price(nodes=2, usd_per_node_hour=3)
numbers = st.integers(0, 10**15)
charges = st.builds(Charge, numbers, numbers, numbers, numbers, numbers, numbers)


def ask(text="yes or no?", max_tokens=None, **body):
    body = {"messages": [{"role": "user", "content": text}], **body}
    return Request("k", "m", body, 3, max_tokens)


@repeatable
@given(st.lists(charges, max_size=6), st.randoms())
def test_charges_add_up_in_any_order(drawn, chance):
    total = reduce(add, drawn, NO_CHARGE)
    chance.shuffle(drawn)
    assert reduce(add, drawn, NO_CHARGE) == total
    assert total.tokens == sum(each.prompt_tokens + each.completion_tokens for each in drawn)
    assert total.picodollars == sum(each.picodollars for each in drawn)


def test_a_charge_in_units_for_people():
    charge = Charge(3, 4, 1, 5 * PICODOLLARS, NODE_HOUR // 2)
    assert (charge.tokens, charge.usd, charge.node_hours) == (7, 5.0, 0.5)


# -- before -----------------------------------------------------------------------------------


@repeatable
@given(st.lists(texts, max_size=4), st.integers(1, 10**6))
def test_the_bound_is_at_least_a_token_for_each_byte_of_text(contents, most):
    messages = [{"role": "user", "content": content} for content in contents]
    charge = charge_of(Request("k", "m", {"messages": messages}, 0, most), PRICE, None, 60)
    assert charge.prompt_tokens >= sum(len(content.encode()) for content in contents) + 256
    assert charge.completion_tokens == most
    assert charge.picodollars == PRICE.token_bound(charge.prompt_tokens, most)
    assert charge.requests == 1


def test_a_schema_and_tools_are_read_too():
    short = charge_of(ask(max_tokens=8), None, None, 60)
    tools = charge_of(ask(max_tokens=8, tools=[{"name": "x" * 500}]), None, None, 60)
    assert tools.prompt_tokens >= short.prompt_tokens + 500


def test_each_of_several_answers_may_be_as_long():
    assert charge_of(ask(max_tokens=8, n=3), None, None, 60).completion_tokens == 24


def test_without_max_tokens_the_context_limit_is_reserved():
    assert charge_of(ask(), None, 4096, 60).completion_tokens == 4096


def test_nothing_is_longer_than_the_context():
    charge = charge_of(ask("x" * 10_000, max_tokens=10_000), None, 4096, 60)
    assert (charge.prompt_tokens, charge.completion_tokens) == (4096, 4096)


def test_with_neither_the_error_asks_for_max_tokens():
    with pytest.raises(ValueError, match=r"needs max_tokens.*of 'm' may be; give the task"):
        charge_of(ask(), PRICE, None, 60)


def test_a_picture_may_fill_the_context():
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {}}]
    assert charge_of(ask(parts, 8), None, 4096, 60).prompt_tokens == 4096
    with pytest.raises(ValueError, match="needs the context limit of 'm'"):
        charge_of(ask(parts, 8), None, None, 60)
    only_text = charge_of(ask(parts[:1], 8), None, 4096, 60)
    assert only_text.prompt_tokens < 400


def test_a_call_of_a_function_has_no_bound_of_tokens():
    call = Request("k", None, {"item": 1}, function="chem:dock")
    with pytest.raises(ValueError, match="chem:dock"):
        charge_of(call, PRICE, None, 60)
    charge = charge_of(call, NODES, None, 3600, count_tokens=False)
    assert charge == Charge(0, 0, 1, 6 * PICODOLLARS, 2 * NODE_HOUR)


def test_without_tokens_to_count_nothing_is_asked_for():
    assert charge_of(ask(), PRICE, None, 60, count_tokens=False) == Charge(requests=1)


# -- after ------------------------------------------------------------------------------------

RESERVED = Charge(300, 100, 1, PRICE.token_bound(300, 100))


def test_an_answer_costs_what_it_used():
    cost = cost_of(RESERVED, Reply(0, body={}, usage=Usage(60, 5)), PRICE, 1.0)
    assert cost == Charge(60, 5, 1, PRICE.token_cost(60, 5))


@pytest.mark.parametrize(
    "reply",
    [
        Reply(0, body={}),
        Reply(0, body={}, usage=Usage(60, 5, estimated=True)),
        Reply(0, failure=Failure("timeout", "late")),
        Reply(0, failure=Failure("transient", "broke off", 502)),
        Reply(0, failure=Failure("permanent", "raised")),
    ],
    ids=["no usage", "a guess", "timeout", "502", "no status"],
)
def test_what_nobody_reports_is_charged_as_reserved(reply):
    cost = cost_of(RESERVED, reply, PRICE, 1.0)
    assert cost == Charge(300, 100, 1, RESERVED.picodollars, 0, unconfirmed=1)


@pytest.mark.parametrize(
    "failure",
    [
        Failure("rate_limited", "slow down", 429),
        Failure("overloaded", "busy", 503),
        Failure("cold", "nobody there"),
        Failure("auth", "no token"),
        Failure("permanent", "bad field", 400),
    ],
    ids=lambda failure: failure.kind,
)
def test_what_was_turned_away_used_no_tokens(failure):
    assert cost_of(RESERVED, Reply(0, failure=failure), PRICE, 1.0) == Charge(requests=1)


@pytest.mark.parametrize("kind", ["transient", "cold", "permanent", "rate_limited"])
@pytest.mark.parametrize("price", [PRICE, NODES, None])
def test_what_never_left_costs_nothing(kind, price):
    assert (
        cost_of(RESERVED, Reply(0, failure=Failure(kind, "no"), tries=0), price, 1.0) == NO_CHARGE
    )


@pytest.mark.parametrize("kind", ["cold", "auth", "rate_limited", "overloaded", "permanent"])
def test_what_may_have_been_worked_on_is_charged_whatever_the_failure(kind):
    reply = Reply(0, failure=Failure(kind, "cannot be read", 400), may_cost=True)
    cost = cost_of(RESERVED, reply, PRICE, 1.0)
    assert cost == Charge(300, 100, 1, RESERVED.picodollars, 0, unconfirmed=1)


def test_what_a_gateway_gave_up_may_be_paid_for():
    given_up = Failure("timeout", "no answer in 300 s", 408)
    cost = cost_of(RESERVED, Reply(0, failure=given_up), PRICE, 1.0)
    assert cost.tokens == RESERVED.tokens
    assert cost.unconfirmed == 1


def test_tries_on_a_node_before_the_last_are_charged_as_reserved():
    cost = cost_of(RESERVED, Reply(0, body={}, usage=Usage(60, 5), tries=3), PRICE, 1.0)
    money = PRICE.token_cost(60, 5) + 2 * RESERVED.picodollars
    assert cost == Charge(660, 205, 3, money, 0, unconfirmed=2)


def test_node_time_is_known_whatever_came_back():
    reserved = charge_of(ask(max_tokens=8), NODES, None, 3600)
    cost = cost_of(reserved, Reply(0, failure=Failure("timeout", "late")), NODES, 36)
    assert (cost.node_hours, cost.usd) == (0.02, 0.06)
    assert cost.tokens == reserved.tokens


def test_without_a_price_only_the_rest_is_counted():
    reserved = charge_of(ask(max_tokens=8), None, None, 60)
    assert cost_of(reserved, Reply(0, body={}, usage=Usage(6, 5)), None, 9) == Charge(6, 5, 1)
    lost = cost_of(reserved, Reply(0, failure=Failure("timeout", "late")), None, 9)
    assert lost == reserved + Charge(unconfirmed=1)


@repeatable
@given(
    st.sampled_from(
        [PRICE, NODES, Price(0.15, 0.6, nodes=3, share=0.3, usd_per_node_hour=1.1), None]
    ),
    texts,
    st.integers(1, 100),
    st.floats(0.1, 1000),
    st.data(),
)
def test_no_attempt_that_keeps_to_the_bounds_costs_more_than_was_reserved(
    price, text, most, timeout, data
):
    reserved = charge_of(ask(text, most), price, None, timeout)
    read = data.draw(st.integers(0, reserved.prompt_tokens))
    written = data.draw(st.integers(0, most))
    replies = [
        Reply(0, body={}, usage=Usage(read, written)),
        Reply(0, failure=Failure("timeout", "late")),
        Reply(0, failure=Failure("rate_limited", "busy", 429)),
    ]
    cost = cost_of(
        reserved, data.draw(st.sampled_from(replies)), price, data.draw(st.floats(0, timeout))
    )
    for part in ("prompt_tokens", "completion_tokens", "requests", "picodollars", "node_time"):
        assert getattr(cost, part) <= getattr(reserved, part)
