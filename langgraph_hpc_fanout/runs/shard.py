"""A shard: the slice of a run's items that one branch carries."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Any

from langgraph_hpc_fanout.journal.columns import to_columns
from langgraph_hpc_fanout.records import Outcome
from langgraph_hpc_fanout.runs.receipts import Receipt


class Shard:
    """Items from `start`, what became of them, and the branch that waits for them.

    Args:
        number: Place of the shard in the run, from 0.
        start: Index of its first item in the input.
        items: Its items.
        key: Gives an item a key of its own. It is user code, so it is called here, where
            LangGraph called the node, and not on the dispatch loop.
    """

    __slots__ = (
        "done",
        "failed",
        "future",
        "items",
        "keys",
        "next",
        "number",
        "ok",
        "outcomes",
        "seconds",
        "start",
    )

    def __init__(
        self,
        number: int,
        start: int,
        items: Sequence[Any],
        key: Callable[[Any], str] | None = None,
    ) -> None:
        self.number = number
        self.start = start
        self.items = items
        self.keys = None if key is None else [_key_or_fault(key, item) for item in items]
        self.next = 0
        self.done = bytearray(len(items))
        self.ok = 0
        self.failed = 0
        self.seconds = 0.0
        self.outcomes: list[Outcome | None] = [None] * len(items)
        self.future: concurrent.futures.Future[Receipt] = concurrent.futures.Future()
        # Running from the start, so that a cancelled branch cannot cancel what others wait for.
        self.future.set_running_or_notify_cancel()

    @property
    def complete(self) -> bool:
        """Whether every item has an outcome."""
        return self.ok + self.failed == len(self.items)

    def take_note(self, offset: int, outcome: Outcome, *, keep: bool) -> None:
        """Count an outcome, and keep it unless a journal does."""
        self.done[offset] = 1
        if outcome.ok:
            self.ok += 1
        else:
            self.failed += 1
        if keep:
            self.outcomes[offset] = outcome

    def kept(self) -> list[Outcome]:
        """The outcomes kept here, in input order."""
        return [outcome for outcome in self.outcomes if outcome is not None]

    def receipt(self, journal: str | None) -> Receipt:
        """What the branch reports."""
        receipt: Receipt = {
            "start": self.start,
            "stop": self.start + len(self.items),
            "ok": self.ok,
            "failed": self.failed,
            "seconds": round(self.seconds, 6),
        }
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
        if not self.future.done():
            self.future.set_exception(error)


def _key_or_fault(key: Callable[[Any], str], item: Any) -> str | Exception:
    """The item's key, or why it has none, which will be its failure."""
    try:
        found = key(item)
    except Exception as error:  # noqa: BLE001 - the item's fault, whatever it is
        return error
    if not isinstance(found, str) or not found:
        return TypeError(f"key= gave {found!r}, not a text")
    return found
