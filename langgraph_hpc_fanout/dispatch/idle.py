"""Lanes that may have room, found without looking at all of them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langgraph_hpc_fanout.dispatch.job import Job
    from langgraph_hpc_fanout.dispatch.lane import Lane

_LOOKED_AT = 8
"""Of many, the least busy of so many is nearly as good as the least busy of all: two would do
(Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 1996)."""


class IdleLanes:
    """A set of lanes from which one with little to do is picked in constant time.

    Every lane with room is in it. One without may be, until it is met.

    Args:
        rng: Where chance comes from.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._lanes: list[Lane] = []
        self._places: dict[Lane, int] = {}

    def add(self, lane: Lane) -> None:
        """A lane may have room."""
        if lane not in self._places:
            self._places[lane] = len(self._lanes)
            self._lanes.append(lane)

    def discard(self, lane: Lane) -> None:
        """A lane has none."""
        if (place := self._places.pop(lane, None)) is None:
            return
        last = self._lanes.pop()
        if last is not lane:
            self._lanes[place] = last
            self._places[last] = place

    def all(self) -> list[Lane]:
        """Those with room."""
        return self._with_room(list(self._lanes))

    def pick(self, job: Job, avoid: Iterable[Lane] = ()) -> Lane | None:
        """One with room that the job may use: of few the least busy, of many one that is not."""
        lanes = self._lanes
        while len(lanes) > _LOOKED_AT:
            draws = [self._rng.randrange(len(lanes)) for _ in range(_LOOKED_AT)]
            sample = self._with_room([lanes[draw] for draw in draws])
            if fit := _least_busy(sample, job, avoid):
                return fit
            if sample:
                break  # there is room, but not for this job: rare enough to look at all
        return _least_busy(self.all(), job, avoid)

    def _with_room(self, lanes: list[Lane]) -> list[Lane]:
        room = [lane for lane in lanes if lane.has_room]
        if len(room) < len(lanes):
            for lane in lanes:
                if not lane.has_room:
                    self.discard(lane)
        return room


def _least_busy(lanes: list[Lane], job: Job, avoid: Iterable[Lane]) -> Lane | None:
    fit = [lane for lane in lanes if job.may_use(lane) and lane not in avoid]
    return min(fit, key=lambda lane: lane.load) if fit else None
