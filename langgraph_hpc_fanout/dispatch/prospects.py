"""Whether a job will be served: now, later, or never."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

from langgraph_hpc_fanout.dispatch.health import State
from langgraph_hpc_fanout.dispatch.job import Job
from langgraph_hpc_fanout.dispatch.lane import Lane
from langgraph_hpc_fanout.dispatch.reasons import denied, explain, in_short, why_not
from langgraph_hpc_fanout.records import Failure

logger = logging.getLogger("langgraph_hpc_fanout")


class Prospects:
    """Aborts jobs that no lane can serve, and says what the others wait for.

    Args:
        lanes: Those there are; looked at anew each time.
        leaving: Those that end what they have in flight.
        absence: Seconds for which a job waits for lanes that have answered before.
        abort: Ends a job, for these reasons.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        leaving: Collection[object],
        absence: float,
        abort: Callable[[Job, Sequence[Failure]], object],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._lanes = lanes
        self._leaving = leaving
        self._absence = absence
        self._abort = abort

    def check(self, job: Job, now: float | None = None) -> None:
        """Lanes have changed: abort a job that cannot go on."""
        now = self._loop.time() if now is None else now
        # Of thousands of lanes few have a failure, and this is asked each time that one changes.
        failing = [lane for lane in self._lanes if lane.condition.failure is not None]
        if refused := denied(lane for lane in failing if job.admits(lane.tags)):
            self._abort(job, refused)
        else:
            self.check_served(job, now)

    def check_served(self, job: Job, now: float) -> None:
        """Abort a job that nobody serves, or that has waited long enough for somebody."""
        if self._leaving and job.in_flight:
            pass  # it is checked again when they are gone
        elif any(job.may_be_served_by(lane) for lane in self._lanes):
            job.lost_at = None
        elif not self._is_worth_waiting(job, now):
            self._abort(job, self._why_nobody(job))

    def is_early(self, job: Job) -> bool:
        """Whether all that can serve a job are on their way still."""
        # Mostly somebody is there, and then one look is enough.
        return not any(lane.condition.is_hot and job.may_use(lane) for lane in self._lanes) and any(
            job.awaits(lane) for lane in self._lanes
        )

    def tell_what_for(self, job: Job, *, early: bool) -> None:
        """Put into words what a job waits for, if nobody can be asked now."""
        before, job.waiting_for = job.waiting_for, None
        if early:
            awaited = [lane.failure for lane in self._lanes if job.awaits(lane)]
            job.waiting_for = in_short([each for each in awaited if each is not None])
            if job.separate and before is None:  # calls have no progress that would show it
                logger.warning("%s Calls wait for it.", job.waiting_for)
        elif job.lost_at is not None:
            job.waiting_for = explain(self._why_nobody(job), job.model)

    def _is_worth_waiting(self, job: Job, now: float) -> bool:
        """Whether a lane that has answered before may come back in time; they are probed."""
        patience = self._absence
        if not any(
            lane.state is State.DEAD and lane.condition.has_answered and job.may_use(lane)
            for lane in self._lanes
        ):
            return False
        if job.lost_at is None and patience:
            job.lost_at = now
            self._loop.call_at(now + patience, self._check_again, job, now + patience)
            logger.warning(
                "%s Waiting up to %g s for one to come back.",
                explain(self._why_nobody(job), job.model),
                patience,
            )
        return job.lost_at is not None and now < job.lost_at + patience

    def _check_again(self, job: Job, when: float) -> None:
        if job.open:
            self.check(job, max(when, self._loop.time()))  # uvloop's timers ring a little early

    def _why_nobody(self, job: Job) -> list[Failure]:
        """Why no lane can serve a job, for each that its tags do not keep out."""
        reasons = [why_not(lane) for lane in self._lanes if job.admits(lane.tags)]
        return reasons or [Failure("cold", "The last endpoint that could be asked has left.")]
