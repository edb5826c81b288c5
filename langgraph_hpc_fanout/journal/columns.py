"""Outcomes as columns: how they travel in graph state.

A list a field, and no list for a field that no outcome has, weighs a third of a dict an outcome
in a checkpoint and gives the garbage collector next to nothing to look at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

from langgraph_hpc_fanout.records import NOTHING, Failure, Outcome, Usage

Columns = dict[str, list[Any]]

OUTCOME_BYTES = 128
"""What an outcome weighs in columns besides its texts, about."""

_PLAIN = ("value", "model", "endpoint", "attempts", "latency", "finish_reason", "cost")


def to_columns(outcomes: Sequence[Outcome]) -> Columns:
    """The outcomes of consecutive items, as lists of plain data."""
    columns: Columns = {
        "key": [each.key for each in outcomes],
        "ok": [each.ok for each in outcomes],
    }
    for name in _PLAIN:
        columns[name] = [getattr(each, name) for each in outcomes]
    usages = [each.usage for each in outcomes]
    columns["usage"] = [
        usage and [usage.prompt_tokens, usage.completion_tokens, usage.estimated]
        for usage in usages
    ]
    columns["error"] = [each.error and each.error.to_dict() for each in outcomes]
    columns["meta"] = [dict(each.meta) or None for each in outcomes]
    return {
        name: values
        for name, values in columns.items()
        if name == "key" or any(value is not None for value in values)
    }


def from_columns(
    columns: Mapping[str, list[Any]], start: int, samples: int = 1, per_item: int | None = None
) -> Iterator[Outcome]:
    """The outcomes that `to_columns` wrote.

    Args:
        columns: What it wrote.
        start: Place of the first.
        samples: How many places in a row differ in the sample only.
        per_item: How many places an item has; as many as it has samples by default.
    """
    per_item = samples if per_item is None else per_item
    rows = zip(
        columns["key"],
        *(columns.get(name) or repeat(None) for name in ("ok", *_PLAIN, "usage", "error", "meta")),
        strict=False,
    )
    for place, row in enumerate(rows, start):
        key, ok, value, model, endpoint, attempts, latency, reason, cost, usage, error, meta = row
        yield Outcome(
            key,
            place // per_item,
            ok=ok,
            value=value,
            error=error and Failure(**error),
            usage=usage and Usage(*usage),
            model=model,
            endpoint=endpoint,
            attempts=attempts,
            latency=latency,
            finish_reason=reason,
            cost=cost,
            sample=place % samples,
            meta=meta or NOTHING,
        )
