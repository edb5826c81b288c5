"""The scheduler: lanes pull from jobs; what fails goes back, marked with where it failed."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Iterable, Sequence

from langgraph_hpc_fanout.dispatch.costs.budget import Budget
from langgraph_hpc_fanout.dispatch.costs.cashier import Cashier
from langgraph_hpc_fanout.dispatch.estimates import Estimates
from langgraph_hpc_fanout.dispatch.health import State
from langgraph_hpc_fanout.dispatch.hedging import Hedging
from langgraph_hpc_fanout.dispatch.idle import IdleLanes
from langgraph_hpc_fanout.dispatch.job import Job, Ticket
from langgraph_hpc_fanout.dispatch.lane import Lane
from langgraph_hpc_fanout.dispatch.pacing.gate import SharedRates
from langgraph_hpc_fanout.dispatch.policy import Policy
from langgraph_hpc_fanout.dispatch.prospects import Prospects
from langgraph_hpc_fanout.dispatch.reasons import why_not
from langgraph_hpc_fanout.dispatch.resolving import Resolver
from langgraph_hpc_fanout.dispatch.retry import RetryBudget
from langgraph_hpc_fanout.endpoints.protocol import Action, Bundling, Endpoint
from langgraph_hpc_fanout.records import Failure, Reply

logger = logging.getLogger("langgraph_hpc_fanout")

_EARLY = 0.001
"""Seconds by which uvloop's timers may ring early: what is left then is no time for another try."""
_COUNTED = (Action.TRY_AGAIN, Action.TRY_LAST)
"""What follows from a failed attempt, and not from being turned away."""


