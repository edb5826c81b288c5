"""A shard: the slice of a run's items that one branch carries."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig

from langgraph_hpc_fanout.journal.columns import to_columns
from langgraph_hpc_fanout.records import Outcome
from langgraph_hpc_fanout.runs.receipts import Receipt
from langgraph_hpc_fanout.tasks.keys import content_key


class Shard:
    """Items from `start`, what became of them, and the branch that waits for them.

    An item has a place for each of its samples; `offset` counts the places of a shard, `place`
    those of the run.

    Args:
        number: Place of the shard in the run, from 0.
        start: Index of its first item in the input.
        items: Its items.
        samples: How often each item is asked.
        trace: Items of the run, from the first on, whose outcomes the branch wants one by one.
        key: Gives an item a key of its own. It is user code, so it is called here, where
            LangGraph called the node, and not on the dispatch loop.

    Attributes:
        config: The branch's settings, once it has come.
        traced: Outcomes to come of the traced places.
    """

    __slots__ = (
        "config",
        "done",
        "failed",
        "future",
        "items",
        "keys",
        "next",
        "number",
        "ok",
        "outcomes",
        "samples",
        "seconds",
        "start",
        "traced",
    )

    def __init__(
        self,
        number: int,
        start: int,
        items: Sequence[Any],
        samples: int = 1,
        trace: int = 0,
        key: Callable[[Any], str] | None = None,
    ) -> None:
        self.number = number
        self.start = start
        self.items = items
        self.samples = samples
        self.config: RunnableConfig | None = None
        self.keys = None if key is None else [_key_or_fault(key, item) for item in items]
        self.next = 0
        self.done = bytearray(self.size)
        self.ok = 0
        self.failed = 0
        self.seconds = 0.0
        self.outcomes: list[Outcome | None] = [None] * self.size
        self.future: concurrent.futures.Future[Receipt] = concurrent.futures.Future()
        last = min(max(0, trace - start), len(items)) * samples
        self.traced: dict[int, concurrent.futures.Future[Outcome]] = {
            offset: concurrent.futures.Future() for offset in range(last)
        }
        # Running from the start, so that a cancelled branch cannot cancel what others wait for.
        for future in self._futures():
            future.set_running_or_notify_cancel()

    @property
    def size(self) -> int:
        """How many outcomes it will have."""
        return len(self.items) * self.samples

    @property
    def complete(self) -> bool:
        """Whether every place has an outcome."""
        return self.ok + self.failed == self.size

    def item(self, offset: int) -> Any:
        """The item of a place."""
        return self.items[offset // self.samples]

    def key(self, offset: int) -> str | None:
        """The key for a place, where it is not for the prompt to make.

        Raises:
            Exception: What was raised when the item's key was made.
        """
        if self.keys is None:
            return None
        key = self.keys[offset // self.samples]
        if isinstance(key, Exception):
            raise key
        sample = offset % self.samples
        return content_key([key, sample]) if sample else key

    def index(self, offset: int) -> int:
        """Where the item of a place stands in the input."""
        return self.start + offset // self.samples

    def sample(self, offset: int) -> int:
        """Which sample of its item a place is for."""
        return offset % self.samples

    def place(self, offset: int) -> int:
        """The place in the run."""
        return self.start * self.samples + offset

    def outcome(self, key: str, offset: int, *, ok: bool, **fields: Any) -> Outcome:
        """An outcome for a place."""
        return Outcome(key, self.index(offset), ok, sample=self.sample(offset), **fields)

    def take_note(self, offset: int, outcome: Outcome) -> None:
        """Count an outcome."""
        self.done[offset] = 1
        if self.traced and (future := self.traced.get(offset)) is not None:
            future.set_result(outcome)
        if outcome.ok:
            self.ok += 1
        else:
            self.failed += 1

    def kept(self) -> list[Outcome]:
        """The outcomes kept here, in input order."""
        return [outcome for outcome in self.outcomes if outcome is not None]

    def receipt(self, journal: str | None) -> Receipt:
        """What the branch reports."""
        receipt: Receipt = {
            "start": self.place(0),
            "stop": self.place(self.size),
            "ok": self.ok,
            "failed": self.failed,
            "seconds": round(self.seconds, 6),
        }
        if self.samples > 1:
            receipt["samples"] = self.samples
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
                future.set_exception(error)

    def _futures(self) -> list[concurrent.futures.Future[Any]]:
        return [self.future, *self.traced.values()]


def _key_or_fault(key: Callable[[Any], str], item: Any) -> str | Exception:
    """The item's key, or why it has none, which will be its failure."""
    try:
        found = key(item)
    except Exception as error:  # noqa: BLE001 - the item's fault, whatever it is
        return error
    if not isinstance(found, str) or not found:
        return TypeError(f"key= gave {found!r}, not a text")
    return found
