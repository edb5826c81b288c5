"""Ranking: the best of the answers."""

from __future__ import annotations

import functools
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable
from some_outcomes import bad, good

from langgraph_hpc_fanout import reducers

scores = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), max_size=12)


@repeatable
@given(scores, st.integers(1, 15))
def test_top_k_is_the_stable_sort_of_the_successes(drawn, k):
    some = [
        good(index, (score, index)) if ok else bad(index) for index, (ok, score) in enumerate(drawn)
    ]
    successes = [outcome.value for outcome in some if outcome.ok]
    expected = sorted(successes, key=lambda value: -value[0])[:k]
    assert reducers.top_k(k, score=lambda outcome: outcome.value[0])(iter(some)) == expected


@repeatable
@given(scores)
def test_best_of_is_the_first_of_top_k(drawn):
    some = [
        good(index, (score, index)) if ok else bad(index) for index, (ok, score) in enumerate(drawn)
    ]

    def score(outcome):
        return outcome.value[0]

    best = reducers.best_of(score)(iter(some))
    assert ([] if best is None else [best]) == reducers.top_k(1, score)(iter(some))


@pytest.mark.parametrize("k", [0, -1])
def test_top_k_keeps_at_least_one(k):
    with pytest.raises(ValueError, match=rf"top_k\(k={k}\)"):
        reducers.top_k(k, score=len)


@pytest.mark.parametrize("reducer", [functools.partial(reducers.top_k, 2), reducers.best_of])
def test_a_score_that_is_not_a_number_hides_nothing(reducer):
    reduce = reducer(score=lambda outcome: outcome.value)
    with pytest.raises(ValueError, match="score of item 1 is nan, which is no number"):
        reduce([good(0, 1.0), good(1, float("nan")), good(2, 3.0)])


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_holds_no_more_than_it_keeps(k):
    alive = weakref.WeakSet()

    class Answer:
        pass

    most = 0

    def stream():
        nonlocal most
        for index in range(200):
            answer = Answer()
            alive.add(answer)
            yield good(index, answer)
            del answer
            most = max(most, len(alive))

    assert len(reducers.top_k(k, score=lambda outcome: -outcome.index)(stream())) == k
    assert most <= k + 2
