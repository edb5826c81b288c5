"""Reducers that keep the outcomes, or their values, or say where they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from langgraph_hpc_fanout.journal.results import Results
from langgraph_hpc_fanout.records import Outcome
from langgraph_hpc_fanout.reducers.allowance import Allowance


def collect(outcomes: Iterable[Outcome]) -> list[Any]:
    """The values in input order, None where an item failed.

    Of a sweep: all variants and samples of the first item, then of the second.

    Raises:
        ValueError: If there are more than 16 MB of them; keep a `reference` instead.
    """
    allowance = Allowance("answers")
    values: list[Any] = []
    for outcome in outcomes:
        allowance.take(outcome.value)
        values.append(outcome.value)
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
    """Every outcome in input order, as a dict.

    Raises:
        ValueError: If there are more than 16 MB of them; keep a `reference` instead.
    """
    allowance = Allowance("outcomes")
    kept: list[dict[str, Any]] = []
    for outcome in outcomes:
        data = outcome.to_dict()
        allowance.take(data)
        kept.append(data)
    return kept


def by_key(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Values by key, None where an item failed; of equal keys the last answer counts.

    For one answer an item: several samples, and variants of a sweep, have keys of their own.

    Raises:
        ValueError: If there are more than 16 MB of them; keep a `reference` instead.
    """
    allowance = Allowance("answers")
    values: dict[str, Any] = {}
    for outcome in outcomes:
        if outcome.key not in values:
            allowance.take(outcome.key)
        elif outcome.ok:
            allowance.give_back(values[outcome.key])
        else:
            continue
        allowance.take(outcome.value)
        values[outcome.key] = outcome.value
    return values