class Scheduler:
    """Decides who gets which request when.

    It knows neither LangGraph nor HTTP nor the wall clock: time is the event loop's, chance
    is the given generator's. Everything happens on the loop it was made on.

    Args:
        endpoints: One lane is made for each.
        rng: Where jitter comes from.
        policy: How endpoints and failures are treated.
        budget: What all jobs together may use.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        rng: random.Random | None = None,
        policy: Policy = Policy(),
        budget: Budget | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.shared_rates = SharedRates(self.loop)
        self.lanes = [Lane(endpoint, self) for endpoint in endpoints]
        self._gathering = [lane for lane in self.lanes if lane.is_bulk]  # few, among thousands
        self._rng = rng or random.Random()
        self._policy = policy
        self.idle = IdleLanes(self._rng)
        self.cashier = Cashier(budget, self)
        self.when_busy: Callable[[], object] | None = None  # called when a job comes
        self.when_joining: list[Callable[[Lane], object]] = []  # called before the lane may send
        self._jobs: list[Job] = []
        self._turns = 0.0
        self._timer: tuple[float, asyncio.Handle] | None = None
        self._resolver = Resolver(self.lanes)
        self._estimates = Estimates()
        self._hedging = Hedging(policy.hedging, self._estimates, self.idle, self._jobs)
        self._is_closed = False
        self._leaving: dict[asyncio.Task[None], Lane] = {}
        self._prospects = Prospects(self.lanes, self._leaving, policy.absence, self.abort)

    @property
    def busy(self) -> bool:
        """Whether any job is open."""
        return bool(self._jobs)

    @property
    def is_wanted(self) -> bool:
        """Whether any job is open, or somebody waits to know whom to ask."""
        return bool(self._jobs) or self._resolver.waiting > 0

    # -- jobs ---------------------------------------------------------------------------

    async def resolve(
        self, model: str | None, require: Iterable[str] = (), forbid: Iterable[str] = ()
    ) -> str:
        """The logical model to ask for: the given one, or the only one served.

        Args:
            model: The model's name; None for the only one.
            require: Tags that an endpoint must have.
            forbid: Tags that it must not have.

        Raises:
            NoEndpointError: If no endpoint serves it, or several models are served and none was
                named. The message says why for each endpoint.
        """
        return await self._resolver.resolve(model, frozenset(require), frozenset(forbid))

    def add(self, job: Job) -> None:
        """Let lanes pull from a job."""
        job.retries = RetryBudget(self._policy.retries, self.loop.time())
        job.turns = self._turns
        self._jobs.append(job)
        self.cashier.open_account(job)
        if not job.open:
            return
        if self.when_busy is not None:
            self.when_busy()
        for lane in self.lanes:
            if job.admits(lane.tags):
                lane.start()
        self._wake_all()
        self._prospects.check(job)
        self._prospects.tell_what_for(job, early=self._prospects.is_early(job))

    def refresh(self, job: Job) -> None:
        """A job has more to feed."""
        job.refresh()
        self._wake_all()

    def offer(self, job: Job) -> None:
        """A job has a little more to feed: enough for one lane, the least busy."""
        job.refresh()
        if (lane := self.idle.pick(job)) is not None:
            lane.wake()

    def _wake_all(self) -> None:
        for lane in self.idle.all():
            lane.wake()

    def remove(self, job: Job) -> None:
        """Close a job: nothing more is sent for it, what is in flight is cancelled."""
        job.close()
        self.cashier.forget(job)
        if job in self._jobs:
            self._jobs.remove(job)

    async def close(self) -> None:
        """Abort all jobs and close all lanes."""
        self._is_closed = True
        for job in list(self._jobs):
            self.abort(job, [Failure("cancelled", "The pool was closed.")])
        for lane in self.lanes:
            lane.condition.close()  # at once, so that no job is taken in meanwhile
        if self._timer is not None:
            self._timer[1].cancel()
        self._hedging.stop()
        lanes = (*self.lanes, *self._leaving.values())
        await asyncio.gather(*(lane.close() for lane in lanes), return_exceptions=True)
        self._resolver.look_again()

    # -- lanes that come and go -----------------------------------------------------------

    def join(self, endpoint: Endpoint) -> Lane:
        """Take in one more endpoint.

        Raises:
            ValueError: If its price does not tell what a budget limits.
        """
        lane = Lane(endpoint, self)
        wanted = [job for job in self._jobs if job.admits(lane.tags)]
        for job in wanted:
            lane.account.check(job)
        for tell in tuple(self.when_joining):
            tell(lane)
        self.lanes.append(lane)
        if lane.is_bulk:
            self._gathering.append(lane)
        if lane.account.price is not None:
            for job in self._jobs:
                self.cashier.take_on(job)
        if wanted or self._resolver.waiting:
            lane.start()
        self._resolver.look_again()
        return lane

    def leave(self, lane: Lane) -> asyncio.Task[None]:
        """Give a lane nothing more, let what it has in flight end, and close it.

        Returns:
            What ends when it is closed.
        """
        return self.leave_all([lane])[0]

    def leave_all(self, lanes: Sequence[Lane]) -> list[asyncio.Task[None]]:
        """Let many lanes leave at once, which costs no more than letting one."""
        left = set(lanes)
        for lanes_here in (self.lanes, self._gathering):
            lanes_here[:] = [lane for lane in lanes_here if lane not in left]
        tasks = [self._drain(lane) for lane in lanes]
        self.lane_changed()
        return tasks

    def _drain(self, lane: Lane) -> asyncio.Task[None]:
        self.idle.discard(lane)
        lane.drain()
        leaving = self.loop.create_task(lane.gone(), name=f"leaving {lane.name}")
        self._leaving[leaving] = lane
        leaving.add_done_callback(self._has_left)
        return leaving

    def _has_left(self, leaving: asyncio.Task[None]) -> None:
        del self._leaving[leaving]
        if not self._is_closed:
            self.lane_changed()

    # -- what lanes ask -----------------------------------------------------------------

    def take(self, lane: Lane) -> tuple[Job, Ticket] | None:
        """The next ticket for a lane; jobs take turns in proportion to their weights."""
        for job in self._in_turn():  # a client may end its job when asked for tickets
            if (
                job.may_use(lane)
                and (ticket := job.take(lane)) is not None
                and (not job.purses or self.cashier.pay(job, ticket, lane))
            ):
                # Turns that a job had no use for are not made up for.
                self._turns = max(self._turns, job.turns)
                job.turns = self._turns + 1.0 / job.weight
                return job, ticket
        self._hedging.watch()
        return None

    def take_back(self, taken: Sequence[tuple[Job, Ticket]], lane: Lane) -> None:
        """What a lane has taken and will not send is for any lane again."""
        for job, ticket in reversed(taken):
            self.cashier.give_back(job, ticket, lane)
            if ticket.open:
                job.untake(ticket)
        self._wake_all()

    def peek(self, lane: Lane) -> tuple[Job, Ticket] | None:
        """What the lane would get now."""
        for job in self._in_turn():
            if job.may_use(lane) and (ticket := job.peek(lane)) is not None:
                return job, ticket
        return None

    def expected_tokens(self, job: Job, ticket: Ticket) -> float:
        """Tokens that a ticket will use, about, as its kind has done so far."""
        return self._estimates.tokens(job.kind, ticket.request)

    def _in_turn(self) -> Sequence[Job]:
        """A copy of the jobs; the one whose turn it is comes first."""
        if len(self._jobs) < 2:
            return tuple(self._jobs)
        return sorted(self._jobs, key=_turns_of)

    def waiting(self, lane: Lane) -> int:
        """About how many tickets the lane could take, one after another."""
        return sum(job.waiting() for job in self._jobs if job.may_use(lane))

    def bulk_for(self, lane: Lane, bundling: Bundling) -> int:
        """About how many tickets make a bundle of many that may be long on its way.

        Of what others serve, too, they keep a share, and all of it where it is little.

        Returns:
            0 when there is nothing that is worth while.
        """
        own = shared = 0
        for job in self._jobs:
            if job.may_use(lane):
                if job.is_left_to_others(lane, self.lanes):
                    shared += job.waiting()
                else:
                    own += job.waiting()
        return own + (int(bundling.share * shared) if shared >= bundling.least else 0)

    def may_have_work(self, lane: Lane) -> bool:
        """Whether asking for one more ticket is worth while."""
        return any(job.may_have_work() and job.may_use(lane) for job in self._jobs)

    def answered(self, job: Job, ticket: Ticket, reply: Reply, lane: Lane, seconds: float) -> None:
        """Act on what came back for a ticket."""
        if not ticket.open:
            return
        was_full = job.is_full
        self._act(job, ticket, reply, lane, seconds)
        if was_full and not job.is_full:
            self.offer(job)  # its turn may come in another lane

    def _act(self, job: Job, ticket: Ticket, reply: Reply, lane: Lane, seconds: float) -> None:
        failure = reply.failure
        if failure is None:
            self._learn(job, ticket, reply, lane, seconds)
            self.settle(job, ticket, reply, lane, seconds)
            return
        action = lane.actions[failure.kind]
        if action is Action.ABORT:
            self.abort(job, [failure])
        elif action is Action.GIVE_UP:
            self.settle(job, ticket, reply, lane, seconds)
        else:
            self._try_again(job, ticket, reply, action, lane, seconds)

    def lane_opened(self) -> None:
        """A lane was found well: wake who waits for it, abort who waited for it in vain.

        Thousands may open at once, so nothing here looks at all lanes unless it has to: what was
        refused is known since it was, and only tickets that were kept from lanes are news to any
        but the one that has opened.
        """
        self._resolver.look_again()
        is_news = False
        for job in list(self._jobs):
            is_news = job.reconsider() or is_news
            self._prospects.check_served(job, self.loop.time())
            if job.waiting_for is not None or job.lost_at is not None:
                self._prospects.tell_what_for(job, early=self._prospects.is_early(job))
        if is_news:
            self._wake_all()
        for lane in self._gathering:
            lane.wake()  # what it left to the one that has opened may be its own after all

    def lane_changed(self) -> None:
        """A lane died, is left alone or leaves: wake who waits, abort who cannot go on."""
        self._resolver.look_again()
        for job in list(self._jobs):
            job.reconsider()
            early = self._prospects.is_early(job)
            if early:
                job.stop_clocks()
            self._prospects.check(job)
            self._prospects.tell_what_for(job, early=early)
        self._wake_all()  # what another lane was to have may be theirs now

    def fault(self, lane: Lane, error: Exception) -> None:
        """A bug of ours, or of an endpoint's that nobody foresaw: no job is to hang for it."""
        logger.error("%s", lane, exc_info=error)
        for job in list(self._jobs):
            if job.may_use(lane):
                message = f"A fault in the dispatcher, at {lane.name}: {error!r}."
                self.abort(job, [Failure("permanent", message, endpoint=lane.name)])

    def why_not(self) -> list[Failure]:
        """For each endpoint, why it does not serve a model that no lane serves."""
        return [why_not(lane) for lane in self.lanes]

    # -- failures -----------------------------------------------------------------------

    def _try_again(
        self, job: Job, ticket: Ticket, reply: Reply, action: Action, lane: Lane, seconds: float
    ) -> None:
        now = self.loop.time()
        _note(ticket, action, now)
        # Of who is not there the lane's own probes tell when to come again.
        delay = None if action is Action.PROBE else reply.retry_after
        if delay is None:
            delay = job.retry.backoff(ticket.refusals or ticket.faults, self._rng)
        # What it says of the lane holds whatever becomes of the ticket.
        self._tell(lane, action, reply, delay)
        if not ticket.open or job.leave_to_twin(ticket):
            return  # it was the last lane, and the job is aborted; or it is asked elsewhere, too
        if action is Action.PROBE and (lane.is_bulk or self._prospects.is_early(job)):
            ticket.stop_clock()  # it is the bundle that was not taken, however long that lasts
        last = _last_moment(job, ticket)
        left = last - now - _EARLY
        in_time = delay < left or (left > 0 and self._may_go_elsewhere(job, ticket, lane))
        if ticket.faults >= job.retry.attempts or not in_time:
            self.settle(job, ticket, reply, lane, seconds)
            return
        if ticket.expiry is not None:
            ticket.expiry.cancel()
        if action is Action.TRY_LAST and last == math.inf and not job.separate:
            job.put_last(ticket)
            self.offer(job)
            return
        if last < math.inf:
            expired = (job, ticket, reply, lane, seconds)
            ticket.expiry = self.loop.call_at(last, self._settle_waiting, *expired)
        # A bundle of many that fails is one failure, and no storm.
        is_charged = action in _COUNTED and not lane.is_bulk
        if is_charged and job.retries is not None and not job.retries.take(now):
            job.park(ticket, avoid=lane, until=now + delay, now=now)
            self._set_timer(now + job.retries.wait(now))
            return
        job.put_back(ticket, avoid=lane, until=now + delay, now=now)
        self._offer_again(job, ticket)

    def _tell(self, lane: Lane, action: Action, reply: Reply, delay: float) -> None:
        """Tell a lane what a request has met there."""
        failure = reply.failure
        assert failure is not None  # noqa: S101 - narrows the type
        if action is Action.WAIT:
            lane.refused(failure, reply.retry_after, delay)
        elif action is Action.PROBE:
            lane.chill(failure)
        elif not lane.is_bulk and lane.condition.faulted() and self._may_eject():
            lane.eject(failure)

    def _may_eject(self) -> bool:
        """Whether one more lane may be left alone."""
        ejected = sum(lane.state is State.EJECTED for lane in self.lanes)
        return ejected + 1 <= self._policy.ejected * len(self.lanes)

    def _offer_again(self, job: Job, ticket: Ticket) -> None:
        """Let a ticket be taken by a lane that it does not avoid, now or later."""
        self.wake_one(job, ticket)
        if (due := job.next_retry()) is not None:
            self._set_timer(due)

    def wake_one(self, job: Job, ticket: Ticket) -> None:
        """Let a ticket be taken at once, if a lane that it does not avoid has room."""
        if (lane := self.idle.pick(job, ticket.avoid)) is not None:
            lane.wake()

    def _may_go_elsewhere(self, job: Job, ticket: Ticket, lane: Lane) -> bool:
        return any(
            other is not lane
            and other.condition.is_hot
            and job.may_use(other)
            and other not in ticket.avoid
            for other in self.lanes
        )

    def _learn(self, job: Job, ticket: Ticket, reply: Reply, lane: Lane, seconds: float) -> None:
        """Take in how much an answer took."""
        if (usage := reply.usage) is not None:
            # How long one of many was at it, nobody knows.
            if not lane.is_bulk:
                self._estimates.learn(job.kind, ticket.request, usage, seconds)
            self._hedging.answered(usage.total_tokens)

    # -- endings --------------------------------------------------------------------------

    def settle(self, job: Job, ticket: Ticket, reply: Reply, lane: Lane, seconds: float) -> None:
        """The last word on a ticket."""
        if (twin := ticket.twin) is not None and twin.bundle is not None:
            lost = Reply(0, failure=Failure("cancelled", "Another endpoint was faster."))
            self.cashier.charge(job, twin, lost, twin.bundle.lane)
        job.speak_for_both(ticket)
        job.drop(ticket)
        if job.retries is not None and reply.failure is None:
            job.retries.answered(was_retry=ticket.faults > 0)
            if job.has_parked:
                self._unpark(job)
        job.client.settle(ticket, reply, lane, seconds)

    def _settle_waiting(
        self, job: Job, ticket: Ticket, reply: Reply, lane: Lane, seconds: float
    ) -> None:
        """Time or patience is up while it waits for another try: its last failure stands."""
        if ticket.open and ticket not in job.in_flight:
            self.settle(job, ticket, reply, lane, seconds)

    def abort(self, job: Job, failures: Sequence[Failure]) -> None:
        """A job cannot go on."""
        self.remove(job)
        job.client.abort(failures)

    # -- backoffs -----------------------------------------------------------------------

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            set_for, timer = self._timer
            if set_for <= when:
                return
            timer.cancel()
        # When it is for is kept, because uvloop's timers for the past or for now do not tell.
        self._timer = when, self.loop.call_at(when, self._end_backoffs, when)

    def _end_backoffs(self, when: float) -> None:
        self._timer = None
        now = max(when, self.loop.time())  # uvloop's timers ring a little early
        for job in self._jobs:
            for ticket in job.end_backoffs(now):
                self.wake_one(job, ticket)
            self._unpark(job, now)
        due = [retry for job in self._jobs if (retry := job.next_retry()) is not None]
        if due:
            self._set_timer(min(due))

    def _unpark(self, job: Job, now: float | None = None) -> None:
        """Try again what is paid for by now."""
        now = self.loop.time() if now is None else now
        while job.retries is not None and job.has_parked:
            if not job.retries.take(now):
                self._set_timer(now + job.retries.wait(now))
                return
            self._offer_again(job, job.unpark(now))


def _last_moment(job: Job, ticket: Ticket) -> float:
    """When a ticket's time or patience ends."""
    end = math.inf if ticket.deadline is None else ticket.deadline
    if ticket.refused_since is not None:
        end = min(end, ticket.refused_since + job.retry.patience)
    return end


def _note(ticket: Ticket, action: Action, now: float) -> None:
    """Count a failure of a ticket."""
    if action in _COUNTED:
        ticket.faults += 1
        ticket.refusals, ticket.refused_since = 0, None  # it was let in
    else:
        ticket.refusals += 1
        if ticket.refused_since is None:
            ticket.refused_since = now


def _turns_of(job: Job) -> float:
    return job.turns
