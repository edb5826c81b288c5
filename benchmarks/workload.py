"""The work that all contenders are given: the same items and the same question.

Imports nothing but the standard library, because some contenders live where our package is not.
"""

from __future__ import annotations

from collections.abc import Sequence

MODEL = "tiny"
QUESTION = "Is {smiles} soluble in water? Answer yes or no."
MAX_TOKENS = 16
IN_FLIGHT = 1_000

MARK = "CC(C)C"
"""What the questions about items have in common, and those of a warm-up have not."""

Item = dict[str, str]


def molecules(count: int, first: int = 0) -> list[Item]:
    """Items that are all different, as the rows of a data set are."""
    return [{"smiles": f"{MARK}{number}"} for number in range(first, first + count)]


def warm_up(count: int) -> list[Item]:
    """Items to begin with, none of which is asked about later."""
    return [{"smiles": f"CCN{number}"} for number in range(count)]


def lost(answers: Sequence[object], count: int) -> int:
    """How many of so many questions have no answer in their place."""
    return count - sum(isinstance(answer, str) and bool(answer) for answer in answers[:count])
