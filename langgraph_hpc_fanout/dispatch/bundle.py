"""Tickets that travel in one send."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from langgraph_hpc_fanout.dispatch.job import Job, Ticket
from langgraph_hpc_fanout.records import Failure

if TYPE_CHECKING:
    from langgraph_hpc_fanout.dispatch.costs.cashier import Cashier
    from langgraph_hpc_fanout.dispatch.lane import Lane


class Bundle:
    """Tickets that travel in one send, and the scope in which they do.

    Args:
        lane: Where they travel.
        taken: The tickets, and the jobs they are of.

    Attributes:
        awaited: How many of them somebody still waits for.
        lost: Why the send is stopped although they are waited for; None when it is not.
        timers: What ends tickets whose time is up before that of the others.
    """

    __slots__ = ("awaited", "jobs", "lane", "lost", "scope", "tickets", "timers")

    def __init__(self, lane: Lane, taken: list[tuple[Job, Ticket]]) -> None:
        self.lane = lane
        self.jobs = [job for job, _ in taken]
        self.tickets = [ticket for _, ticket in taken]
        self.awaited = len(taken)
        self.lost: Failure | None = None
        self.scope: asyncio.Timeout | None = None
        self.timers: list[asyncio.TimerHandle] = []
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

    def end(self) -> None:
        """The send has ended: nothing of it is to ring any more."""
        self.scope = None
        for timer in self.timers:
            timer.cancel()


def bundle_of(lane: Lane, taken: list[tuple[Job, Ticket]], cashier: Cashier) -> Bundle | None:
    """A bundle of what was taken, if anything was, and is still wanted; the rest is paid back."""
    wanted = [pair for pair in taken if pair[1].open]
    if len(wanted) < len(taken):  # a client may end its job when asked for more
        for job, ticket in taken:
            if not ticket.open:
                cashier.give_back(job, ticket, lane)
    return Bundle(lane, wanted) if wanted else None
