"""A shard: the slice of a run's items that one branch waits for."""

from __future__ import annotations

import concurrent.futures
import copy
from typing import Any

from langchain_core.runnables import RunnableConfig

from langgraph_hpc_fanout.items.source import Readable
from langgraph_hpc_fanout.journal.columns import to_columns
from langgraph_hpc_fanout.records import FanOutError, Outcome
from langgraph_hpc_fanout.runs.receipts import Receipt
from langgraph_hpc_fanout.stats import Stats


class Shard:
    """So many items of a source from `start`, what became of them, and the branch that waits.

    An item has a place for each of its variants and samples; `offset` counts the places of a
    shard, `place` those of the run.

    Args:
        number: Place of the shard in the run, from 0.
        source: Where its items are.
        start: Index of its first item in the source.
        count: How many items it has.
        per_item: How many places an item has.
        samples: How many of these are samples of the same variant, one after another.
        trace: Items of the run, from the first on, whose outcomes the branch wants one by one.

    Attributes:
        config: The branch's settings, once it has come.
        traced: Outcomes to come of the traced places.
    """

    __slots__ = (
        "config",
        "count",
        "done",
        "future",
        "number",
        "outcomes",
        "per_item",
        "samples",
        "seconds",
        "source",
        "start",
        "stats",
        "traced",
    )

    def __init__(
        self,
        number: int,
        source: Readable,
        start: int,
        count: int,
        per_item: int = 1,
        samples: int = 1,
        trace: int = 0,
    ) -> None:
        self.number = number
        self.source = source
        self.start = start
        self.count = count
        self.per_item = per_item
        self.samples = samples
        self.config: RunnableConfig | None = None
        self.done = bytearray(self.size)
        self.stats = Stats()
        self.seconds = 0.0
        self.outcomes: dict[int, Outcome] = {}
        self.future: concurrent.futures.Future[Receipt] = concurrent.futures.Future()
        last = min(max(0, trace - start), count) * per_item
        self.traced: dict[int, concurrent.futures.Future[Outcome]] = {
            offset: concurrent.futures.Future() for offset in range(last)
        }
        # Running from the start, so that a cancelled branch cannot cancel what others wait for.
        for future in self._futures():
            future.set_running_or_notify_cancel()

    @property
    def size(self) -> int:
        """How many outcomes it will have."""
        return self.count * self.per_item

    @property
    def stop(self) -> int:
        """Index of the item after its last."""
        return self.start + self.count

    @property
    def complete(self) -> bool:
        """Whether every place has an outcome."""
        return self.stats.total == self.size

    def index(self, offset: int) -> int:
        """Where the item of a place stands in the source."""
        return self.start + offset // self.per_item

    def variant(self, offset: int) -> int:
        """Which variant of what is asked a place is for."""
        return offset % self.per_item // self.samples

    def sample(self, offset: int) -> int:
        """Which sample of its variant a place is for."""
        return offset % self.samples

    def place(self, offset: int) -> int:
        """The place in the run."""
        return self.start * self.per_item + offset

    def outcome(self, key: str, offset: int, *, ok: bool, **fields: Any) -> Outcome:
        """An outcome for a place."""
        return Outcome(key, self.index(offset), ok, sample=self.sample(offset), **fields)

    def take_note(self, offset: int, outcome: Outcome) -> None:
        """Count an outcome."""
        self.done[offset] = 1
        self.stats.add(outcome)
        if self.traced and (future := self.traced.get(offset)) is not None:
            future.set_result(outcome)

    def kept(self) -> list[Outcome]:
        """The outcomes kept here, in input order."""
        return [self.outcomes[offset] for offset in sorted(self.outcomes)]

    def receipt(self, journal: str | None) -> Receipt:
        """What the branch reports."""
        receipt: Receipt = {
            "start": self.place(0),
            "stop": self.place(self.size),
            "ok": self.stats.ok,
            "failed": self.stats.total - self.stats.ok,
            "stats": self.stats.dump(),
            "seconds": round(self.seconds, 6),
        }
        if self.samples > 1:
            receipt["samples"] = self.samples
        if self.per_item > self.samples:
            receipt["per_item"] = self.per_item
        if journal is None:
            receipt["outcomes"] = to_columns(self.kept())
        else:
            receipt["journal"] = journal
        return receipt

    def report(self, journal: str | None) -> None:
        """Let the branch go on."""
        if not self.future.done():
            self.future.set_result(self.receipt(journal))

    def fail(self, error: BaseException) -> None:
        """Let the branch raise."""
        for future in self._futures():
            if not future.done():
                future.set_exception(own_copy(error))

    def _futures(self) -> list[concurrent.futures.Future[Any]]:
        return [self.future, *self.traced.values()]


def own_copy(error: BaseException) -> BaseException:
    """A run's error for one branch alone, to which Python and LangGraph add frames and notes."""
    return copy.copy(error) if isinstance(error, FanOutError) else error
