"""Counts of outcomes that can be added up: of shards into runs, of runs into anything larger."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from langgraph_hpc_fanout.records import Outcome

ACCURACY = 0.01
"""Relative error that a quantile may have."""

_GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
_PER_LOG = 1 / math.log(_GAMMA)


def _bucket(value: float) -> int:
    return math.ceil(math.log(value) * _PER_LOG)


# Ten microseconds and a hundred days: what is outside counts as that, so a dump has an end.
_LEAST, _MOST = 1e-5, 1e7
_FIRST, _LAST = _bucket(_LEAST), _bucket(_MOST)


@dataclass(slots=True)
class Sketch:
    """Quantiles of durations, from counts in buckets whose bounds grow by 2 % each.

    Any quantile from 10 µs to 100 days is right within 1 %; the least and the largest are exact.

    Attributes:
        counts: How many durations each bucket has.
        least: The shortest, in seconds; infinite when there is none.
        most: The longest, in seconds.
    """

    counts: dict[int, int] = field(default_factory=dict)
    least: float = math.inf
    most: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        if seconds <= _LEAST:
            bucket = _FIRST
        elif seconds >= _MOST:
            bucket = _LAST
        else:
            bucket = math.ceil(math.log(seconds) * _PER_LOG)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        if seconds < self.least:
            self.least = seconds
        if seconds > self.most:
            self.most = seconds

    def merge(self, other: Sketch) -> None:
        """Count what another has counted, too."""
        _add(self.counts, other.counts)
        self.least = min(self.least, other.least)
        self.most = max(self.most, other.most)

    def quantile(self, share: float) -> float:
        """The shortest duration that at least this share (0 to 1) of them does not exceed.

        Raises:
            ValueError: If nothing was counted.
        """
        if not self.counts:
            raise ValueError("Nothing was counted, so there is no quantile.")
        left = max(1, math.ceil(share * sum(self.counts.values())))
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left <= 0:
                break
        # The value from which both bounds of the bucket differ by the same ratio.
        middle = 2 * _GAMMA**bucket / (_GAMMA + 1)
        return min(max(middle, self.least), self.most)

    def dump(self) -> dict[str, Any]:
        """The sketch as plain data: a list of counts from the first bucket in use to the last."""
        if not self.counts:
            return {}
        first, last = min(self.counts), max(self.counts)
        return {
            "first": first,
            "counts": [self.counts.get(bucket, 0) for bucket in range(first, last + 1)],
            "least": self.least,
            "most": self.most,
        }

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Sketch:
        """The sketch that `dump` wrote."""
        if not data:
            return cls()
        counts = {bucket: n for bucket, n in enumerate(data["counts"], data["first"]) if n}
        return cls(counts, data["least"], data["most"])


@dataclass(slots=True)
class Stats:
    """What outcomes come to: counts, tokens, attempts, latency.

    Stats of parts add up to those of the whole, in any order. Not safe to change from two threads.

    Attributes:
        total: Outcomes.
        ok: Those with an answer.
        cached: Those that an earlier run paid for. What follows, `failures` apart, is of others.
        attempts: How often items were sent.
        prompt_tokens: Tokens read.
        completion_tokens: Tokens written.
        estimated_items: Items whose tokens were guessed.
        usd: Dollars that items cost, where endpoints have a price.
        failures: Failed items by kind.
        endpoints: Items by the endpoint that had the last word.
        models: Items by the model that answered.
        latency: Seconds of the last attempts of items that were sent.
    """

    total: int = 0
    ok: int = 0
    cached: int = 0
    attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated_items: int = 0
    usd: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)
    endpoints: dict[str, int] = field(default_factory=dict)
    models: dict[str, int] = field(default_factory=dict)
    latency: Sketch = field(default_factory=Sketch)

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Stats:
        """The stats of these outcomes."""
        stats = cls()
        for outcome in outcomes:
            stats.add(outcome)
        return stats

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self.total += 1
        self.ok += outcome.ok
        if outcome.error is not None:
            _count(self.failures, outcome.error.kind)
        if outcome.meta.get("cached"):
            self.cached += 1
            return
        if outcome.endpoint is not None:
            _count(self.endpoints, outcome.endpoint)
        if outcome.model is not None:
            _count(self.models, outcome.model)
        if outcome.attempts:
            self.attempts += outcome.attempts
            self.latency.add(outcome.latency)
        if outcome.cost is not None:
            self.usd += outcome.cost
        if (usage := outcome.usage) is not None:
            self.prompt_tokens += usage.prompt_tokens
            self.completion_tokens += usage.completion_tokens
            self.estimated_items += usage.estimated

    def merge(self, other: Stats) -> None:
        """Count what another has counted, too."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _TABLES:
            _add(getattr(self, name), getattr(other, name))
        self.latency.merge(other.latency)

    def __add__(self, other: Stats) -> Stats:
        both = Stats.load(self.dump())
        both.merge(other)
        return both

    def to_dict(self) -> dict[str, Any]:
        """The stats for people and for graph state.

        Returns:
            `{"total", "ok", "failed", "failures", "cached", "attempts", "tokens": {"prompt",
            "completion", "estimated_items"}, "usd", "endpoints", "models", "latency": {"p50",
            "p95", "max"}}`; latencies in seconds, and none when nothing was sent.
        """
        return {
            "total": self.total,
            "ok": self.ok,
            "failed": self.total - self.ok,
            "failures": dict(self.failures),
            "cached": self.cached,
            "attempts": self.attempts,
            "tokens": {
                "prompt": self.prompt_tokens,
                "completion": self.completion_tokens,
                "estimated_items": self.estimated_items,
            },
            "usd": round(self.usd, 9),
            "endpoints": dict(self.endpoints),
            "models": dict(self.models),
            "latency": self._latency(),
        }

    def _latency(self) -> dict[str, float]:
        if not self.latency.counts:
            return {}
        quantiles = {"p50": self.latency.quantile(0.5), "p95": self.latency.quantile(0.95)}
        return {
            name: round(value, 6) for name, value in {**quantiles, "max": self.latency.most}.items()
        }

    def dump(self) -> dict[str, Any]:
        """The stats as plain data that `load` reads: some 3 kB, and a line an endpoint or model."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        tables = {name: dict(getattr(self, name)) for name in _TABLES}
        return {**numbers, **tables, "latency": self.latency.dump()}

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Stats:
        """The stats that `dump` wrote."""
        tables = {name: dict(data[name]) for name in _TABLES}
        return cls(**{**data, **tables, "latency": Sketch.load(data["latency"])})


_TABLES = ("failures", "endpoints", "models")
_NUMBERS = tuple(each.name for each in fields(Stats) if each.name not in {*_TABLES, "latency"})


def _count(table: dict[str, int], name: str) -> None:
    table[name] = table.get(name, 0) + 1


def _add(table: dict[Any, int], other: Mapping[Any, int]) -> None:
    for name, count in other.items():
        table[name] = table.get(name, 0) + count
