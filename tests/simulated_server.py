"""A server of many slots and clients that keep windows of requests at it, in simulated time."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from dataclasses import dataclass, field

MEDIAN, SIGMA = 5.0, 0.8
MEAN = MEDIAN * 2.718281828 ** (SIGMA**2 / 2)
_GAUGE_EVERY = 5.0
_AGAIN = 1.0


@dataclass(eq=False)
class Client:
    """Somebody with more requests than the server can take, or `demand` of them at once."""

    window: object
    starts: float = 0.0
    demand: int = 10**9
    in_flight: int = 0
    quiet_until: float = 0.0
    answered: int = 0
    refused: int = 0
    limits: list = field(default_factory=list)  # (time, limit), each second


class Server:
    """`slots` requests at once, each for a lognormal time; more wait, or are refused.

    Continuous batching: beyond `knee` requests (a share of the slots) all of them get slower, up
    to `slowdown` times when all slots are taken, and the throughput rises ever less.
    """

    def __init__(
        self, slots, *, refuses=False, gauge=False, tokens=True, knee=0.5, slowdown=1.0, seed=0
    ):
        self.slots, self.refuses, self.gauge, self.tokens = slots, refuses, gauge, tokens
        self.knee, self.slowdown = knee, slowdown
        self.now = 0.0
        self.clients = []
        self._dice = random.Random(seed)
        self._work = 0.0  # seconds of work that each request in service has been given so far
        self._running = []  # heap of (work at which it ends, number, client, sent, tokens)
        self._queue = deque()
        self._number = itertools.count()

    def pace(self, running):
        """Seconds that a second of work takes with so many in service."""
        knee = self.knee * self.slots
        if running <= knee:
            return 1.0
        return 1.0 + (self.slowdown - 1.0) * (running - knee) / ((1 - self.knee) * self.slots)

    @property
    def best(self):
        """Most seconds of work done in a second."""
        return self.slots / self.pace(self.slots)

    @property
    def waiting(self):
        return len(self._queue)

    def run(self, until):
        """Go on until a time; returns the share of the best throughput that was used meanwhile."""
        begun, self._done = self.now, 0.0
        tick = self.now
        self._fill()
        while self.now < until:
            end = float("inf")
            if self._running:
                end = self.now + (self._running[0][0] - self._work) * self.pace(len(self._running))
            if end <= tick:
                self._pass(end)
                self._finish()
            else:
                self._pass(tick)
                self._tick()
                tick += _AGAIN
            self._fill()
        return self._done / self.best / (self.now - begun)

    def _pass(self, until):
        if self._running:
            work = (until - self.now) / self.pace(len(self._running))
            self._work += work
            self._done += work * len(self._running)
        self.now = until

    def _tick(self):
        for client in self.clients:
            client.limits.append((self.now, client.window.limit))
            if self.gauge and self.now % _GAUGE_EVERY < _AGAIN and self.now >= client.starts:
                client.window.queued(self.now, len(self._queue), len(self._running))

    def _finish(self):
        _, _, client, sent, tokens = heapq.heappop(self._running)
        in_flight, client.in_flight = client.in_flight, client.in_flight - 1
        client.answered += 1
        if self._queue and len(self._running) < self.slots:
            self._begin(*self._queue.popleft())
        client.window.succeeded(self.now, self.now - sent, tokens, in_flight)

    def _begin(self, client, sent):
        work = self._dice.lognormvariate(0, SIGMA) * MEDIAN
        tokens = max(1, round(20 * work)) if self.tokens else 0
        heapq.heappush(self._running, (self._work + work, next(self._number), client, sent, tokens))

    def _fill(self):
        while self._queue and len(self._running) < self.slots:  # it has got more slots
            self._begin(*self._queue.popleft())
        for client in self.clients:
            if not client.starts <= self.now >= client.quiet_until:
                continue
            most = min(client.window.limit, client.demand)
            refused = 0
            while client.in_flight + refused < most:
                if len(self._running) < self.slots:
                    self._begin(client, self.now)
                elif self.refuses:
                    refused += 1
                    continue
                else:
                    self._queue.append((client, self.now))
                client.in_flight += 1
            for _ in range(refused):  # one burst: all of them were sent before the first came back
                client.refused += 1
                client.window.overloaded(self.now)
                client.quiet_until = self.now + _AGAIN
