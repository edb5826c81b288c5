"""Whether a request can be paid for: before it leaves, and what becomes of it if it cannot."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from langgraph_hpc_fanout.dispatch.costs.budget import Budget, Purse
from langgraph_hpc_fanout.dispatch.costs.charges import Charge
from langgraph_hpc_fanout.records import Failure, Reply

if TYPE_CHECKING:
    from langgraph_hpc_fanout.dispatch.job import Job, Ticket
    from langgraph_hpc_fanout.dispatch.lane import Lane
    from langgraph_hpc_fanout.dispatch.scheduler import Scheduler

_REFUSED_AT_ONCE = 64
"""Most tickets in a row that are refused for want of money before others may run."""


class Cashier:
    """Takes payment for tickets out of the purses of their jobs and of the pool.

    Args:
        budget: Of the pool.
        scheduler: Whose tickets they are.
    """

    def __init__(self, budget: Budget | None, scheduler: Scheduler) -> None:
        self.purse = Purse(budget, "pool")
        self._scheduler = scheduler
        self._short: set[Job] = set()
        self._reviving: set[Job] = set()
        self._refusing: set[Job] = set()

    def open_account(self, job: Job) -> None:
        """A job has come; if its budgets cannot be kept, it is aborted."""
        self.take_on(job)
        try:
            for lane in self._scheduler.lanes:
                serves_others = lane.condition.is_hot and job.model not in lane.serves
                if job.admits(lane.tags) and not serves_others:
                    lane.account.check(job)
        except ValueError as error:
            self._scheduler.abort(job, [Failure("budget", str(error))])

    def take_on(self, job: Job) -> None:
        """Find what pays for a job: nothing, where there is neither a limit nor a price."""
        purses = [self.purse] if job.purse is None else [job.purse, self.purse]
        is_limited = any(purse.budget is not None for purse in purses)
        is_priced = any(lane.account.price is not None for lane in self._scheduler.lanes)
        if is_limited or is_priced:
            job.purses = purses

    def forget(self, job: Job) -> None:
        """A job is closed."""
        self._short.discard(job)
        self._reviving.discard(job)

    def pay(self, job: Job, ticket: Ticket, lane: Lane) -> bool:
        """Reserve what sending a ticket may cost; where that cannot be, it is not sent."""
        now = self._scheduler.loop.time()
        try:
            charge = lane.account.charge(job, ticket)
        except ValueError as error:
            self._give_up(job, ticket, lane, Failure("budget", str(error)))
            return False
        except Exception as error:  # noqa: BLE001 - an endpoint's own attributes
            message = f"What a request costs at {lane.name} cannot be told: {error!r}."
            self._give_up(job, ticket, lane, Failure("budget", message))
            return False
        if lane.account.reserve(job, ticket, charge, now):
            self._revive(job)
            return True
        if job.cancel_twin(ticket):
            return False
        if (refused := _refusal(job, charge, now)) is None:
            job.untake(ticket)
            self._reviving.discard(job)
            self._short.add(job)  # what is in flight may turn out to cost less
        elif self._is_cheaper_elsewhere(job, ticket, lane, now):
            job.keep_from(ticket, lane)
            self._scheduler.wake_one(job, ticket)
        else:
            self._refuse(job, ticket, lane, refused)
        return False

    def charge(self, job: Job, ticket: Ticket, reply: Reply, lane: Lane) -> None:
        """Settle what an attempt has cost; who waits for what was reserved may go on."""
        lane.account.settle(job, ticket, reply, self._scheduler.loop.time())
        self._offer_to_short()

    def give_back(self, job: Job, ticket: Ticket, lane: Lane) -> None:
        """A ticket that was paid for is not sent after all; who waits for the money may go on."""
        lane.account.give_back(job, ticket)
        if self._short:
            # Soon, for the worker that gives it back may be the only one that its lane may have.
            self._scheduler.loop.call_soon(self._offer_to_short)

    def _offer_to_short(self) -> None:
        if self._short:
            short, self._short = self._short, set()
            self._reviving |= short
            for each in short:
                self._scheduler.offer(each)

    def _revive(self, job: Job) -> None:
        """A job that was short can pay again: let one more lane try, until one cannot."""
        if job in self._reviving:
            if job.may_have_work():
                self._scheduler.offer(job)
            else:
                self._reviving.discard(job)

    def _give_up(self, job: Job, ticket: Ticket, lane: Lane, failure: Failure) -> None:
        """Nothing can be paid for; where tickets are separate, that may hold for this alone."""
        if job.separate:
            self._scheduler.settle(job, ticket, Reply(0, failure=failure), lane, 0.0)
        else:
            self._scheduler.abort(job, [failure])

    def _is_cheaper_elsewhere(self, job: Job, ticket: Ticket, lane: Lane, now: float) -> bool:
        return any(
            job.may_use(other)
            and other.condition.may_recover
            and other.account.price != lane.account.price
            and ticket.avoid.get(other) != math.inf
            and _refusal(job, other.account.charge(job, ticket), now) is None
            for other in self._scheduler.lanes
        )

    def _refuse(self, job: Job, ticket: Ticket, lane: Lane, why: str) -> None:
        """What cannot be paid for any more fails; if nothing ever was, nothing can be done."""
        failure = Failure("budget", why)
        limited = [purse for purse in job.purses if purse.budget is not None]
        if not ticket.attempts and all(purse.is_unused for purse in limited):
            self._give_up(job, ticket, lane, failure)
            return
        self._scheduler.settle(job, ticket, Reply(0, failure=failure), lane, 0.0)
        if job.open and job not in self._refusing:
            self._refusing.add(job)
            self._scheduler.loop.call_soon(self._refuse_more, job, lane)

    def _refuse_more(self, job: Job, lane: Lane) -> None:
        """See whether anything of what waits can be paid for; a lane's rate must not hold it up."""
        for _ in range(_REFUSED_AT_ONCE):
            ticket = job.take(lane) if job.open and job.may_use(lane) else None
            if ticket is None:
                self._refusing.discard(job)
                return
            if self.pay(job, ticket, lane):
                lane.account.give_back(job, ticket)
                job.untake(ticket)
                self._refusing.discard(job)
                self._scheduler.offer(job)
                return
            if job in self._short:  # it may fit later
                self._refusing.discard(job)
                return
        self._scheduler.loop.call_soon(self._refuse_more, job, lane)


def _refusal(job: Job, charge: Charge, now: float) -> str | None:
    """Why this can never be paid for; None when it may be, later."""
    spent = (purse for purse in job.purses if purse.is_spent(charge, now))
    return next((purse.refusal(charge, now) for purse in spent), None)
