"""The runs of a journal in a few words each: what is known without reading an outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from langgraph_hpc_fanout.journal.catalog import RunRecord


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run that a journal holds, as far as it has come.

    Attributes:
        run: Its id.
        name: Of the fan-out; None where the journal does not say.
        expected: How many outcomes it is to have in the end; None where the journal does not say.
        ok: How many answers it has.
        failed: How many failures it has.
        started: When it began, in UTC; None where the journal does not say.
        level_of: Name of the fan-out whose answers it summarises, for a level of a tree; else None.
    """

    run: str
    name: str | None
    expected: int | None
    ok: int
    failed: int
    started: datetime | None
    level_of: str | None

    @classmethod
    def of(cls, record: RunRecord) -> RunSummary:
        """The summary of what a log knows of a run."""
        about = record.about
        started = about.get("started")
        return cls(
            run=record.run,
            name=about.get("fan_out"),
            expected=expected_of(about),
            ok=record.ok,
            failed=record.failed,
            started=None if started is None else datetime.fromtimestamp(started, UTC),
            level_of=about.get("level_of"),
        )


def layout_of(told: Mapping[str, Any]) -> tuple[int, int]:
    """How many samples in a row, and how many places an item, a shard, reference or run has."""
    samples: int = told.get("samples", 1)
    return samples, told.get("per_item", samples)


def expected_of(about: Mapping[str, Any]) -> int | None:
    """How many outcomes a run is to have; None where that was not said of it."""
    total: int | None = about.get("total")
    return None if total is None else total * layout_of(about)[1]
