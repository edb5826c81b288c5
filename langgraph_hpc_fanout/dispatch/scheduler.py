"""The scheduler: lanes pull from jobs; what fails goes back, marked with where it failed."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Sequence

from langgraph_hpc_fanout.dispatch.job import Job, Ticket
from langgraph_hpc_fanout.dispatch.lane import Lane, State
from langgraph_hpc_fanout.dispatch.retry import ACTIONS, Action
from langgraph_hpc_fanout.endpoints.protocol import FUNCTIONS, Endpoint
from langgraph_hpc_fanout.records import Failure, FailureKind, Reply


class NoEndpointError(LookupError):
    """No endpoint serves the model that is asked for; the message says why for each.

    Attributes:
        kind: The kind of failure that this is to who asked.
    """

    def __init__(self, message: str, kind: FailureKind = "cold") -> None:
        super().__init__(message)
        self.kind = kind


class Scheduler:
    """Decides who gets which request when.

    It knows neither LangGraph nor HTTP nor the wall clock: time is the event loop's, chance
    is the given generator's. Everything happens on the loop it was made on.

    Args:
        endpoints: One lane is made for each.
        rng: Where jitter comes from.
    """

    def __init__(self, endpoints: Sequence[Endpoint], rng: random.Random | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.lanes = [Lane(endpoint, self) for endpoint in endpoints]
        self._rng = rng or random.Random()
        self._jobs: deque[Job] = deque()
        self._timer: tuple[float, asyncio.Handle] | None = None
        self._changed = asyncio.Event()

    @property
    def busy(self) -> bool:
        """Whether any job is open."""
        return bool(self._jobs)

    # -- jobs ---------------------------------------------------------------------------

    async def resolve(self, model: str | None) -> str:
        """The logical model to ask for: the given one, or the only one served.

        Raises:
            NoEndpointError: If no endpoint serves it, or several models are served and none was
                named. The message says why for each endpoint.
        """
        for lane in self.lanes:
            lane.start()
        while True:
            if denied := self._denied():
                raise NoEndpointError(explain(denied, model), "auth")
            served = {
                name for lane in self.lanes if lane.state is State.OPEN for name in lane.serves
            }
            if model is None:
                served.discard(FUNCTIONS)
            if model is not None and model in served:
                return model
            if not any(lane.state in (State.OPENING, State.COLD) for lane in self.lanes):
                break
            if (
                model is None
                and served
                and not any(lane.state is State.OPENING for lane in self.lanes)
            ):
                break
            self._changed.clear()
            await self._changed.wait()
        if model is None and len(served) == 1:
            return served.pop()
        if model is None and served:
            raise NoEndpointError(
                f"The pool serves several models ({self._who_serves_what()}); say which one is "
                "meant with model=..., or have endpoints that serve the same model call it by "
                "the same name.",
                "permanent",
            )
        raise NoEndpointError(explain(self.why_not(), model))

    def add(self, job: Job) -> None:
        """Let lanes pull from a job."""
        self._jobs.append(job)
        for lane in self.lanes:
            lane.start()
            lane.wake()
        self._check(job)

    def refresh(self, job: Job) -> None:
        """A job has more to feed."""
        job.refresh()
        for lane in self.lanes:
            lane.wake()

    def offer(self, job: Job) -> None:
        """A job has a little more to feed: enough for one lane, the least busy."""
        job.refresh()
        ready = [lane for lane in self.lanes if lane.has_room and job.model in lane.serves]
        if ready:
            min(ready, key=lambda lane: lane.load).wake()

    def remove(self, job: Job) -> None:
        """Close a job: nothing more is sent for it, what is in flight is cancelled."""
        job.close()
        if job in self._jobs:
            self._jobs.remove(job)

    async def close(self) -> None:
        """Abort all jobs and close all lanes."""
        for job in list(self._jobs):
            self._abort(job, [Failure("cancelled", "The pool was closed.")])
        if self._timer is not None:
            self._timer[1].cancel()
        await asyncio.gather(*(lane.close() for lane in self.lanes), return_exceptions=True)
        self._changed.set()

    # -- what lanes ask -----------------------------------------------------------------

    def take(self, lane: Lane) -> tuple[Job, Ticket] | None:
        """The next ticket for a lane; jobs take turns."""
        for _ in range(len(self._jobs)):
            job = self._jobs[0]
            self._jobs.rotate(-1)
            if job.model in lane.serves and (ticket := job.take(lane)) is not None:
                return job, ticket
        return None

    def peek(self, lane: Lane) -> Ticket | None:
        """The ticket that the lane would get now."""
        for job in tuple(self._jobs):  # a client may end its job when asked for tickets
            if job.model in lane.serves and (ticket := job.peek(lane)) is not None:
                return ticket
        return None

    def waiting(self, lane: Lane) -> int:
        """About how many tickets the lane could take, one after another."""
        return sum(job.waiting() for job in self._jobs if job.model in lane.serves)

    def may_have_work(self, lane: Lane) -> bool:
        """Whether asking for one more ticket is worth while."""
        return any(job.model in lane.serves and job.may_have_work() for job in self._jobs)

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
            self._settle(job, ticket, reply, lane, seconds)
            return
        action = ACTIONS[failure.kind]
        if action is Action.ABORT:
            self._abort(job, [failure])
        elif action is Action.GIVE_UP:
            self._settle(job, ticket, reply, lane, seconds)
        else:
            self._try_again(job, ticket, reply, failure, lane, seconds)

    def lane_changed(self) -> None:
        """A lane opened, died or serves other models: wake who waits, abort who cannot go on."""
        self._changed.set()
        for job in list(self._jobs):
            self._check(job)

    def why_not(self) -> list[Failure]:
        """For each endpoint, why it does not serve a model that no lane serves."""
        return [_why_not(lane) for lane in self.lanes]

    def _who_serves_what(self) -> str:
        served = [
            f"{lane.name}: {', '.join(sorted(lane.serves - {FUNCTIONS}))}"
            for lane in self.lanes
            if lane.state is State.OPEN
        ]
        return "; ".join(served)

    def _check(self, job: Job) -> None:
        if denied := self._denied():
            self._abort(job, denied)
        elif not any(_may_serve(lane, job.model) for lane in self.lanes):
            self._abort(job, self.why_not())

    def _denied(self) -> list[Failure]:
        failures = [lane.failure for lane in self.lanes]
        return [failure for failure in failures if failure is not None and failure.kind == "auth"]

    # -- failures -----------------------------------------------------------------------

    def _try_again(
        self, job: Job, ticket: Ticket, reply: Reply, failure: Failure, lane: Lane, seconds: float
    ) -> None:
        now = self.loop.time()
        action = ACTIONS[failure.kind]
        if action is Action.TRY_AGAIN:
            ticket.faults += 1
            ticket.refusals, ticket.refused_since = 0, None  # it was let in
        else:
            ticket.refusals += 1
            if ticket.refused_since is None:
                ticket.refused_since = now
        delay = reply.retry_after
        if delay is None:
            delay = job.retry.backoff(ticket.refusals or ticket.faults, self._rng)
        # What it says of the lane holds whatever becomes of the ticket.
        if action is Action.WAIT:
            lane.pause(delay)
        elif action is Action.PROBE:
            lane.chill(failure)
            if not ticket.open:
                return  # it was the last lane, and the job is aborted
        last = _last_moment(job, ticket)
        in_time = now + delay < last or (now < last and self._may_go_elsewhere(job, ticket, lane))
        if ticket.faults >= job.retry.attempts or not in_time:
            self._settle(job, ticket, reply, lane, seconds)
            return
        job.put_back(ticket, avoid=lane, until=now + delay, now=now)
        if ticket.expiry is not None:
            ticket.expiry.cancel()
        if last < math.inf:
            expired = (job, ticket, reply, lane, seconds)
            ticket.expiry = self.loop.call_at(last, self._settle_waiting, *expired)
        self._offer(job, ticket)
        if (due := job.next_retry()) is not None:
            self._set_timer(due)

    def _may_go_elsewhere(self, job: Job, ticket: Ticket, lane: Lane) -> bool:
        return any(
            other is not lane
            and other.state is State.OPEN
            and job.model in other.serves
            and other not in ticket.avoid
            for other in self.lanes
        )

    def _offer(self, job: Job, ticket: Ticket) -> None:
        """Wake one lane that may take a ticket at once."""
        for lane in self.lanes:
            if lane.has_room and job.model in lane.serves and lane not in ticket.avoid:
                lane.wake()
                return

    def _settle(self, job: Job, ticket: Ticket, reply: Reply, lane: Lane, seconds: float) -> None:
        job.drop(ticket)
        job.client.settle(ticket, reply, lane, seconds)

    def _settle_waiting(
        self, job: Job, ticket: Ticket, reply: Reply, lane: Lane, seconds: float
    ) -> None:
        """Time or patience is up while it waits for another try: its last failure stands."""
        if ticket.open and ticket not in job.in_flight:
            self._settle(job, ticket, reply, lane, seconds)

    def _abort(self, job: Job, failures: Sequence[Failure]) -> None:
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
        freed = [job.end_backoffs(now) for job in self._jobs]
        if any(freed):
            for lane in self.lanes:
                lane.wake()
        due = [retry for job in self._jobs if (retry := job.next_retry()) is not None]
        if due:
            self._set_timer(min(due))


def explain(failures: Sequence[Failure], model: str | None) -> str:
    """One message from one reason an endpoint."""
    reasons = "; ".join(failure.message.rstrip(".") for failure in failures)
    reasons += "" if reasons.endswith("?") else "."
    if any(failure.kind in ("auth", "cancelled") for failure in failures):
        return reasons
    if model == FUNCTIONS:
        return (
            "No endpoint of the pool can call a function on the HPC side; give it a "
            f"GlobusComputeEndpoint with ship='package': {reasons}"
        )
    if model is not None and any(not failure.retryable for failure in failures):
        return f"No endpoint serves model {model!r}: {reasons}"
    return f"No endpoint can be used: {reasons}"


def _last_moment(job: Job, ticket: Ticket) -> float:
    """When a ticket's time or patience ends."""
    end = math.inf if ticket.deadline is None else ticket.deadline
    if ticket.refused_since is not None:
        end = min(end, ticket.refused_since + job.retry.patience)
    return end


def _may_serve(lane: Lane, model: str) -> bool:
    if lane.state is State.OPENING:
        return True
    return lane.state in (State.OPEN, State.COLD) and (model in lane.serves or not lane.serves)


def _why_not(lane: Lane) -> Failure:
    if lane.state is State.OPEN:
        offered = ", ".join(sorted(lane.serves - {FUNCTIONS})) or "nothing"
        message = f"{lane.name} does not serve it, it serves {offered}"
        return Failure("cold", message, None, False, lane.name)
    if lane.failure is not None:
        return lane.failure
    return Failure("cold", f"{lane.name} is {lane.state.value}", None, True, lane.name)
