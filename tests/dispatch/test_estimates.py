"""Estimates: what is reserved is neither far above what is used nor far below."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from langgraph_hpc_fanout.dispatch.estimates import Estimates
from langgraph_hpc_fanout.records import Request, Usage


def request(prompt_tokens=100, max_tokens=None):
    return Request("k", "m", {}, prompt_tokens, max_tokens)


def learned(lengths, *, asked=None, prompt_tokens=100, seconds=None):
    asked = asked or request()
    estimates = Estimates()
    for number, length in enumerate(lengths):
        took = length / 50 if seconds is None else seconds[number]
        estimates.learn("kind", asked, Usage(prompt_tokens, length), took)
    return estimates


def test_before_the_first_answer_the_most_is_reserved_or_256():
    assert Estimates().tokens("kind", request(max_tokens=4096)) == 100 + 4096
    assert Estimates().tokens("kind", request()) == 100 + 256
    assert Estimates().pace("kind") is None


def test_answers_of_one_length_are_reserved_as_they_are():
    assert learned([40] * 200).tokens("kind", request(max_tokens=4096)) == pytest.approx(140, abs=1)


def test_one_answer_is_reserved_half_as_long_again():
    assert learned([40]).tokens("kind", request()) == pytest.approx(100 + 40 + 20)


def test_the_prompt_is_reserved_as_the_server_counts_it():
    estimates = learned([40] * 200, prompt_tokens=130)
    assert estimates.tokens("kind", request(1000)) == pytest.approx(1300 + 40, abs=1)


def test_a_prompt_of_unknown_length_teaches_nothing_of_prompts():
    estimates = learned([40] * 200, asked=request(0))
    assert estimates.tokens("kind", request(1000)) == pytest.approx(1000 + 40, abs=1)


def test_kinds_are_learned_apart():
    estimates = learned([40] * 10)
    estimates.learn("other", request(), Usage(100, 4000), 80.0)
    assert estimates.tokens("kind", request()) < 200 < 4000 < estimates.tokens("other", request())
    assert repr(estimates) == "Estimates(2 kinds)"


def test_a_change_is_followed():
    estimates = learned([40] * 200 + [400] * 100)
    assert estimates.tokens("kind", request()) == pytest.approx(500, rel=0.05)


@repeatable
@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60), st.integers(1, 5000))
def test_no_more_is_reserved_than_may_be_used_and_no_less_than_the_shortest(lengths, most):
    tokens = learned(lengths).tokens("kind", request(max_tokens=most)) - 100
    assert min(*lengths, most) - 1e-6 <= tokens <= most


@repeatable
@given(st.integers(0, 1000), st.floats(2, 6), st.floats(0.1, 0.9))
def test_the_reserve_lies_between_the_mean_and_two_deviations_more(seed, log_median, sigma):
    dice = random.Random(seed)
    lengths = [round(dice.lognormvariate(log_median, sigma)) for _ in range(1000)]
    mean = math.exp(log_median + sigma**2 / 2)
    deviation = mean * math.sqrt(math.exp(sigma**2) - 1)
    tokens = learned(lengths).tokens("kind", request()) - 100
    assert 0.7 * mean < tokens < mean + 2.5 * deviation


def test_the_pace_is_that_of_a_token():
    assert learned([100, 20, 60] * 10).pace("kind") == pytest.approx(0.02)


def test_nothing_is_late_before_twenty_answers():
    assert Estimates().slow_after("kind") is None
    assert learned([100] * 19).slow_after("kind") is None
    assert learned([100] * 20).slow_after("kind") == pytest.approx(2.0)


@repeatable
@given(st.integers(0, 1000), st.floats(-2, 5), st.floats(0.1, 1.0))
def test_about_one_answer_in_twenty_is_late(seed, log_median, sigma):
    dice = random.Random(seed)
    times = [dice.lognormvariate(log_median, sigma) for _ in range(400)]
    late_after = learned([10] * 400, seconds=times).slow_after("kind")
    late = sum(dice.lognormvariate(log_median, sigma) > late_after for _ in range(2000)) / 2000
    assert 0.003 < late < 0.2


def test_an_answer_that_took_no_time_is_no_error():
    assert learned([10] * 20, seconds=[0.0] * 20).slow_after("kind") > 0
