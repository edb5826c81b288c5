"""What a reducer is, and the one from which any other could be made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce as fold_left
from typing import Any, TypeVar

from langgraph_hpc_fanout.records import Outcome

Reducer = Callable[[Iterable[Outcome]], Any]

A = TypeVar("A")


def fold(function: Callable[[A, Outcome], A], initial: A) -> Callable[[Iterable[Outcome]], A]:
    """A reducer that folds a function over the outcomes, from `initial`.

    Args:
        function: Takes what was folded so far and an outcome; must not change the former in
            place, because `initial` is used again for the next run.
        initial: What to begin with.
    """

    def reduce(outcomes: Iterable[Outcome]) -> A:
        return fold_left(function, outcomes, initial)

    return reduce
