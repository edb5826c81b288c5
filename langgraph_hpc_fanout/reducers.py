"""What a fan-out's outcomes become in graph state.

A reducer is a callable over an iterable of `Outcome` in input order; write your own the same
way. Those that take settings (`fold`, `top_k`, `best_of`, `vote`) return such a callable. Values
that go into graph state should be plain data.
"""

from __future__ import annotations

import heapq
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import orjson

from langgraph_hpc_fanout.journal.results import Results
from langgraph_hpc_fanout.records import Outcome

Reducer = Callable[[Iterable[Outcome]], Any]

A = TypeVar("A")

COLLECT_BYTES = 16 * 1024 * 1024
"""Most that `collect` puts into graph state, in bytes of JSON."""


def collect(outcomes: Iterable[Outcome]) -> list[Any]:
    """The values in input order, None where an item failed.

    Raises:
        ValueError: If there are more than 16 MB of them; keep a `reference` instead.
    """
    values: list[Any] = []
    size = 0
    for outcome in outcomes:
        values.append(outcome.value)
        size += _bytes_of(outcome.value)
        if size > COLLECT_BYTES:
            raise ValueError(
                f"The answers are more than {COLLECT_BYTES // 2**20} MB, too much for graph "
                "state; use reducers.reference with a journal and read them with Results.open."
            )
    return values


def reference(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Where the outcomes are: `{"run", "journal", "total", "ok", "failed"}`.

    Read them with `Results.open(reference)`. Needs a fan-out with a journal.

    Raises:
        TypeError: If called with anything but a run's `Results`.
        ValueError: If the run has no journal.
    """
    if not isinstance(outcomes, Results):
        raise TypeError("reference takes the Results of a run.")
    return outcomes.reference()


def outcomes(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Every outcome in input order, as a dict."""
    return [outcome.to_dict() for outcome in outcomes]


def by_key(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Values by key, None where an item failed; of equal keys the last answer counts."""
    values: dict[str, Any] = {}
    for outcome in outcomes:
        if outcome.ok or outcome.key not in values:
            values[outcome.key] = outcome.value
    return values


def fold(function: Callable[[A, Outcome], A], initial: A) -> Callable[[Iterable[Outcome]], A]:
    """A reducer that folds a function over the outcomes, from `initial`.

    Args:
        function: Takes what was folded so far and an outcome; must not change the former in
            place, because `initial` is used again for the next run.
        initial: What to begin with.
    """

    def reduce(outcomes: Iterable[Outcome]) -> A:
        folded = initial
        for outcome in outcomes:
            folded = function(folded, outcome)
        return folded

    return reduce


def top_k(k: int, score: Callable[[Outcome], float]) -> Callable[[Iterable[Outcome]], list[Any]]:
    """A reducer that keeps the values with the `k` highest scores, best first.

    Args:
        k: How many, at least 1.
        score: The score of a successful outcome; equal scores keep input order.

    Raises:
        ValueError: If `k` is less than 1.
    """
    if k < 1:
        raise ValueError(f"top_k(k={k!r}) must keep at least one.")

    def reduce(outcomes: Iterable[Outcome]) -> list[Any]:
        successes = (outcome for outcome in outcomes if outcome.ok)
        return [outcome.value for outcome in heapq.nlargest(k, successes, key=score)]

    return reduce


def best_of(score: Callable[[Outcome], float]) -> Callable[[Iterable[Outcome]], Any]:
    """A reducer that keeps the value with the highest score; None when nothing succeeded.

    Args:
        score: The score of a successful outcome; of equal scores the first counts.
    """

    def reduce(outcomes: Iterable[Outcome]) -> Any:
        best = max((each for each in outcomes if each.ok), key=score, default=None)
        return None if best is None else best.value

    return reduce


def vote(
    *, of: Callable[[Any], Any] | None = None, abstain_below: float = 0.0
) -> Callable[[Iterable[Outcome]], list[dict[str, Any]]]:
    """A reducer that lets the samples of each item vote, see `Prompt(samples=...)`.

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
        ValueError: If `abstain_below` is no share.

    Example:
        ```python
        prompt = Prompt("Is {smiles} toxic? Answer yes or no.", samples=5, temperature=0.8)
        gather = ReduceNode(screen, into="votes", reducer=reducers.vote(abstain_below=0.6))
        ```
    """
    if not 0.0 <= abstain_below <= 1.0:
        raise ValueError(f"vote(abstain_below={abstain_below!r}) is no share from 0 to 1.")

    def reduce(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
        return [
            _count_votes(list(samples), of, abstain_below)
            for _, samples in itertools.groupby(outcomes, key=lambda outcome: outcome.index)
        ]

    return reduce


def _count_votes(
    samples: list[Outcome], of: Callable[[Any], Any] | None, abstain_below: float
) -> dict[str, Any]:
    ballots = [of(each.value) if of else each.value for each in samples if each.ok]
    by_text = {orjson.dumps(ballot, option=orjson.OPT_SORT_KEYS): ballot for ballot in ballots}
    votes = Counter(orjson.dumps(ballot, option=orjson.OPT_SORT_KEYS) for ballot in ballots)
    shares = [count / len(ballots) for count in votes.values()]
    share = max(shares, default=0.0)
    winner = by_text[votes.most_common(1)[0][0]] if votes and share >= abstain_below else None
    return {
        "value": winner,
        "share": share,
        "entropy": abs(-sum(part * math.log2(part) for part in shares)),
        "votes": len(ballots),
        "samples": len(samples),
    }


def stats(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Counts, failures by kind, tokens, attempts, share of each endpoint, latency.

    Returns:
        `{"total", "ok", "failed", "failures", "cached", "attempts", "tokens", "endpoints",
        "latency"}`; latencies in seconds, over items that were sent.
    """
    ok = total = cached = attempts = estimated = read = written = 0
    failures: Counter[str] = Counter()
    endpoints: Counter[str] = Counter()
    latencies: list[float] = []
    for outcome in outcomes:
        total += 1
        ok += outcome.ok
        if outcome.error is not None:
            failures[outcome.error.kind] += 1
        if outcome.meta.get("cached"):
            cached += 1
            continue
        attempts += outcome.attempts
        if outcome.endpoint is not None:
            endpoints[outcome.endpoint] += 1
        if outcome.attempts:
            latencies.append(outcome.latency)
        if outcome.usage is not None:
            read += outcome.usage.prompt_tokens
            written += outcome.usage.completion_tokens
            estimated += outcome.usage.estimated
    return {
        "total": total,
        "ok": ok,
        "failed": total - ok,
        "failures": dict(failures),
        "cached": cached,
        "attempts": attempts,
        "tokens": {"prompt": read, "completion": written, "estimated_items": estimated},
        "endpoints": dict(endpoints),
        "latency": _quantiles(latencies),
    }


def _bytes_of(value: Any) -> int:
    if isinstance(value, str) and value.isascii():
        return len(value)
    return len(orjson.dumps(value, default=repr))


def _quantiles(values: list[float]) -> dict[str, float]:
    if len(values) < 2:
        return {"p50": values[0], "p95": values[0], "max": values[0]} if values else {}
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    return {"p50": round(cuts[9], 6), "p95": round(cuts[18], 6), "max": round(max(values), 6)}
