"""Tickets that travel in one send."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from langgraph_hpc_fanout.dispatch.job import Job, Ticket
from langgraph_hpc_fanout.records import Failure

if TYPE_CHECKING:
    from langgraph_hpc_fanout.dispatch.lane import Lane


class Bundle:
    """Tickets that travel in one send, and the scope in which they do.

    Args:
        lane: Where they travel.
        taken: The tickets, and the jobs they are of.

    Attributes:
        awaited: How many of them somebody still waits for.
        lost: Why the send is stopped although they are waited for; None when it is not.
    """

    __slots__ = ("awaited", "jobs", "lane", "lost", "scope", "tickets")

    def __init__(self, lane: Lane, taken: list[tuple[Job, Ticket]]) -> None:
        self.lane = lane
        self.jobs = [job for job, _ in taken]
        self.tickets = [ticket for _, ticket in taken]
        self.awaited = len(taken)
        self.lost: Failure | None = None
        self.scope: asyncio.Timeout | None = None
        for ticket in self.tickets:
            ticket.bundle = self

    def leave(self, now: float) -> None:
        """One of its tickets is not waited for any more; the send stops when none is."""
        self.awaited -= 1
        if not self.awaited:
            self.cancel(now)

    def cancel(self, now: float) -> None:
        """Stop the send, unless it is stopping."""
        if self.scope is not None and not self.scope.expired():
            self.scope.reschedule(now)


def bundle_of(lane: Lane, taken: list[tuple[Job, Ticket]]) -> Bundle | None:
    """A bundle of what was taken, if anything was, and is still wanted."""
    if len(taken) > 1 or lane.is_bulk:  # a client may end its job when asked for more
        for job, ticket in taken:
            if not ticket.open:
                lane.account.give_back(job, ticket)
        taken = [pair for pair in taken if pair[1].open]
    return Bundle(lane, taken) if taken else None
