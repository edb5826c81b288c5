"""How wide a lane is: its window, and what the window is told of answers, refusals and gauges."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from langgraph_hpc_fanout.dispatch.health import PROBE_SECONDS
from langgraph_hpc_fanout.dispatch.pacing.window import Window
from langgraph_hpc_fanout.endpoints.gauges import Gauged
from langgraph_hpc_fanout.endpoints.protocol import Endpoint
from langgraph_hpc_fanout.records import Reply

_CROWDED = frozenset({"rate_limited", "overloaded", "timeout"})
_CROWDING = 0.1
"""Share of answers, of the last sixty or so, that must be refusals to say that a window is too
wide: strays, and a rate that others share, say nothing of it."""
_CROWDING_GAIN = 1 / 64
_GAIN = 0.1
"""Weight of the newest answer in the average pace."""
_GAUGE_SECONDS = 5.0
"""Seconds between two looks at a server's gauges."""


class Width:
    """Lets the window of an endpoint learn.

    Args:
        endpoint: Whose requests in flight it bounds.
        in_flight: How many there are now.

    Attributes:
        window: The requests that may be in flight.
        is_own: Whether the endpoint has a width of its own, from which nothing is learned: what
            waits somewhere else, or travels in company.
        pace: Seconds that a token takes here; None before the first answer.
    """

    __slots__ = ("_crowding", "_gauged", "_in_flight", "_watching", "is_own", "pace", "window")

    def __init__(self, endpoint: Endpoint, in_flight: Callable[[], int]) -> None:
        limit, bundling = endpoint.limits.concurrency, endpoint.bundling
        self.window = Window(limit)
        self.is_own = bundling.max_items > 1 or bundling.queues
        self.pace: float | None = None
        self._in_flight = in_flight
        self._crowding = 0.0
        seeks = limit is None and not self.is_own
        self._gauged = endpoint if seeks and isinstance(endpoint, Gauged) else None
        self._watching: asyncio.Task[None] | None = None

    def replied(self, reply: Reply, now: float, seconds: float) -> None:
        """A reply has come. A stray refusal is none of the window's business, many are.

        Args:
            reply: To a request that somebody waited for.
            now: The time.
            seconds: Since it was sent.
        """
        if self.is_own:
            return
        failure = reply.failure
        if failure is None:
            tokens = 0 if reply.usage is None else reply.usage.completion_tokens
            self.window.succeeded(now, seconds, tokens, self._in_flight() + 1)
            if tokens:
                pace = seconds / tokens
                self.pace = pace if self.pace is None else self.pace + _GAIN * (pace - self.pace)
        is_crowded = failure is not None and failure.kind in _CROWDED
        self._crowding += (is_crowded - self._crowding) * _CROWDING_GAIN
        if is_crowded and self._crowding > _CROWDING:
            self.window.overloaded(now, seconds)

    def watch(self) -> None:
        """Requests are in flight: read the server's own gauges meanwhile, if it has any."""
        if self._gauged is not None and (self._watching is None or self._watching.done()):
            loop = asyncio.get_running_loop()
            self._watching = loop.create_task(self._read(self._gauged))

    def stop(self) -> asyncio.Task[None] | None:
        """Read no more; returns what is to be waited for."""
        if self._watching is not None:
            self._watching.cancel()
        return self._watching

    async def _read(self, gauged: Gauged) -> None:
        loop = asyncio.get_running_loop()
        while self._in_flight():
            await asyncio.sleep(_GAUGE_SECONDS)
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    gauges = await gauged.gauges()
                if gauges is not None:
                    self.window.queued(loop.time(), gauges.waiting, gauges.running)
            except Exception:  # noqa: BLE001 - an endpoint's bug must not end the lane
                gauges = None
            if gauges is None:
                self._gauged = None  # it has none
                return
