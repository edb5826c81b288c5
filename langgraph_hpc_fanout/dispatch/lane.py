"""A lane: one endpoint, pulling requests as its limits and health allow."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Any

from langgraph_hpc_fanout.dispatch.bundle import Bundle, bundle_of
from langgraph_hpc_fanout.dispatch.costs.account import Account
from langgraph_hpc_fanout.dispatch.factoring import Factoring
from langgraph_hpc_fanout.dispatch.health import PROBE_SECONDS, Condition, State
from langgraph_hpc_fanout.dispatch.job import Job, Ticket
from langgraph_hpc_fanout.dispatch.pacing.gate import Gate, gate_of
from langgraph_hpc_fanout.dispatch.pacing.width import Width
from langgraph_hpc_fanout.dispatch.retry import ACTIONS, actions_at
from langgraph_hpc_fanout.dispatch.sharing import share
from langgraph_hpc_fanout.endpoints.protocol import Endpoint, Health
from langgraph_hpc_fanout.endpoints.tags import tags_of
from langgraph_hpc_fanout.records import Failure, Reply, Work

if TYPE_CHECKING:
    from langgraph_hpc_fanout.dispatch.scheduler import Scheduler

_INSTANT = 0.001
"""Seconds under which a send may not have waited at all; then others get a turn first."""
logger = logging.getLogger("langgraph_hpc_fanout")

_REFUSALS = 3
"""Refusals in a row that pause a wide lane. One among answers is a stray, or a gateway's share
for somebody else, and holds up only the request that met it."""
_WIDE = 8
_TURN = 64
"""Tickets that are gathered in a row, before others may run."""
_LOOK_SECONDS = 0.01
"""Between two looks for more tickets, while they are being made."""


class Lane:
    """One endpoint at work: workers that each take, send, hand over and take again.

    Workers are started on demand, at most `limits.concurrency`, and end when there is nothing
    to take, so an idle lane costs nothing and a million items need no million tasks.

    Args:
        endpoint: The door.
        scheduler: Whom to ask for tickets and to hand replies to.
    """

    def __init__(self, endpoint: Endpoint, scheduler: Scheduler) -> None:
        self.endpoint = endpoint
        self.name = endpoint.name
        self.tags: frozenset[str] = tags_of(endpoint)
        self.serves: frozenset[str] = frozenset()
        self.actions = actions_at(endpoint)
        self.condition = Condition()
        self.in_flight = 0
        self.width = Width(endpoint, lambda: self.in_flight)
        self.is_bulk = endpoint.bundling.least > 1
        self.account = Account(endpoint)
        self._told = ""
        self._scheduler = scheduler
        self._loop = asyncio.get_running_loop()
        self._shared = share(endpoint)
        self._limits = endpoint.limits
        self._gate = gate_of(endpoint.limits, self._loop.time, scheduler.shared_rates)
        self._worker_name = f"lane {endpoint.name}"
        self._workers: set[asyncio.Task[None]] = set()
        self._working = 0  # unlike the tasks, it counts no worker that is about to end
        self._bundles: set[Bundle] = set()
        self._prober: asyncio.Task[None] | None = None
        self._paused_until = 0.0
        self._refusals = 0
        self._factoring = Factoring()

    def __repr__(self) -> str:
        return f"Lane({self.name!r}, {self.state.name}, {self.in_flight} in flight)"

    @property
    def state(self) -> State:
        """Whether it pulls, and why not."""
        return self.condition.state

    @property
    def failure(self) -> Failure | None:
        """Why it does not pull."""
        return self.condition.failure

    # -- pulling ------------------------------------------------------------------------

    @property
    def limit(self) -> int:
        """Most requests in flight."""
        return 1 if self.condition.on_trial else self.width.window.limit

    @property
    def has_room(self) -> bool:
        """Whether the lane would take one more request now."""
        condition = self.condition  # spelled out, for it is asked a few times a request
        if condition.state is not State.HOT:
            return False
        limit = 1 if condition.on_trial else self.width.window.limit
        if self._working >= limit or self.in_flight >= limit:
            return False
        if self._paused_until and self._paused_until > self._loop.time():
            return False
        bundles = self.endpoint.bundling.max_bundles if self.width.is_own else None
        return bundles is None or self._working < bundles

    @property
    def _pulls(self) -> bool:
        return self.condition.is_hot and (
            not self._paused_until or self._paused_until <= self._loop.time()
        )

    @property
    def load(self) -> int:
        """Requests in flight, and workers that are about to take one."""
        return max(self.in_flight, self._working)

    def wake(self) -> None:
        """Start a worker if there is room for one."""
        if self.has_room:
            self._working += 1
            worker = self._loop.create_task(self._work(), name=self._worker_name)
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    def refused(self, failure: Failure, retry_after: float | None, seconds: float) -> None:
        """The server turned a request away.

        Args:
            failure: How.
            retry_after: Seconds for which it asked, if it did.
            seconds: For how long the request is not sent here again.
        """
        if self._gate is not None and failure.kind == "rate_limited":
            self._gate.refused(self._loop.time(), retry_after)
            return
        self._refusals += 1
        if self._refusals >= _REFUSALS or self.limit < _WIDE:
            self._pause(seconds)

    def _pause(self, seconds: float) -> None:
        """Take nothing for a while."""
        until = self._loop.time() + seconds
        if until > self._paused_until:
            self._paused_until = until
            self._loop.call_at(until, self._resume, until)

    def _resume(self, until: float) -> None:
        """Take again, unless there is a longer pause; uvloop's timers ring a little early."""
        if until == self._paused_until:
            self._paused_until = 0.0
            self._offer_room()

    def _offer_room(self) -> None:
        """There is room again."""
        self._scheduler.idle.add(self)
        self.wake()

    async def _work(self) -> None:
        try:
            while self._pulls:
                if linger := self._linger():
                    await asyncio.sleep(linger)
                bundle = await self._next()
                if bundle is None:
                    return
                if self._scheduler.may_have_work(self):
                    self.wake()
                sent = self._loop.time()
                await self._send(bundle)
                if self._loop.time() - sent < _INSTANT:
                    await asyncio.sleep(0)
        except Exception as error:  # noqa: BLE001 - nobody may wait for it for ever
            self._scheduler.fault(self, error)
        finally:
            self._working -= 1
            self._scheduler.idle.add(self)

    def _room(self) -> int:
        """How many more requests may be in flight."""
        return self.limit - self.in_flight

    def _size(self) -> int:
        """Most tickets that the next bundle may hold."""
        bundling = self.endpoint.bundling
        if bundling.max_items == 1:
            return 1
        if self.is_bulk:
            return min(self._scheduler.bulk_for(self, bundling), bundling.max_items)
        return self._factoring.size(self._scheduler.waiting(self), bundling)

    async def _next(self) -> Bundle | None:
        """What to send now, if anything; the lane may have been paused since it was asked."""
        while True:
            if self._gate is not None:
                taken = await self._take_gated(self._gate)
            elif self.is_bulk:
                taken = await self._gather()
            else:
                taken = self._take() if self._pulls else []
            bundle = bundle_of(self, taken, self._scheduler.cashier)
            if bundle is not None or not taken:
                return bundle  # else nobody wants that any more, but there may be more to take

    def _linger(self) -> float:
        """Seconds for which a small bundle is to wait for company."""
        bundling = self.endpoint.bundling
        if not bundling.linger or bundling.max_items == 1:
            return 0.0
        enough = bundling.max_items if bundling.window is None else bundling.window
        return bundling.linger if self._scheduler.waiting(self) < enough else 0.0

    def _take(self) -> list[tuple[Job, Ticket]]:
        taken = []
        for _ in range(min(self._size(), self._room())):
            if (pair := self._scheduler.take(self)) is None:
                break
            taken.append(pair)
        return taken

    async def _gather(self) -> list[tuple[Job, Ticket]]:
        """Take as many as there are to be, while they are being made.

        Requests are made when they are asked for, and items read only a little before that.
        """
        taken: list[tuple[Job, Ticket]] = []
        most = min(self._size(), self._room())
        patient_until = self._loop.time() + self.endpoint.bundling.linger
        while len(taken) < most and self._pulls:
            if (pair := self._scheduler.take(self)) is not None:
                taken.append(pair)
                if len(taken) % _TURN == 0:
                    await asyncio.sleep(0)
                patient_until = self._loop.time() + self.endpoint.bundling.linger
            elif self._scheduler.waiting(self) and self._loop.time() < patient_until:
                await asyncio.sleep(_LOOK_SECONDS)
            else:
                break
        if taken and not self._pulls:  # it leaves, and a bundle may take hours
            self._scheduler.take_back(taken, self)
            return []
        return taken

    async def _take_gated(self, gate: Gate) -> list[tuple[Job, Ticket]]:
        """Wait until one ticket may leave, and let go with it what may leave without a wait."""
        taken: list[tuple[Job, Ticket]] = []
        async with gate:
            size = self._size()
            while (
                len(taken) < min(size, self._room())
                and (ahead := self._scheduler.peek(self)) is not None
            ):
                tokens = self._scheduler.expected_tokens(*ahead)
                if taken and not gate.is_open(tokens):
                    break
                await gate.admit(tokens)
                if not self._pulls or (pair := self._scheduler.take(self)) is None:
                    break
                taken.append(pair)
                ticket = pair[1]
                ticket.charged = self._scheduler.expected_tokens(*pair)
                gate.charge(ticket.charged)
        return taken

    # -- sending ------------------------------------------------------------------------

    async def _send(self, bundle: Bundle) -> None:
        started = self._loop.time()
        self._stamp(bundle, started)
        self._bundles.add(bundle)
        waiting = dict(enumerate(zip(bundle.jobs, bundle.tickets, strict=True)))
        self.in_flight += len(waiting)
        self.width.watch()
        failure = Failure("transient", f"{self.name} ended without a reply.", None, True, self.name)
        try:
            end = self._end(bundle, started)
            async with asyncio.timeout_at(None if end == math.inf else end) as bundle.scope:
                requests = [ticket.request for ticket in bundle.tickets]
                async for reply in self.endpoint.send(requests):
                    if (pair := waiting.pop(reply.position, None)) is not None:
                        self._answered(bundle, *pair, self._checked(reply), started)
                        if waiting and not bundle.awaited:
                            bundle.cancel(self._loop.time())
        except TimeoutError:
            failure = bundle.lost or self._late(started)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            message = f"{self.name} cancelled it from within."
            failure = Failure("transient", message, None, True, self.name)
        except Exception as error:  # noqa: BLE001 - an endpoint's bug must not end the lane
            message = f"{self.name} raised {type(error).__name__}: {error}"
            failure = Failure("transient", message, None, True, self.name)
        finally:
            bundle.end()
            self._bundles.discard(bundle)
            for position, pair in waiting.items():
                self._answered(bundle, *pair, Reply(position, failure=failure), started)

    def _checked(self, reply: Reply) -> Reply:
        """The reply, if it is one: nonsense would leave its item in the air."""
        if not _makes_sense(reply):
            message = f"{self.name} gave a reply that is none: {reply!r:.200}."
            return Reply(reply.position, failure=Failure("permanent", message, endpoint=self.name))
        return reply

    def _stamp(self, bundle: Bundle, now: float) -> None:
        for job, ticket in zip(bundle.jobs, bundle.tickets, strict=True):
            ticket.attempts += 1
            ticket.sent = now
            self.account.begin(ticket, now)
            if ticket.first_sent is None:
                ticket.first_sent = now
                if job.item_deadline is not None:
                    ticket.deadline = now + job.item_deadline

    def _end(self, bundle: Bundle, now: float) -> float:
        """When the last of the bundle's tickets is out of time; timers see to earlier ones."""
        ends = []
        queues = self.endpoint.bundling.queues
        for job, ticket in zip(bundle.jobs, bundle.tickets, strict=True):
            end = math.inf if queues else now + job.retry.timeout
            ends.append(end if ticket.deadline is None else min(end, ticket.deadline))
        last = max(ends)
        if len(ends) > 1:
            for end, job, ticket in zip(ends, bundle.jobs, bundle.tickets, strict=True):
                if end < last:
                    timer = self._loop.call_at(end, self._overdue, bundle, job, ticket, now)
                    bundle.timers.append(timer)
        return last

    def _late(self, started: float) -> Failure:
        message = f"{self.name} did not answer within {self._loop.time() - started:.1f} s."
        return Failure("timeout", message, None, True, self.name)

    def _overdue(self, bundle: Bundle, job: Job, ticket: Ticket, started: float) -> None:
        """A ticket is out of time, the rest of its bundle is not: it counts as in flight still."""
        if ticket.open and ticket.bundle is bundle:
            self.in_flight += 1  # until its bundle ends
            reply = Reply(0, failure=self._late(started))
            self._answered(bundle, job, ticket, reply, started)
            if not bundle.awaited:
                bundle.cancel(self._loop.time())

    def _answered(
        self, bundle: Bundle, job: Job, ticket: Ticket, reply: Reply, started: float
    ) -> None:
        self.in_flight -= 1
        if ticket.bundle is not bundle:
            return  # it was overdue
        ticket.bundle = None
        is_wanted = ticket.open  # else it was cancelled, which says nothing of the server
        if ticket.reserved is not None:
            self._scheduler.cashier.charge(job, ticket, reply, self)
        if ticket.open:
            bundle.awaited -= 1
        if self._gate is not None:
            used = ticket.charged if reply.failure is None else 0.0
            if reply.usage is not None:
                used = float(reply.usage.total_tokens)
            self._gate.settle(ticket.charged, used)
        now = self._loop.time()
        seconds = now - started if reply.seconds is None else reply.seconds
        if reply.failure is None:
            self._refusals = 0
            self.condition.answered()
        if is_wanted:
            self.width.replied(reply, now, seconds)
        ticket.attempts += reply.tries - 1
        self._scheduler.answered(job, ticket, reply, self, seconds)

    # -- health -------------------------------------------------------------------------

    def start(self) -> None:
        """Probe the endpoint, unless that is under way or it is known to be well."""
        if self._prober is None and self.condition.wake():
            self._begin_probing()

    def chill(self, failure: Failure) -> None:
        """Stop pulling: a request found nobody there, or not the model it asked for."""
        if (wait := self.condition.chill(failure)) is None:
            return
        if self.state is State.DEAD:
            self._die()
            self._scheduler.lane_changed()
        if (not wait or self._scheduler.busy) and self._prober is None:
            self._begin_probing(wait)

    def eject(self, failure: Failure) -> None:
        """Leave the endpoint alone for a while: it answers with faults only."""
        self._loop.call_later(self.condition.eject(failure), self._end_ejection)
        self._scheduler.lane_changed()

    def _end_ejection(self) -> None:
        if self.condition.end_ejection() and self._scheduler.is_wanted and self._prober is None:
            self._begin_probing()  # else whoever wants it next begins

    def drain(self) -> None:
        """Take nothing more; what is in flight goes on."""
        self.condition.drain()
        if self._prober is not None:
            self._prober.cancel()

    async def gone(self) -> None:
        """Wait until what is in flight has ended, and close."""
        await asyncio.gather(*self._workers, return_exceptions=True)
        await self.close()

    async def close(self) -> None:
        """Stop everything, and close the endpoint unless another lane uses it."""
        self.condition.close()
        watching = self.width.stop()
        tasks = [each for each in (*self._workers, self._prober, watching) if each is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._shared.close(self)

    def _die(self) -> None:
        """It is given up for now."""
        self._give_back()
        self._tell_who_can_mend_it()

    def _give_back(self) -> None:
        """It is dead: what is in flight there is not waited for. Bundles in a queue may live on."""
        if self.endpoint.bundling.queues:
            return
        why = "" if self.failure is None else f" {self.failure.message}"
        message = f"{self.name} died while it was at it.{why}"
        lost = Failure("transient", message, None, True, self.name)
        now = self._loop.time()
        for bundle in tuple(self._bundles):
            bundle.lost = lost
            bundle.cancel(now)

    def _tell_who_can_mend_it(self) -> None:
        """Say once why it is left alone, where waiting will not help: others may do its work."""
        failure = self.failure
        if failure is not None and not failure.retryable and failure.message != self._told:
            self._told = failure.message
            logger.warning("Left alone: %s", failure.message)

    @property
    def _is_awaited(self) -> bool:
        """Whether somebody waits to see it well."""
        scheduler = self._scheduler
        return scheduler.is_wanted if self.state is State.STARTING else scheduler.busy

    def _take_limits(self) -> None:
        """Keep to what the endpoint allows by now; some learn it with a probe."""
        if self.endpoint.limits == self._limits:
            return
        self._limits = self.endpoint.limits
        self._gate = gate_of(self._limits, self._loop.time, self._scheduler.shared_rates)
        self.width.stop()
        self.width = Width(self.endpoint, lambda: self.in_flight)

    def _begin_probing(self, wait: float = 0.0) -> None:
        self._prober = self._loop.create_task(self._probe(wait), name=f"probe {self.name}")

    async def _probe(self, wait: float | None) -> None:
        """One probe after another, until it is well or nobody needs it."""
        try:
            while wait is not None:
                if wait:
                    await asyncio.sleep(wait)
                wait = self.condition.probed(await self._ask_health())
                if wait is not None and self.state in (State.DEAD, State.STARTING):
                    if self.state is State.DEAD:
                        self._die()
                    self._scheduler.lane_changed()
                    if not self._is_awaited:
                        return
        finally:
            self._prober = None
        if self.condition.is_hot:
            self._scheduler.lane_opened()
            self._offer_room()
        else:
            self._scheduler.lane_changed()  # it was denied

    async def _ask_health(self) -> Health:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self._shared.open(self)
                health = await self.endpoint.probe()
                if health.ok or health.retry_after is not None:
                    self.serves = frozenset(self.endpoint.models)
                if health.ok:
                    self._take_limits()
                if self._gate is not None:
                    self._gate.count(health.requests)
                return health
        except TimeoutError:
            message = f"{self.name} did not answer a probe within {PROBE_SECONDS:.0f} s."
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            message = f"{self.name} cancelled a probe from within."
        except Exception as error:  # noqa: BLE001 - an endpoint's bug must not end the lane
            message = f"{self.name} could not be opened: {type(error).__name__}: {error}"
        return Health(ok=False, failure=Failure("cold", message, None, True, self.name))


def _makes_sense(reply: Reply) -> bool:
    """Whether it says one thing, of types that can be reckoned with; it may be a user's."""
    failure: Any
    usage: Any
    work: Any
    failure, usage, work = reply.failure, reply.usage, reply.work
    if (failure is None) == (reply.body is None):
        return False
    if failure is not None and failure.kind not in ACTIONS:
        return False
    if usage is not None and not (
        isinstance(usage.prompt_tokens, int) and isinstance(usage.completion_tokens, int)
    ):
        return False
    if work is not None and not (
        isinstance(work, Work)
        and isinstance(work.seconds, int | float)
        and isinstance(work.requests, int)
    ):
        return False
    return isinstance(reply.tries, int) and all(
        each is None or isinstance(each, int | float) for each in (reply.retry_after, reply.seconds)
    )


def _is_cancelled() -> bool:
    """Whether it is this task that is cancelled, not something that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
