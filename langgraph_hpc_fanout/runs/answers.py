"""One look-up by key for what was asked before, elsewhere, or is being asked at this moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from langgraph_hpc_fanout.records import Failure, Outcome
from langgraph_hpc_fanout.runs.keeper import Keeper, Known
from langgraph_hpc_fanout.runs.shard import Shard

Seat = tuple[Shard, int]
"""A shard and a place in it."""

ASKED = "asked"
"""Of outcomes with a key of the user's: the hash of what was asked, in `meta`."""


@dataclass(slots=True)
class _UnderWay:
    """A key that is being asked: for which place, and who else waits for the answer."""

    index: int
    asked: str | None
    waiting: list[Seat] = field(default_factory=list)


class Answers:
    """Resume, cache and de-duplication of one run: each key is asked once, answered everywhere.

    Args:
        run: Id of the run.
        keeper: Where outcomes are.
    """

    def __init__(self, run: str, keeper: Keeper) -> None:
        self._run = run
        self._keeper = keeper
        self._under_way: dict[str, _UnderWay] = {}

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
        if (under_way := self._under_way.get(key)) is not None:
            if under_way.asked != asked:
                return _conflict(index, under_way.index, key)
            under_way.waiting.append(seat)
            return "waits"
        if (known := self._keeper.find(key)) is not None:
            earlier = known.outcome
            is_own = known.run == self._run and earlier.index != index
            if asked is not None and is_own and earlier.meta.get(ASKED, asked) != asked:
                return _conflict(index, earlier.index, key)
            if accepts(earlier) if earlier.ok else not self._keeper.retries_failures:
                return known
        self._under_way[key] = _UnderWay(index, asked)
        return None

    def settle(self, key: str) -> list[Seat]:
        """A key has its outcome: the places that waited for it."""
        under_way = self._under_way.pop(key, None)
        return [] if under_way is None else under_way.waiting


def _conflict(index: int, other: int, key: str) -> Failure:
    message = (
        f"Item {index} has the key {key!r} of item {other} and asks something else; "
        "give each item a key of its own."
    )
    return Failure("permanent", message)
