"""One look-up by key for what was asked before, elsewhere, or is being asked at this moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from langgraph_hpc_fanout.journal.index import Index
from langgraph_hpc_fanout.records import Failure, Outcome
from langgraph_hpc_fanout.runs.keeper import Keeper, Known
from langgraph_hpc_fanout.runs.shard import Shard

Seat = tuple[Shard, int]
"""A shard and a place in it."""

ASKED = "asked"
"""Of outcomes with a key of the user's: the hash of what was asked, in `meta`."""

_WORD = 2**64 - 1
_HASH_DIGITS = 8


class Answers:
    """Resume, cache and de-duplication of one run: each key is asked once, answered everywhere.

    Args:
        run: Id of the run.
        keeper: Where outcomes are.
    """

    def __init__(self, run: str, keeper: Keeper) -> None:
        self._run = run
        self._keeper = keeper
        self._under_way: dict[str, list[Seat]] = {}
        self._owners = _Owners()

    def look_up(
        self, seat: Seat, key: str, asked: str | None, accepts: Callable[[Outcome], bool]
    ) -> Known | Failure | Literal["waits"] | None:
        """What is known of a key; where nothing is, the place is to ask it, and others wait for it.

        Args:
            seat: The place that wants it.
            key: The key.
            asked: Hash of what is asked, where the key is the user's own.
            accepts: Whether an earlier answer counts here.

        Returns:
            What is known; a failure, where another item of the run has the same key; "waits" where
            the outcome will come; None where it is to be asked.
        """
        shard, offset = seat
        index = shard.index(offset)
        if asked is not None and (owner := self._owners.claim(key, asked, index)) is not None:
            return _conflict(index, owner, key)
        if (waiting := self._under_way.get(key)) is not None:
            waiting.append(seat)
            return "waits"
        if (known := self._keeper.find(key)) is not None:
            earlier = known.outcome
            is_others = known.run == self._run and known.place != shard.place(offset)
            if earlier.ok:
                if is_others and earlier.meta.get(ASKED, asked) != asked:
                    return _conflict(index, earlier.index, key)
                if accepts(earlier):
                    return known
            # Of one key of the user's, failures may be of other questions: of a conflict's.
            elif earlier.meta.get(ASKED) == asked and (
                is_others or not self._keeper.retries_failures
            ):
                return known
        self._under_way[key] = []
        return None

    def settle(self, key: str) -> list[Seat]:
        """A key has its outcome: the places that waited for it."""
        return self._under_way.pop(key, [])


class _Owners:
    """Which item of a run was the first with a key of the user's, and what it asks.

    In a packed table, for there may be millions: for each key the hash of what is asked, cut to
    32 bits, and the item's index.
    """

    def __init__(self) -> None:
        self._table = Index()

    def claim(self, key: str, asked: str, index: int) -> int | None:
        """Index of an item that has the key and asks something else; None if there is none."""
        fingerprint = hash(key) & _WORD or 1
        asks = int(asked[:_HASH_DIGITS], 16)
        if not (found := self._table.get(fingerprint)):
            self._table.put(fingerprint, asks << 32 | index + 1)
        elif found >> 32 != asks:
            return (found & 0xFFFFFFFF) - 1
        return None


def _conflict(index: int, other: int, key: str) -> Failure:
    message = (
        f"Item {index} has the key {key!r} of item {other} and asks something else; "
        "give each item a key of its own."
    )
    return Failure("permanent", message)
