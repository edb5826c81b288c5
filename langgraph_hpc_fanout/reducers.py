"""What a fan-out's outcomes become in graph state.

A reducer is a callable over an iterable of `Outcome` in input order; write your own the same
way. Those that take settings (`fold`, `top_k`, `best_of`) return such a callable. Values that
go into graph state should be plain data.
"""

from __future__ import annotations

import heapq
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
