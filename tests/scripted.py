"""Endpoints that do what a script says, and a client that checks, for tests in virtual time."""

from __future__ import annotations

import asyncio
import functools
import math
import random
from collections import Counter, deque
from dataclasses import dataclass, replace

from langgraph_hpc_fanout.dispatch.job import Job, Ticket
from langgraph_hpc_fanout.dispatch.policy import Policy
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.dispatch.scheduler import Scheduler
from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.endpoints.protocol import Bundling, Health
from langgraph_hpc_fanout.records import Failure, Reply, Request, Usage
from langgraph_hpc_fanout.testing.virtual_time import VirtualTimeLoop, run

BODY = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}


def in_virtual_time(test):
    """Make an ordinary test of a coroutine function, run in virtual time."""

    @functools.wraps(test)
    def wrapper(*args, **kwargs):
        return run(test(*args, **kwargs))

    return wrapper


class CoarseLoop(VirtualTimeLoop):
    """Virtual time in milliseconds, to which uvloop rounds: timers ring early."""

    def time(self):
        return math.floor(super().time() * 1000 + 1e-6) / 1000

    def call_at(self, when, callback, *args, context=None):
        when = self.time() + round((when - self.time()) * 1000) / 1000
        return super().call_at(when, callback, *args, context=context)


def now():
    return asyncio.get_running_loop().time()


def fail(kind, message=None, *, retry_after=None, status=None):
    """A reply with a failure, for scripts."""
    failure = Failure(kind, message or f"It was {kind}.", status, True)
    return Reply(0, failure=failure, retry_after=retry_after)


@dataclass
class Call:
    """One request that arrived: of which item, when, how often before, and how it ended."""

    key: str
    nth: int
    number: int
    at: float
    bundle: int
    end: float | None = None
    cancelled: bool = False


class Scripted:
    """An endpoint that takes its time and answers by a script.

    `latency` is a number or a function of the call. `script` is a function of the call that
    returns None for a good answer, a failure kind, a reply, an exception to raise, or "hang"
    (until `thawed` is set, if ever, and the script says something else), "end" (no reply, no more
    replies), "twice" or "elsewhere" (a position that is none).
    `probe` is a function of the probe's number that returns a bool, a failure, a health or an
    exception.
    """

    def __init__(
        self,
        name="a",
        *,
        models=("m",),
        latency=1.0,
        script=lambda call: None,
        probe=lambda number: True,
        bundle=1,
        bundling=None,
        uses=10,
        **limits,
    ):
        self.name = name
        self.models = {}
        self.limits = Limits(**{"concurrency": 4, **limits})
        self.bundling = bundling or Bundling(bundle)
        self.served = {model: model for model in models}
        self.latency = latency
        self.script = script
        self.health = probe
        self.uses = uses
        self.calls = []
        self.bundles = []
        self.thawed = asyncio.Event()
        self.in_flight = self.peak = 0
        self.opened = self.closed = 0
        self.probes = []
        self._seen = Counter()

    def __repr__(self):
        return f"Scripted({self.name!r})"

    @property
    def times(self):
        return [call.at for call in self.calls]

    def calls_of(self, key):
        return [call for call in self.calls if call.key == key]

    async def open(self):
        self.opened += 1

    async def close(self):
        self.closed += 1

    async def probe(self):
        self.probes.append(now())
        health = self.health(len(self.probes) - 1)
        if asyncio.iscoroutine(health):
            health = await health
        if isinstance(health, BaseException):
            raise health
        if isinstance(health, Health):
            self.models = self.served
            return health
        if isinstance(health, Failure):
            return Health(ok=False, failure=health)
        if not health:
            return Health(ok=False, failure=Failure("cold", f"{self.name} is away.", None, True))
        self.models = self.served
        return Health(ok=True)

    async def send(self, requests):
        calls = [self._arrived(request) for request in requests]
        self.bundles.append(calls)
        self.in_flight += len(calls)
        self.peak = max(self.peak, self.in_flight)
        try:
            started = now()
            ends = [started + self._seconds(call) for call in calls]
            for position in sorted(range(len(calls)), key=ends.__getitem__):
                if ends[position] > now():
                    await asyncio.sleep(ends[position] - now())
                call = calls[position]
                while (said := self.script(call)) == "hang":
                    await self.thawed.wait()
                call.end = now()
                self.in_flight -= 1
                if isinstance(said, BaseException):
                    raise said
                if said == "end":
                    return
                for reply in self._replies(position, said):
                    yield reply
        finally:
            for call in calls:
                if call.end is None:
                    call.end, call.cancelled = now(), True
                    self.in_flight -= 1

    def _arrived(self, request):
        self._seen[request.key] += 1
        nth, number = self._seen[request.key], len(self.calls)
        self.calls.append(Call(request.key, nth, number, now(), len(self.bundles)))
        return self.calls[-1]

    def _seconds(self, call):
        return self.latency(call) if callable(self.latency) else self.latency

    def _replies(self, position, said):
        good = Reply(position, body=BODY, usage=Usage(0, self.uses))
        if said == "twice":
            return [good, good]
        if said == "elsewhere":
            return [replace(good, position=position + 1000)]
        if isinstance(said, Reply):
            return [replace(said, position=position)]
        if isinstance(said, str):
            return [replace(fail(said), position=position)]
        return [good]


