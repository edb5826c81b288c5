"""The outcomes of a run, in input order, wherever they are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from langgraph_hpc_fanout.journal.columns import from_columns
from langgraph_hpc_fanout.journal.log import Log, log_at
from langgraph_hpc_fanout.records import FanOutError, Outcome

_SIZES = ("samples", "per_item")
"""What a run's shards say of how many places an item has, where it is more than one."""


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

    @property
    def journal(self) -> str | None:
        """Directory of the journal, or None when the outcomes travelled in graph state."""
        return next((each["journal"] for each in self._shards if each.get("journal")), None)

    def __repr__(self) -> str:
        return f"Results({self.run!r}, {self.ok} ok, {self.failed} failed)"

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
        logs = {
            shard["journal"]: log_at(Path(shard["journal"]))
            for shard in shards
            if shard.get("journal")
        }
        for log in logs.values():
            log.refresh()
        for shard in shards:
            if (journal := shard.get("journal")) is not None:
                self._check(logs[journal], shard)
        return chain.from_iterable(
            self._outcomes_of(shard, logs.get(shard.get("journal")), start, stop)
            for shard in shards
        )

    def _check(self, log: Log, shard: Mapping[str, Any]) -> None:
        """Refuse to go on with fewer outcomes than were reported: they would shift places."""
        reported = shard["ok"] + shard["failed"]
        found = log.count(self.run, shard["start"], shard["stop"])
        if found < reported:
            per_item, _ = _places(shard)
            first, last = shard["start"] // per_item, (shard["stop"] - 1) // per_item
            raise FanOutError(
                f"The journal {log.directory} has {found} of the {reported} outcomes that run "
                f"{self.run} reported for items {first} to {last}; "
                "the file was deleted or damaged. Run the graph again to ask what is missing."
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

    def reference(self) -> dict[str, Any]:
        """What to keep in graph state instead of the outcomes.

        Raises:
            ValueError: If the outcomes are in graph state themselves.
        """
        if self.journal is None and len(self):
            raise ValueError("There is nothing to refer to without a journal: give FanOutNode one.")
        sizes = self._shards[0] if self._shards else {}
        return {
            "run": self.run,
            "journal": self.journal,
            "total": len(self),
            "ok": self.ok,
            "failed": self.failed,
            **{name: sizes[name] for name in _SIZES if name in sizes},
        }

    def _outcomes_of(
        self, shard: Mapping[str, Any], log: Log | None, start: int, stop: int | None
    ) -> Iterator[Outcome]:
        per_item, samples = _places(shard)
        start = max(start, shard["start"])
        stop = shard["stop"] if stop is None else min(stop, shard["stop"])
        if log is None:
            all_of_it = from_columns(shard["outcomes"], shard["start"], per_item, samples)
            return islice(all_of_it, start - shard["start"], stop - shard["start"])
        return log.outcomes(self.run, start, stop, per_item=per_item, samples=samples)


def _places(shard: Mapping[str, Any]) -> tuple[int, int]:
    """How many places an item has, and how many of these in a row differ in the sample only."""
    samples = shard.get("samples", 1)
    return shard.get("per_item", samples), samples
