"""A client of the scheduler for benchmarks: hands out requests, and notes when each is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from langgraph_hpc_fanout.dispatch.job import Ticket
from langgraph_hpc_fanout.dispatch.lane import Lane
from langgraph_hpc_fanout.records import Failure, Reply, Request


class Client:
    """Hands out requests in their order; every one must be answered.

    Args:
        requests: The requests; taken one by one, so they may be made on the way.
        count: How many there are.

    Attributes:
        done: Is set when all are answered.
        ends: When each answer came, in seconds of the loop's time.
    """

    def __init__(self, requests: Iterable[Request], count: int) -> None:
        self.done = asyncio.Event()
        self.ends: list[float] = []
        self._requests = iter(requests)
        self._unfed = self._count = count
        self._loop = asyncio.get_running_loop()

    def feed(self, most: int) -> Sequence[Ticket]:
        """The next requests."""
        count = min(most, self._unfed)
        self._unfed -= count
        return [Ticket(None, next(self._requests)) for _ in range(count)]

    def unfed(self) -> int:
        """How many are still to be handed out."""
        return self._unfed

    def settle(self, ticket: Ticket, reply: Reply, lane: Lane, seconds: float) -> None:
        """Note an answer."""
        if reply.failure is not None:
            raise ValueError(f"{ticket.request.key} was lost: {reply.failure.message}")
        self.ends.append(self._loop.time())
        if len(self.ends) == self._count:
            self.done.set()

    def abort(self, failures: Sequence[Failure]) -> None:
        """Refuse to go on."""
        raise ValueError(f"The scheduler gave up: {failures[0].message}")