@dataclass(frozen=True)
class Answer:
    """The last word on an item."""

    reply: Reply
    lane: str
    at: float
    attempts: int
    seconds: float

    @property
    def ok(self):
        return self.reply.failure is None

    @property
    def kind(self):
        return None if self.ok else self.reply.failure.kind


class Items:
    """A client with numbered items, which checks that each has one last word."""

    def __init__(self, count, *, model="m", prefix="", max_tokens=10):
        self.keys = deque(f"{prefix}{number}" for number in range(count))
        self.count = count
        self.model = model
        self.max_tokens = max_tokens
        self.answers = {}
        self.aborted = None
        self.fed = 0
        self.done = asyncio.Event()
        if not count:
            self.done.set()

    @property
    def kinds(self):
        return Counter(answer.kind for answer in self.answers.values())

    @property
    def lanes(self):
        return Counter(answer.lane for answer in self.answers.values())

    def feed(self, most):
        keys = [self.keys.popleft() for _ in range(min(most, len(self.keys)))]
        self.fed += len(keys)
        return [
            Ticket(key, Request(key, self.model, {"messages": []}, 0, self.max_tokens))
            for key in keys
        ]

    def unfed(self):
        return len(self.keys)

    def settle(self, ticket, reply, lane, seconds):
        assert ticket.tag not in self.answers, f"item {ticket.tag} was settled twice"
        assert self.aborted is None, "settled after the end"
        self.answers[ticket.tag] = Answer(reply, lane.name, now(), ticket.attempts, seconds)
        if len(self.answers) == self.count:
            self.done.set()

    def abort(self, failures):
        assert self.aborted is None, "aborted twice"
        self.aborted = list(failures)
        self.done.set()


class Dispatch:
    """A scheduler over scripted endpoints, closed at the end.

    ```python
    async with Dispatch(endpoint) as dispatch:
        items = await dispatch.ask(100)
    ```
    """

    def __init__(self, *endpoints, seed=0, policy=Policy(), budget=None):
        self.scheduler = Scheduler(endpoints, random.Random(seed), policy, budget)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.scheduler.close()

    @property
    def lanes(self):
        return {lane.name: lane for lane in self.scheduler.lanes}

    def add(self, items, *, retry=None, **limits):
        """Let lanes pull from a client."""
        job = Job(items, items.model, retry or Retry(), **limits)
        self.scheduler.add(job)
        return job

    async def ask(self, count, **options):
        """Ask for so many items; returns the client when each is settled or all are lost."""
        items = count if isinstance(count, Items) else Items(count)
        job = self.add(items, **options)
        await items.done.wait()
        self.scheduler.remove(job)
        return items


async def ask(count, *endpoints, **options):
    """Ask scripted endpoints for so many items."""
    async with Dispatch(*endpoints) as dispatch:
        return await dispatch.ask(count, **options)


def most_in_a_window(times, seconds):
    """The most events in any half-open window of this length."""
    times = sorted(times)
    most = start = 0
    for end, moment in enumerate(times):
        while moment - times[start] >= seconds - 1e-6:
            start += 1
        most = max(most, end - start + 1)
    return most
