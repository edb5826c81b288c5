"""A reducer that lets several answers to one item vote."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from langgraph_hpc_fanout.records import Outcome
from langgraph_hpc_fanout.reducers.allowance import Allowance


def vote(
    *, of: Callable[[Any], Any] | None = None, abstain_below: float = 0.0
) -> Callable[[Iterable[Outcome]], list[dict[str, Any]]]:
    """A reducer that lets the samples of each item vote, see `Prompt(samples=...)`.

    In a sweep all variants of an item vote together.

    Args:
        of: What of a value counts, for example `lambda value: value["class"]`; by default all
            of it. Samples that failed have no vote.
        abstain_below: Least share of the votes (0 to 1) that a winner must have.

    Returns:
        A reducer that gives, for each item in input order, `{"value", "share", "entropy",
        "votes", "samples"}`: the winner (of equal ones the first; None when nobody voted or the
        share is too small), its share of the votes, the entropy of the votes in bits, their
        number, and the number of samples.

    Raises:
        ValueError: If `abstain_below` is no share; from the reducer, if what counts is no JSON
            data, or the results are more than 16 MB.

    Example:
        ```python
        prompt = Prompt("Is {smiles} toxic? Answer yes or no.", samples=5, temperature=0.8)
        gather = ReduceNode(screen, into="votes", reducer=reducers.vote(abstain_below=0.6))
        ```
    """
    if not 0.0 <= abstain_below <= 1.0:
        raise ValueError(f"vote(abstain_below={abstain_below!r}) is no share from 0 to 1.")

    def reduce(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
        allowance = Allowance("votes")
        results: list[dict[str, Any]] = []
        for _, samples in itertools.groupby(outcomes, key=lambda outcome: outcome.index):
            result = _Ballots(of).count(samples, abstain_below)
            allowance.take(result)
            results.append(result)
        return results

    return reduce


class _Ballots:
    """The votes on one item: equal values are equal JSON, whatever the order of their fields."""

    def __init__(self, of: Callable[[Any], Any] | None) -> None:
        self._of = of
        self._values: dict[bytes, Any] = {}
        self._votes: dict[bytes, int] = {}

    def count(self, samples: Iterable[Outcome], abstain_below: float) -> dict[str, Any]:
        number = 0
        for sample in samples:
            number += 1
            if sample.ok:
                self._add(sample)
        total = sum(self._votes.values())
        shares = [votes / total for votes in self._votes.values()]
        first = max(self._votes, key=self._votes.__getitem__, default=b"")
        share = max(shares, default=0.0)
        return {
            "value": self._values.get(first) if share >= abstain_below else None,
            "share": share,
            "entropy": abs(-sum(part * math.log2(part) for part in shares)),
            "votes": total,
            "samples": number,
        }

    def _add(self, sample: Outcome) -> None:
        ballot = self._of(sample.value) if self._of else sample.value
        try:
            text = orjson.dumps(ballot, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError as error:
            raise ValueError(
                f"vote(of=...) made {ballot!r} of an answer to item {sample.index}: {error}. "
                "Return what JSON has: a text, a number, a list."
            ) from None
        self._values.setdefault(text, ballot)
        self._votes[text] = self._votes.get(text, 0) + 1
