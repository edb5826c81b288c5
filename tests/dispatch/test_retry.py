"""Retry: what follows from each kind of failure, and how long to wait."""

from __future__ import annotations

import random
from dataclasses import FrozenInstanceError
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from langgraph_hpc_fanout import Retry
from langgraph_hpc_fanout.dispatch.retry import ACTIONS, RetryBudget, actions_at
from langgraph_hpc_fanout.endpoints.protocol import Action
from langgraph_hpc_fanout.records import FailureKind


class Highest(random.Random):
    """Chance at its worst."""

    def random(self):
        return 1.0


def test_every_kind_of_failure_has_a_consequence():
    assert set(ACTIONS) == set(get_args(FailureKind))
    with pytest.raises(TypeError):
        ACTIONS["auth"] = Action.WAIT  # type: ignore[index]


@pytest.mark.parametrize(
    ("action", "kinds"),
    [
        (Action.ABORT, {"auth"}),
        (Action.WAIT, {"rate_limited", "overloaded"}),
        (Action.PROBE, {"cold"}),
        (Action.TRY_AGAIN, {"transient", "timeout"}),
        (Action.GIVE_UP, {"permanent", "budget", "invalid_output", "cancelled"}),
    ],
)
def test_the_consequences(action, kinds):
    assert {kind for kind, consequence in ACTIONS.items() if consequence is action} == kinds


seconds = st.floats(1e-3, 1e6)


@repeatable
@given(seconds, seconds, st.integers(1, 10**6), st.integers(0, 2**32))
def test_a_backoff_lies_between_nothing_and_its_bound(base, cap, failures, seed):
    retry = Retry(base=base, cap=cap)
    waited = retry.backoff(failures, random.Random(seed))
    bound = min(cap, base * 2 ** min(failures - 1, 60))
    assert 0 <= waited <= bound * (1 + 1e-12)


@repeatable
@given(seconds, seconds)
def test_the_bound_doubles_up_to_the_cap(base, cap):
    retry = Retry(base=base, cap=cap)
    bounds = [retry.backoff(failures, Highest()) for failures in range(1, 40)]
    assert bounds[0] == pytest.approx(min(base, cap))
    assert bounds == sorted(bounds)
    assert all(later == pytest.approx(min(2 * earlier, cap)) for earlier, later in pairwise(bounds))
    assert bounds[-1] == pytest.approx(cap)


def test_backoffs_are_jittered_over_the_whole_range_and_repeat_with_the_seed():
    retry = Retry(base=1.0, cap=30.0)
    drawn = [retry.backoff(4, random.Random(seed)) for seed in range(200)]
    assert min(drawn) < 1.0
    assert max(drawn) > 7.0
    assert drawn == [retry.backoff(4, random.Random(seed)) for seed in range(200)]


def test_the_defaults_are_patient():
    retry = Retry()
    assert (retry.attempts, retry.timeout, retry.patience) == (5, 600.0, 600.0)
    assert retry == Retry(5)


@pytest.mark.parametrize("attempts", [0, -1])
def test_at_least_one_attempt(attempts):
    with pytest.raises(ValueError, match=rf"Retry\(attempts={attempts}\) must be at least 1\."):
        Retry(attempts=attempts)


@pytest.mark.parametrize("name", ["timeout", "patience", "base", "cap"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_seconds_are_positive(name, value):
    says = rf"Retry\({name}={value}\) must be a positive number of seconds\."
    with pytest.raises(ValueError, match=says):
        Retry(**{name: value})


def test_a_policy_is_frozen():
    with pytest.raises(FrozenInstanceError):
        Retry().attempts = 1  # type: ignore[misc]


# The budget of retries


def taken(budget, now, most=10_000):
    return next((number for number in range(most) if not budget.take(now)), most)


def test_a_run_without_answers_may_retry_a_little():
    budget = RetryBudget(0.2, 0.0)
    assert taken(budget, 0.0) == 100
    assert taken(budget, 1.0) == 10
    assert taken(budget, 1.0) == 0
    assert budget.wait(1.0) == pytest.approx(0.1)
    assert taken(budget, 1e6) == 100, "time saves up no more than that"


def test_answers_pay_for_a_share():
    budget = RetryBudget(0.2, 0.0)
    taken(budget, 0.0)
    for _ in range(1_000):
        budget.answered()
    assert taken(budget, 0.0) == pytest.approx(200, abs=1)
    for _ in range(1_000_000):
        budget.answered()
    assert taken(budget, 0.0) == 1_000, "what is saved up has an end"


def test_a_retry_that_is_answered_costs_nothing():
    budget = RetryBudget(0.0, 0.0)
    for _ in range(1_000):
        assert budget.take(0.0)
        budget.answered(was_retry=True)


def test_what_answers_saved_up_is_not_lost_in_time():
    budget = RetryBudget(1.0, 0.0)
    for _ in range(400):
        budget.answered()
    assert taken(budget, 5.0) == 500
    assert budget.wait(5.0) > 0
    assert budget.wait(5.2) == 0.0


# Endpoints that differ


class Odd:
    name = "odd"
    actions = {"timeout": Action.GIVE_UP}  # noqa: RUF012 - as a user would write it


def test_an_endpoint_may_want_something_else_done():
    assert actions_at(Odd())["timeout"] is Action.GIVE_UP
    assert actions_at(Odd())["transient"] is Action.TRY_AGAIN
    assert actions_at(object()) is ACTIONS
