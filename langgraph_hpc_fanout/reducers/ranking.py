"""Reducers that keep the best."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any

from langgraph_hpc_fanout.records import Outcome

Score = Callable[[Outcome], float]


def top_k(k: int, score: Score) -> Callable[[Iterable[Outcome]], list[Any]]:
    """A reducer that keeps the values with the `k` highest scores, best first.

    Args:
        k: How many, at least 1.
        score: The score of a successful outcome; equal scores keep input order.

    Raises:
        ValueError: If `k` is less than 1; from the reducer, if a score is not a number.
    """
    if k < 1:
        raise ValueError(f"top_k(k={k!r}) must keep at least one.")

    def reduce(outcomes: Iterable[Outcome]) -> list[Any]:
        successes = (outcome for outcome in outcomes if outcome.ok)
        return [outcome.value for outcome in heapq.nlargest(k, successes, key=_comparable(score))]

    return reduce


def best_of(score: Score) -> Callable[[Iterable[Outcome]], Any]:
    """A reducer that keeps the value with the highest score; None when nothing succeeded.

    Args:
        score: The score of a successful outcome; of equal scores the first counts.

    Raises:
        ValueError: From the reducer, if a score is not a number.
    """

    def reduce(outcomes: Iterable[Outcome]) -> Any:
        best = max((each for each in outcomes if each.ok), key=_comparable(score), default=None)
        return None if best is None else best.value

    return reduce


def _comparable(score: Score) -> Score:
    """The score, checked: one NaN would hide better ones, silently."""

    def checked(outcome: Outcome) -> float:
        value = score(outcome)
        if value != value:  # a NaN, whatever its type
            raise ValueError(f"The score of item {outcome.index} is {value!r}, which is no number.")
        return value

    return checked
