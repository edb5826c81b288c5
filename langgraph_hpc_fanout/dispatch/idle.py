"""Lanes that may have room, found without looking at all of them."""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langgraph_hpc_fanout.dispatch.job import Job
    from langgraph_hpc_fanout.dispatch.lane import Lane

_FEW = 8
"""So many lanes are all looked at."""
_DRAWS = 4
"""Lanes that are drawn in vain before all are looked at."""


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
        room = []
        for lane in list(self._lanes):
            if lane.has_room:
                room.append(lane)
            else:
                self.discard(lane)
        return room

    def pick(self, job: Job, avoid: Collection[Lane] = ()) -> Lane | None:
        """One with room that the job may use: of few the least busy, of many the less busy of two.

        Two draws are nearly as good as a look at all (Mitzenmacher, "The Power of Two Choices in
        Randomized Load Balancing", 1996).
        """
        lanes, draw = self._lanes, self._rng.random
        found, in_vain = None, 0
        while len(lanes) > _FEW and in_vain < _DRAWS:
            lane = lanes[int(draw() * len(lanes))]
            if not lane.has_room:
                self.discard(lane)
            elif lane in avoid or lane.is_bulk or not job.may_use(lane):
                in_vain += 1  # there is room, but not for this job, or not for a single request
            elif found is not None:
                return lane if lane.load < found.load else found
            elif not lane.load:
                return lane
            else:
                found = lane
        return found or _least_busy(self.all(), job, avoid)


def _least_busy(lanes: list[Lane], job: Job, avoid: Collection[Lane]) -> Lane | None:
    fit = [lane for lane in lanes if job.may_use(lane) and lane not in avoid]
    return min(fit, key=_load_of) if fit else None


def _load_of(lane: Lane) -> tuple[bool, int]:
    """What gathers requests is the last to be offered one."""
    return lane.is_bulk, lane.load
