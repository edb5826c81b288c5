"""The outcomes of a run, in input order, wherever they are kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from langgraph_hpc_fanout.journal.catalog import RunRecord
from langgraph_hpc_fanout.journal.columns import from_columns
from langgraph_hpc_fanout.journal.errors import JournalError
from langgraph_hpc_fanout.journal.log import Log, log_at
from langgraph_hpc_fanout.journal.summary import RunSummary, expected_of, layout_of
from langgraph_hpc_fanout.records import NOTHING, FanOutError, Outcome


class Results:
    """The outcomes of one run.

    Iterate it as often as you like; each pass gives every `Outcome` in input order. Those in a
    journal are read one by one, so a million of them need no memory.

    Attributes:
        run: Id of the run.
        ok: Number of answers.
        failed: Number of items without one.
    """

    def __init__(self, run: str, shards: Sequence[Mapping[str, Any]]) -> None:
        self.run = run
        self._shards = shards
        self.ok: int = sum(shard["ok"] for shard in shards)
        self.failed: int = sum(shard["failed"] for shard in shards)
        # Held as long as these results: opening one of millions of outcomes takes seconds.
        self._logs: dict[str, Log] = {}

    @property
    def journal(self) -> str | None:
        """Directory of the journal, or None when the outcomes travelled in graph state."""
        return next((each["journal"] for each in self._shards if each.get("journal")), None)

    @property
    def about(self) -> Mapping[str, Any]:
        """What the journal says of the run; empty without one. Looks into the journal."""
        if (journal := self.journal) is None:
            return NOTHING
        log = self._log_at(journal)
        log.refresh()
        return log.about(self.run)

    @property
    def expected(self) -> int | None:
        """How many outcomes the run is to have in the end; None where its journal does not say."""
        about = self.about  # empty without a journal, and of a run of nothing, which writes none
        return expected_of(about) if about else len(self)

    def __repr__(self) -> str:
        return f"Results({self.run!r}, {self.ok} ok, {self.failed} failed)"

    def __reduce__(self) -> tuple[type[Results], tuple[str, Sequence[Mapping[str, Any]]]]:
        return Results, (self.run, self._shards)

    def __len__(self) -> int:
        return self.ok + self.failed

    def __iter__(self) -> Iterator[Outcome]:
        return self.slice(0, None)

    def slice(self, start: int, stop: int | None) -> Iterator[Outcome]:
        """The outcomes of places `start` up to `stop`, read lazily; an item has one a sample."""
        shards = [
            shard
            for shard in self._shards
            if start < shard["stop"] and (stop is None or shard["start"] < stop)
        ]
        for journal in {shard["journal"] for shard in shards if shard.get("journal")}:
            self._log_at(journal).refresh()
        for shard in shards:
            if (journal := shard.get("journal")) is not None:
                self._check(self._log_at(journal), shard)
        return chain.from_iterable(self._outcomes_of(shard, start, stop) for shard in shards)

    def _log_at(self, journal: str) -> Log:
        if journal not in self._logs:
            self._logs[journal] = log_at(Path(journal))
        return self._logs[journal]

    def _check(self, log: Log, shard: Mapping[str, Any]) -> None:
        """Refuse to go on with fewer outcomes than were reported: they would shift places."""
        reported = shard["ok"] + shard["failed"]
        found = log.count(self.run, shard["start"], shard["stop"])
        if found < reported:
            _, per_item = layout_of(shard)
            first, last = shard["start"] // per_item, (shard["stop"] - 1) // per_item
            raise FanOutError(
                f"The journal {log.directory} has {found} of the {reported} outcomes that run "
                f"{self.run} reported for items {first} to {last}; "
                "it was deleted or damaged. Run the graph again to ask what is missing."
            )

    @classmethod
    def open(cls, reference: Mapping[str, Any]) -> Results:
        """The results that `reducers.reference` put into graph state.

        Args:
            reference: `{"run", "journal", "total", "ok", "failed"}`.

        Raises:
            FileNotFoundError: If the journal is not there (any more).
        """
        directory = Path(reference["journal"])
        if reference["total"] and not directory.is_dir():
            raise FileNotFoundError(f"The journal {directory} of run {reference['run']} is gone.")
        shard = {"start": 0, "stop": reference["total"], **reference}
        return cls(reference["run"], [shard])

    @classmethod
    def of(
        cls,
        directory: str | os.PathLike[str],
        run: str | None = None,
        *,
        name: str | None = None,
    ) -> Results:
        """What a run has so far, also while it goes on, and in another process.

        Args:
            directory: Of the journal.
            run: Id of the run; by default the newest that is no level of a tree.
            name: Of the fan-out whose newest run is meant.

        Raises:
            FileNotFoundError: If there is no journal.
            JournalError: If it cannot be read, or has no such run.
        """
        log = _log_of(directory)
        records = log.runs()
        if (found := _newest(records, run, name)) is None:
            raise JournalError(
                f"The journal {log.directory} has {_what_lacks(records, run, name)}.",
                journal=str(log.directory),
            )
        results = cls(
            found.run,
            [
                {
                    "start": 0,
                    "stop": found.places,
                    "ok": found.ok,
                    "failed": found.failed,
                    "journal": str(log.directory),
                    **_told(*layout_of(found.about)),
                }
            ],
        )
        results._logs[str(log.directory)] = log
        return results

    @staticmethod
    def runs(directory: str | os.PathLike[str]) -> list[RunSummary]:
        """The runs that a journal holds, oldest first, a tree's levels among them.

        Args:
            directory: Of the journal.

        Raises:
            FileNotFoundError: If there is no journal.
            JournalError: If it cannot be read.
        """
        return [RunSummary.of(record) for record in _log_of(directory).runs()]

    def reference(self) -> dict[str, Any]:
        """What to keep in graph state instead of the outcomes.

        Raises:
            ValueError: If the outcomes are in graph state themselves.
        """
        if self.journal is None and len(self):
            raise ValueError("There is nothing to refer to without a journal: give FanOutNode one.")
        samples, per_item = layout_of(next(iter(self._shards), {}))
        stop = max((shard["stop"] for shard in self._shards), default=0)
        return {
            "run": self.run,
            "journal": self.journal,
            "total": len(self),
            "ok": self.ok,
            "failed": self.failed,
            **({"stop": stop} if stop != len(self) else {}),
            **_told(samples, per_item),
        }

    def _outcomes_of(
        self, shard: Mapping[str, Any], start: int, stop: int | None
    ) -> Iterator[Outcome]:
        samples, per_item = layout_of(shard)
        first = max(start, shard["start"])
        last = shard["stop"] if stop is None else min(stop, shard["stop"])
        if (journal := shard.get("journal")) is None:
            outcomes = from_columns(shard["outcomes"], shard["start"], samples, per_item)
            return islice(outcomes, first - shard["start"], last - shard["start"])
        return self._log_at(journal).outcomes(
            self.run, first, last, per_item=per_item, samples=samples
        )


def _log_of(directory: str | os.PathLike[str]) -> Log:
    """The log of a journal that is there, with all that was appended by now."""
    log = log_at(Path(os.path.realpath(directory)))
    if not log.directory.is_dir():
        raise FileNotFoundError(f"There is no journal {log.directory}.")
    log.refresh()
    return log


def _newest(records: Sequence[RunRecord], run: str | None, name: str | None) -> RunRecord | None:
    """The newest run of this id and fan-out; a tree's level only where it is asked for."""
    for each in reversed(records):
        # Levels are runs, too, and newer than what they summarise.
        is_meant = run is not None or name is not None or "level_of" not in each.about
        if is_meant and run in (None, each.run) and name in (None, each.about.get("fan_out")):
            return each
    return None


def _what_lacks(records: Sequence[RunRecord], run: str | None, name: str | None) -> str:
    """What a journal has in the place of the run that was asked for."""
    if not records or (run is None and name is None):
        return "no run yet"
    if name is not None:
        names = list(dict.fromkeys(each.about.get("fan_out") for each in records))
        return f"no run {'' if run is None else f'{run!r} '}of a fan-out {name!r}, only of {names}"
    return f"no run {run!r}, only {[each.run for each in records]}"


def _told(samples: int, per_item: int) -> dict[str, int]:
    """The same as fields, without what goes without saying."""
    return {
        **({"samples": samples} if samples > 1 else {}),
        **({"per_item": per_item} if per_item != samples else {}),
    }
