"""A reducer that lets several answers to one item vote."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import orjson

from langgraph_hpc_fanout.records import NOTHING, SWEEP, Outcome
from langgraph_hpc_fanout.reducers.allowance import Allowance


def vote(
    *,
    of: Callable[[Any], Any] | None = None,
    abstain_below: float = 0.0,
    by: str | Sequence[str] = (),
) -> Callable[[Iterable[Outcome]], list[dict[str, Any]]]:
    """A reducer that lets the samples of each item vote, see `Prompt(samples=...)`.

    In a sweep all variants of an item vote together, unless `by` keeps some apart.

    Args:
        of: What of a value counts, for example `lambda value: value["class"]`; by default all
            of it. Samples that failed have no vote.
        abstain_below: Least share of the votes (0 to 1) that a winner must have.
        by: What a sweep varies that makes another vote of it: `"prompt"`, `"model"`, a parameter;
            or several of these. Variants that ask different things must not vote together.

    Returns:
        A reducer that gives, for each item in input order, `{"value", "share", "entropy",
        "votes", "samples"}`: the winner (of equal ones the first; None when nobody voted or the
        share is too small), its share of the votes, the entropy of the votes in bits, their
        number, and the number of samples. With `by` it gives one for each item and group, in the
        order of the sweep, and in it the item's `index` and under `sweep` the group's coordinates.

    Raises:
        ValueError: If `abstain_below` is no share; from the reducer, if what counts is no JSON
            data, the results are more than 16 MB, or the outcomes have no coordinate of a name
            in `by`.

    Example:
        ```python
        prompt = Prompt("Is {smiles} toxic? Answer yes or no.", samples=5, temperature=0.8)
        gather = ReduceNode(screen, into="votes", reducer=reducers.vote(abstain_below=0.6))
        ```

        In a sweep over prompts and models, where the models vote on each prompt:

        ```python
        gather = ReduceNode(swept, into="votes", reducer=reducers.vote(by="prompt"))
        ```
    """
    if not 0.0 <= abstain_below <= 1.0:
        raise ValueError(f"vote(abstain_below={abstain_below!r}) is no share from 0 to 1.")
    axes = (by,) if isinstance(by, str) else tuple(by)

    def reduce(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
        allowance = Allowance("votes")
        results: list[dict[str, Any]] = []
        for _, samples in itertools.groupby(outcomes, key=lambda outcome: outcome.index):
            for result in _votes(samples, of, abstain_below, axes):
                allowance.take(result)
                results.append(result)
        return results

    return reduce


def _votes(
    samples: Iterable[Outcome],
    of: Callable[[Any], Any] | None,
    abstain_below: float,
    axes: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """The results of an item: one, or one for each group of its variants."""
    groups: dict[bytes, tuple[dict[str, Any], _Ballots]] = {}
    for sample in samples:
        group = _group(sample, axes) if axes else {}
        name = orjson.dumps(group)  # values of parameters may be lists
        _, ballots = groups.setdefault(name, (group, _Ballots(of)))
        ballots.add(sample)
    for group, ballots in groups.values():
        yield {**group, **ballots.count(abstain_below)}


def _group(sample: Outcome, axes: Sequence[str]) -> dict[str, Any]:
    """Whose vote a sample is in, as the fields that tell it in the result."""
    coordinates = sample.meta.get(SWEEP, NOTHING)
    if unknown := [name for name in axes if name not in coordinates]:
        there = f"they have {', '.join(coordinates)}" if coordinates else "they are of no sweep"
        raise ValueError(
            f"vote(by={unknown[0]!r}) names no coordinate of the outcomes; {there}. Name what the "
            "Sweep varies."
        )
    return {"index": sample.index, SWEEP: {name: coordinates[name] for name in axes}}


class _Ballots:
    """Votes on one thing: equal values are equal JSON, whatever the order of their fields."""

    def __init__(self, of: Callable[[Any], Any] | None) -> None:
        self._of = of
        self._values: dict[bytes, Any] = {}
        self._votes: dict[bytes, int] = {}
        self._samples = 0

    def count(self, abstain_below: float) -> dict[str, Any]:
        total = sum(self._votes.values())
        shares = [votes / total for votes in self._votes.values()]
        first = max(self._votes, key=self._votes.__getitem__, default=b"")
        share = max(shares, default=0.0)
        return {
            "value": self._values.get(first) if share >= abstain_below else None,
            "share": share,
            "entropy": abs(-sum(part * math.log2(part) for part in shares)),
            "votes": total,
            "samples": self._samples,
        }

    def add(self, sample: Outcome) -> None:
        self._samples += 1
        if not sample.ok:
            return
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
