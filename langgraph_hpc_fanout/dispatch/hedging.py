"""Asking a second endpoint for what is late, when there is nothing else to do."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from langgraph_hpc_fanout.dispatch.estimates import Estimates
from langgraph_hpc_fanout.dispatch.idle import IdleLanes
from langgraph_hpc_fanout.dispatch.job import Job, Ticket

if TYPE_CHECKING:
    from langgraph_hpc_fanout.dispatch.lane import Lane

_SECONDS = 0.25
"""Least seconds between two looks for requests that are late."""
_REST = 2e-5
"""Seconds between two looks for each request that is looked at: a hundred times what it takes."""
_SOON = 1.0
"""Seconds until another look at a job of which something waits."""
_DRAWS = 4
"""Lanes that are looked at for a quick one."""
_SLOW = 1.5
"""Pace of a lane, over the usual one, with which it is slow."""
_PATIENCE_IF_SLOW = 0.0
_PATIENCE_IF_WELL = 2.0
"""When a request is late, over the time that 95 % of its kind take. In a lane that is known to be
slow it need not be waited for; in one that is known to be well it is most likely a long one, which
takes as long anywhere, unless the lane has just frozen."""


class HedgeBudget:
    """Tokens that may be spent on second requests, as a share of those that answers used.

    What a hedge costs is not known before its end, and of the one that loses never; it is paid
    for with the tokens that a request of its kind is expected to use.

    Args:
        share: Of the tokens; 0 for no hedges at all.
    """

    __slots__ = ("_level", "_share")

    def __init__(self, share: float) -> None:
        self._share = share
        self._level = 0.0

    @property
    def is_on(self) -> bool:
        """Whether there are any hedges."""
        return self._share > 0.0

    def answered(self, tokens: float) -> None:
        """A request that used so many tokens has its answer."""
        self._level += self._share * tokens

    def take(self, tokens: float) -> bool:
        """Pay for a hedge of so many tokens, if there is enough."""
        if tokens > self._level:
            return False
        self._level -= tokens
        return True


class Hedging:
    """Has requests that are late asked a second time, while lanes are idle and nothing waits.

    Args:
        share: Of tokens, see `HedgeBudget`.
        estimates: Which requests are late.
        idle: Lanes that may have room.
        jobs: Those there are; looked at anew each time.
    """

    def __init__(
        self, share: float, estimates: Estimates, idle: IdleLanes, jobs: Sequence[Job]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._budget = HedgeBudget(share)
        self._estimates = estimates
        self._idle = idle
        self._jobs = jobs
        self._timer: asyncio.TimerHandle | None = None

    def answered(self, tokens: float) -> None:
        """A request that used so many tokens has its answer."""
        self._budget.answered(tokens)

    def watch(self) -> None:
        """A lane has nothing to do: see to requests that are late, now and later."""
        if self._budget.is_on and self._timer is None:
            self._look()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        waits = [self._hedge_late(job, now) for job in self._jobs if job.may_hedge]
        if (wait := min(waits, default=math.inf)) < math.inf:
            self._timer = self._loop.call_later(max(wait, _SECONDS), self._look)

    def _hedge_late(self, job: Job, now: float) -> float:
        """Ask elsewhere for requests of a job that are late; returns when to look again."""
        if not job.in_flight or (late := self._estimates.slow_after(job.kind)) is None:
            return math.inf
        if not job.is_drained:
            job.late_after = None
            return _SOON
        if job.late_after is None:
            job.late_after = late  # the answers to come are the long ones'
        usual = self._estimates.pace(job.kind)
        overdue: list[tuple[float, Ticket, Lane]] = []
        wait = math.inf
        for ticket in job.in_flight:
            if ticket.twin is not None or (lane := _lane_of(ticket)) is None:
                continue
            patience = _patience(lane, usual)
            left = ticket.sent + patience * job.late_after - now
            if left <= 0:
                overdue.append((patience, ticket, lane))
            else:
                wait = min(wait, left)
        overdue.sort(key=_by_patience)
        # Of a hundred thousand in a queue a look takes long, so it is taken rarely.
        rest = max(_SECONDS, _REST * len(job.in_flight))
        if not all(self._hedge(job, ticket, lane) for _, ticket, lane in overdue):
            return rest
        return rest if wait == math.inf and rest > _SECONDS else max(wait, rest)

    def _hedge(self, job: Job, ticket: Ticket, lane: Lane) -> bool:
        """Ask elsewhere for what a request asks; False if that cannot be done, of no request."""
        quick = self._quick_lane(job, lane)
        tokens = self._estimates.tokens(job.kind, ticket.request)
        if quick is None or not self._budget.take(tokens):
            return False
        job.hedge(ticket, lane)
        quick.wake()
        return True

    def _quick_lane(self, job: Job, busy: Lane) -> Lane | None:
        """A lane with room, known neither as slow nor as ill, and not this; known ones first."""
        usual, avoid, unknown = self._estimates.pace(job.kind), {busy}, None
        for _ in range(_DRAWS):
            if (lane := self._idle.pick(job, avoid)) is None or lane.is_bulk:
                break
            avoid.add(lane)
            if lane.condition.on_trial or _is_slow(lane, usual):
                continue
            if lane.width.pace is not None:
                return lane
            unknown = unknown or lane
        return unknown


def _lane_of(ticket: Ticket) -> Lane | None:
    """Where a request is worked on; None where it may be waiting, which says nothing."""
    lane = None if ticket.bundle is None else ticket.bundle.lane
    return None if lane is None or lane.endpoint.bundling.queues else lane


def _patience(lane: Lane, usual: float | None) -> float:
    if lane.width.pace is None:
        return 1.0
    return _PATIENCE_IF_SLOW if _is_slow(lane, usual) else _PATIENCE_IF_WELL


def _is_slow(lane: Lane, usual: float | None) -> bool:
    pace = lane.width.pace
    return pace is not None and usual is not None and pace >= _SLOW * usual


def _by_patience(late: tuple[float, Ticket, Lane]) -> float:
    return late[0]
