"""Single requests from anywhere, sent through the lanes like those of a run."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from langgraph_hpc_fanout.dispatch.job import Job, Ticket
from langgraph_hpc_fanout.dispatch.lane import Lane
from langgraph_hpc_fanout.dispatch.reasons import explain
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.dispatch.scheduler import Scheduler
from langgraph_hpc_fanout.records import Failure, Reply, Request

Answered = asyncio.Future[Reply]


class Calls:
    """One job for all who wait for a single answer of one model. Lives on the dispatch loop.

    Args:
        scheduler: Whose lanes to use.
        model: Logical model that is asked.
        retry: How hard to try.
        require: Tags that an endpoint must have to be asked.
        forbid: Tags that it must not have.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        model: str,
        retry: Retry,
        require: frozenset[str] = frozenset(),
        forbid: frozenset[str] = frozenset(),
    ) -> None:
        self._scheduler = scheduler
        self._model = model
        self._retry = retry
        self._require = require
        self._forbid = forbid
        self._waiting: deque[Ticket] = deque()
        self._pending: set[Ticket] = set()
        self._job: Job | None = None

    async def ask(self, request: Request) -> Reply:
        """The last word on a request; a failure is a reply, too."""
        answered: Answered = asyncio.get_running_loop().create_future()
        ticket = Ticket(answered, request)
        self._pending.add(ticket)
        self._waiting.append(ticket)
        if self._job is None:
            self._job = Job(
                self,
                self._model,
                self._retry,
                require=self._require,
                forbid=self._forbid,
                separate=True,
            )
            self._scheduler.add(self._job)
        else:
            self._scheduler.offer(self._job)
        try:
            return await answered
        finally:
            self._forget(ticket)

    # -- the scheduler's client -----------------------------------------------------------

    def feed(self, most: int) -> Sequence[Ticket]:
        """The next tickets that somebody still waits for."""
        tickets: list[Ticket] = []
        while self._waiting and len(tickets) < most:
            ticket = self._waiting.popleft()
            if ticket.open:
                tickets.append(ticket)
        return tickets

    def unfed(self) -> int:
        """How many wait to be sent."""
        return len(self._waiting)

    def settle(self, ticket: Ticket, reply: Reply, lane: Lane, seconds: float) -> None:
        """Hand a reply to who waits for it."""
        _hand(ticket, reply)

    def abort(self, failures: Sequence[Failure]) -> None:
        """No endpoint can go on, or the pool was closed: everybody gets the same reply."""
        self._job = None
        self._waiting.clear()
        failure = Failure(failures[0].kind, explain(failures, self._model))
        for ticket in self._pending:
            _hand(ticket, Reply(0, failure=failure))

    def _forget(self, ticket: Ticket) -> None:
        """Nobody waits for a ticket any more, whether it was answered or not."""
        self._pending.discard(ticket)
        if self._job is None:
            return
        if ticket.open:
            self._job.withdraw(ticket)
        if not self._pending:
            self._scheduler.remove(self._job)
            self._job = None


def _hand(ticket: Ticket, reply: Reply) -> None:
    answered: Answered = ticket.tag
    if not answered.done():
        answered.set_result(reply)
