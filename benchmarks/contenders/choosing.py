"""The choice of an endpoint for one request, by the scheduler: what an offer costs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from benchmarks.sample import Meter, Sample
from langgraph_hpc_fanout.dispatch.job import Job, Ticket
from langgraph_hpc_fanout.dispatch.lane import Lane
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.dispatch.scheduler import Scheduler
from langgraph_hpc_fanout.records import Failure, Reply
from langgraph_hpc_fanout.testing import virtual_time
from langgraph_hpc_fanout.testing.simulated import fleet

_MODEL = "simulated"


def offer(endpoints: int, count: int) -> Sample:
    """Offer so many tickets to a fleet that has nothing to do.

    Args:
        endpoints: How many there are, with 16 slots each.
        count: How many tickets; fewer than there are slots.
    """

    async def choose() -> Sample:
        scheduler = Scheduler(fleet(endpoints, slots=16, models=_MODEL), random.Random(0))
        job = Job(_Nobody(), _MODEL, Retry())
        scheduler.add(job)
        await asyncio.sleep(1.0)  # all are probed, and have found nothing to do
        with Meter(count) as meter:
            for _ in range(count):
                scheduler.offer(job)
        chosen = sum(lane.load for lane in scheduler.lanes)
        await scheduler.close()
        if chosen != count:
            raise ValueError(f"{count} tickets were offered to {chosen} lanes.")
        return meter.sample

    return virtual_time.run(choose)


class _Nobody:
    """A client that has nothing to ask."""

    def feed(self, most: int) -> Sequence[Ticket]:
        return ()

    def unfed(self) -> int:
        return 0

    def settle(self, ticket: Ticket, reply: Reply, lane: Lane, seconds: float) -> None:
        raise AssertionError("Nothing was asked.")

    def abort(self, failures: Sequence[Failure]) -> None:
        """The scheduler is closed."""
