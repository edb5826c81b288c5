"""Where requests become work: tasks of Globus Compute, or calls of a DirectAPI backend."""

from __future__ import annotations

import uuid
from collections import deque

from langgraph_hpc_fanout.testing.first import errors
from langgraph_hpc_fanout.testing.first.backend import Backend
from langgraph_hpc_fanout.testing.first.clock import Clock, Timers
from langgraph_hpc_fanout.testing.first.exchange import Exchange
from langgraph_hpc_fanout.testing.first.faults import upstream_body
from langgraph_hpc_fanout.testing.first.model import Answer
from langgraph_hpc_fanout.testing.first.outlet import Outlet
from langgraph_hpc_fanout.testing.first.site import Site
from langgraph_hpc_fanout.testing.first.spec import Times

_NAMES_ITSELF = "metis"
"""The cluster whose adapter knows which of its models are live."""
_UNHEARD = frozenset({"left", "timeout", "stream_cut", "request_timeout"})
"""Ends of requests after which nobody hears what their tasks say."""


class Task:
    """Work for a request, which may outlive it.

    Args:
        exchange: The request.
        site: The model.
        globus: Whether it runs even when nobody listens any more, as Globus Compute's do.
    """

    __slots__ = ("exchange", "globus", "site")

    def __init__(self, exchange: Exchange, site: Site, *, globus: bool) -> None:
        self.exchange = exchange
        self.site = site
        self.globus = globus


class _Line:
    """The tasks of one model: those that wait, and how many are worked on."""

    __slots__ = ("moving", "running", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Task] = deque()
        self.running = 0
        self.moving = False


class Desk:
    """Gives requests to models.

    Args:
        clock: The fake's clock.
        timers: Its timers.
        times: The gateway's times.
        backend: Who answers in the models' place.
        outlet: Where answers go out.
    """

    def __init__(
        self, clock: Clock, timers: Timers, times: Times, backend: Backend, outlet: Outlet
    ) -> None:
        self._clock = clock
        self._timers = timers
        self._times = times
        self._backend = backend
        self._outlet = outlet
        self._lines: dict[Site, _Line] = {}

    # Globus Compute

    def submit(self, exchange: Exchange, site: Site) -> None:
        """Submit a task, if the gateway would, and wait for it as long as the gateway does."""
        verdict = site.hosting.verdict(self._clock.now())
        if verdict == "offline":
            self._outlet.whole(exchange, errors.offline(site.slug), "offline")
        elif verdict == "not_ready":
            self._outlet.whole(exchange, errors.not_ready(site.slug), "not_ready")
        else:
            self._submit(exchange, site)

    def _submit(self, exchange: Exchange, site: Site) -> None:
        exchange.task = str(uuid.uuid4())
        task = Task(exchange, site, globus=True)
        self.load(site)
        if exchange.streams:
            self._outlet.begin(exchange)
        late = exchange.fault is not None and exchange.fault.kind == "request_timeout"
        if not late:
            self._enqueue(task)
        if _may_fail_to_come(exchange):
            patience = self._times.first_chunk if exchange.streams else self._times.wait
            exchange.timer = self._timers.after(patience, self._give_up, exchange)
        if late:
            self._timers.after(self._times.wait, self._enqueue, task)

    def load(self, site: Site) -> None:
        """Note a submit to a model, and load it if it is cold."""
        now = self._clock.now()
        if site.hosting.submitted(now):
            self._timers.at(site.hosting.ready, self.move, site)

    def _give_up(self, exchange: Exchange) -> None:
        """Answer for a task that still waits or runs, and goes on."""
        fault = exchange.fault
        reason = fault.kind if fault and fault.kind == "request_timeout" else "timeout"
        if exchange.streams:
            self._outlet.silent(exchange, reason)
        else:
            self._outlet.whole(exchange, errors.timeout(exchange.task), reason)

    # DirectAPI

    def call(self, exchange: Exchange, site: Site) -> None:
        """Call a backend by HTTP."""
        if site.hosting.phase(self._clock.now()) != "running":
            if site.cluster.name == _NAMES_ITSELF:
                refusal = errors.not_live(site.model.name, site.cluster.name)
            else:
                refusal = errors.offline(site.slug)
            self._outlet.whole(exchange, refusal, "offline")
            return
        if exchange.streams:
            self._outlet.begin(exchange)
        self._enqueue(Task(exchange, site, globus=False))
        if _may_fail_to_come(exchange):
            exchange.timer = self._timers.after(self._times.upstream, self._hang_up, exchange, site)

    def _hang_up(self, exchange: Exchange, site: Site) -> None:
        if exchange.streams:
            self._outlet.late(exchange, site)
            return
        refusal = errors.upstream_timeout(
            site.cluster.name, exchange.endpoint, self._times.upstream
        )
        self._outlet.whole(exchange, refusal, "timeout")

    # Both

    def move(self, site: Site) -> None:
        """Start what can be started of a model's tasks."""
        line = self._lines.get(site)
        if line is None or line.moving:  # a task that takes no time ends while it is started
            return
        line.moving = True
        while line.waiting and line.running < site.model.capacity and self._loaded(site):
            task = line.waiting.popleft()
            if task.globus or task.exchange.open:
                self._start(task, line)
        line.moving = False

    def _loaded(self, site: Site) -> bool:
        return site.hosting.phase(self._clock.now()) == "running"

    def _enqueue(self, task: Task) -> None:
        line = self._lines.get(task.site)
        if line is None:
            line = self._lines[task.site] = _Line()
        line.waiting.append(task)
        self.move(task.site)

    def _start(self, task: Task, line: _Line) -> None:
        line.running += 1
        task.site.hosting.begin()
        if task.globus:
            task.site.tally.tasks += 1
        exchange = task.exchange

        def then(answer: Answer, seconds: float) -> None:
            fault = exchange.fault
            if fault is not None and fault.kind == "upstream" and fault.status is not None:
                answer = Answer(fault.status, upstream_body(fault.status))
            if fault is not None and fault.kind == "slow" and fault.seconds is not None:
                seconds += fault.seconds
            self._work(task, answer, seconds)

        self._backend.ask(exchange.endpoint, task.site.model, exchange.attempt, then)

    def _work(self, task: Task, answer: Answer, seconds: float) -> None:
        exchange = task.exchange
        exchange.soon = seconds < (self._times.wait if task.globus else self._times.upstream)
        if exchange.streams and exchange.open:
            exchange.cancel_timer()
            self._outlet.stream(exchange, task.site, answer, seconds, globus=task.globus)
        if seconds:
            self._timers.after(seconds, self._finish, task, answer, seconds)
        else:
            self._finish(task, answer, seconds)

    def _finish(self, task: Task, answer: Answer, seconds: float) -> None:
        exchange = task.exchange
        if exchange.open and not exchange.streams:
            self._outlet.answer(exchange, answer, seconds, globus=task.globus)
        elif task.globus and not exchange.open and exchange.reason in _UNHEARD:
            task.site.tally.wasted += 1
        self._lines[task.site].running -= 1
        task.site.hosting.end(self._clock.now())
        self.move(task.site)


def _may_fail_to_come(exchange: Exchange) -> bool:
    """Whether an answer needs a timer, in case that it is not there in time."""
    return exchange.open and exchange.timer is None and not exchange.soon
