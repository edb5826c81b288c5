"""What the requests of one lane cost: reserved when they are taken, settled when they are back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from langgraph_hpc_fanout.dispatch.costs.budget import reserve_in
from langgraph_hpc_fanout.dispatch.costs.charges import NO_CHARGE, Charge, charge_of, cost_of
from langgraph_hpc_fanout.dispatch.costs.node_time import NodeTime
from langgraph_hpc_fanout.endpoints.price import price_of
from langgraph_hpc_fanout.endpoints.protocol import Endpoint
from langgraph_hpc_fanout.records import Reply

if TYPE_CHECKING:
    from langgraph_hpc_fanout.dispatch.job import Job, Ticket


class Account:
    """Reserves and settles in the purses of the jobs whose requests a lane sends.

    Args:
        endpoint: Whose price it is.
    """

    __slots__ = ("_endpoint", "_node_time", "price")

    def __init__(self, endpoint: Endpoint) -> None:
        self.price = price_of(endpoint)
        self._endpoint = endpoint
        has_nodes = self.price is not None and self.price.nodes is not None
        self._node_time = NodeTime() if has_nodes else None

    def check(self, job: Job) -> None:
        """See that a job's budgets can be kept here.

        Raises:
            ValueError: If the price does not tell what a budget limits.
        """
        for purse in job.purses:
            if purse.budget is not None:
                purse.budget.check_price(self.price, self._endpoint.name)

    def charge(self, job: Job, ticket: Ticket) -> Charge:
        """The most that sending a ticket may cost.

        Raises:
            ValueError: If nobody can say how much that is.
        """
        limits: Mapping[str, int] = getattr(self._endpoint, "context_limits", {})
        return charge_of(
            ticket.request,
            self.price,
            limits.get(job.model),
            job.retry.timeout,
            count_tokens=any(
                purse.budget is not None and purse.budget.needs_tokens(self.price)
                for purse in job.purses
            ),
        )

    def reserve(self, job: Job, ticket: Ticket, charge: Charge, now: float) -> bool:
        """Reserve that much; False when it does not fit now."""
        if not reserve_in(job.purses, charge, now):
            return False
        ticket.reserved = charge
        return True

    def begin(self, ticket: Ticket, now: float) -> None:
        """A ticket is sent."""
        if self._node_time is not None:
            ticket.mark = self._node_time.begin(now)

    def settle(self, job: Job, ticket: Ticket, reply: Reply, now: float) -> None:
        """A ticket is back, or is not waited for any more; what was settled stays as it is."""
        if (reserved := ticket.reserved) is None:
            return
        seconds = 0.0
        if self._node_time is not None and ticket.mark is not None:
            seconds = self._node_time.end(ticket.mark, now)
            if self._endpoint.bundling.queues:
                seconds = min(seconds, _seconds_of_work(reply))
        cost = cost_of(reserved, reply, self.price, seconds)
        for purse in job.purses:
            purse.settle(reserved, cost)
        ticket.spent += cost
        ticket.reserved = ticket.mark = None

    def give_back(self, job: Job, ticket: Ticket) -> None:
        """A ticket that was taken is not sent after all."""
        if ticket.reserved is not None:
            for purse in job.purses:
                purse.settle(ticket.reserved, NO_CHARGE)
            ticket.reserved = None


def _seconds_of_work(reply: Reply) -> float:
    """Most seconds that an attempt can have had nodes, where it may have waited in a queue.

    Only an answer of the first try on the node tells: its seconds are those of its last try.
    """
    if reply.failure is not None or reply.tries != 1 or reply.seconds is None:
        return math.inf
    return max(0.0, reply.seconds)
