"""Spending: so far, for each success, and at the end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import is_plain, repeatable

from langgraph_hpc_fanout.dispatch.costs.budget import Purse
from langgraph_hpc_fanout.dispatch.costs.charges import Charge
from langgraph_hpc_fanout.dispatch.costs.spending import Spending
from langgraph_hpc_fanout.endpoints.price import NODE_HOUR, PICODOLLARS


def paid(charge, *, unconfirmed=None):
    purse = Purse(None)
    purse.settle(charge, charge)
    if unconfirmed is not None:
        purse.settle(unconfirmed, None)
    return purse


def test_what_ten_of_forty_items_have_cost():
    purse = paid(Charge(700, 200, 9, 2 * PICODOLLARS, NODE_HOUR), unconfirmed=Charge(80, 20, 1))
    assert Spending.of(purse, done=10, ok=8, remaining=30).to_dict() == {
        "usd": 2.0,
        "tokens": 1000,
        "requests": 10,
        "node_hours": 1.0,
        "per_success": {"usd": 0.25, "tokens": 125, "requests": 1.25, "node_hours": 0.125},
        "projected": {"usd": 8.0, "tokens": 4000, "requests": 40, "node_hours": 4.0},
        "unconfirmed": {
            "usd": 0.0,
            "tokens": 100,
            "requests": 1,
            "node_hours": 0.0,
            "attempts": 1,
        },
        "exceeded": 0,
    }


def test_before_the_first_outcome_there_is_nothing_to_go_by():
    told = Spending.of(paid(Charge(5)), done=0, ok=0, remaining=9).to_dict()
    assert told["per_success"] is None
    assert told["projected"] is None


def test_failures_alone_have_no_cost_per_success():
    told = Spending.of(paid(Charge(5)), done=1, ok=0, remaining=9).to_dict()
    assert told["per_success"] is None
    assert told["projected"]["tokens"] == 50


@repeatable
@given(st.integers(0, 10**12), st.integers(1, 10**6), st.integers(0, 10**6))
def test_the_projection_is_no_less_than_what_was_spent_and_ends_at_it(tokens, done, remaining):
    told = Spending.of(paid(Charge(tokens)), done, done, remaining).to_dict()
    assert is_plain(told)
    assert told["projected"]["tokens"] >= tokens
    assert Spending.of(paid(Charge(tokens)), done, done, 0).to_dict()["projected"][
        "tokens"
    ] == pytest.approx(tokens)
