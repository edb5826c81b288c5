"""The gate of a lane: rates of requests and tokens, waited for together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from weakref import WeakKeyDictionary

from langgraph_hpc_fanout.dispatch.pacing.rates import FixedWindow, Rate, RollingRate
from langgraph_hpc_fanout.endpoints.limits import Limits, window_seconds

_BURST_SECONDS = 0.1
_TOKEN_BURST_SECONDS = 1.0
_SHORT_WINDOW = 1.0
_WINDOW_BURST = 1 / 60
"""Share of a fixed window's tokens that may leave at once."""


_rates_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, Rate | None]] = (
    WeakKeyDictionary()
)
"""Servers count whatever comes from a user, so the pools of a process share rates, too."""


class SharedRates:
    """Rates of requests against which several endpoints are counted together, by their name.

    Args:
        loop: All pools on it count against the same rates; None for rates of one's own.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._rates = {} if loop is None else _rates_by_loop.setdefault(loop, {})
        self._said: dict[str, Limits] = {}

    def of(self, limits: Limits, now: float) -> Rate | None:
        """The rate of requests that an endpoint with these limits is held to.

        Raises:
            ValueError: If another endpoint of the pool names the same rate, and another number.
        """
        if limits.shared is None:
            return _rate_of_requests(limits, now)
        first = self._said.setdefault(limits.shared, limits)
        if (first.requests, first.burst) != (limits.requests, limits.burst):
            raise ValueError(
                f"Two endpoints share the rate {limits.shared!r}, but one allows {first.requests} "
                f"and the other {limits.requests}; give both the same requests= and burst=."
            )
        key = (limits.shared, limits.requests, limits.burst, limits.window)
        if key not in self._rates:
            self._rates[key] = _rate_of_requests(limits, now)
        return self._rates[key]


def gate_of(limits: Limits, clock: Callable[[], float], shared: SharedRates) -> Gate | None:
    """What holds an endpoint to its rates; None where it has none."""
    if limits.requests is None and limits.tokens is None:
        return None
    return Gate(limits, clock, shared)


class Gate:
    """Holds a lane to the rates of its limits. One worker of the lane waits at a time.

    Args:
        limits: Limits with a rate of requests, of tokens, or both.
        clock: The event loop's time.
        shared: Where rates are that other lanes are counted against, too.
    """

    __slots__ = ("_binding", "_clock", "_requests", "_tokens", "_turn", "_waiting")

    def __init__(
        self, limits: Limits, clock: Callable[[], float], shared: SharedRates | None = None
    ) -> None:
        self._clock = clock
        self._turn = asyncio.Lock()
        self._requests = (shared or SharedRates()).of(limits, clock())
        self._tokens = _rate_of_tokens(limits, clock())
        self._binding: Rate | None = None
        self._waiting: asyncio.Event | None = None

    async def __aenter__(self) -> None:
        await self._turn.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._turn.release()

    async def admit(self, tokens: float) -> None:
        """Wait until one request of about this many tokens may leave."""
        while (delay := self._delay(tokens)) > 0:
            await self._settled_or(delay)
        if self._requests is not None:
            self._requests.charge(self._clock(), 1.0)

    def is_open(self, tokens: float) -> bool:
        """Whether `admit` would let such a request leave without a wait."""
        return self._delay(tokens) <= 0

    def charge(self, tokens: float) -> None:
        """Reserve tokens for a request that leaves now."""
        if self._tokens is not None:
            self._tokens.charge(self._clock(), tokens)

    def count(self, requests: int) -> None:
        """Count requests that have left without asking here."""
        if self._requests is not None and requests:
            self._requests.charge(self._clock(), requests)

    def settle(self, charged: float, used: float) -> None:
        """Replace a reservation by what was used: 0 for a request that has no answer."""
        if self._tokens is not None:
            self._tokens.settle(self._clock(), charged, used)
            if self._waiting is not None:
                self._waiting.set()

    def refused(self, now: float, retry_after: float | None) -> None:
        """Take in that a request was refused with a 429.

        The server rarely says which rate it meant. It is taken to be the one that requests were
        last held back by; if they never were, both.

        Args:
            now: The time, by the gate's clock.
            retry_after: Seconds the server asks to wait, if it says so.
        """
        for rate in (self._requests, self._tokens):
            if rate is not None and self._binding in (None, rate):
                rate.refused(now, retry_after)

    async def _settled_or(self, seconds: float) -> None:
        """Sleep, but not when an answer has used less than was reserved."""
        self._waiting = asyncio.Event()
        timer = asyncio.get_running_loop().call_later(seconds, self._waiting.set)
        try:
            await self._waiting.wait()
        finally:
            timer.cancel()
            self._waiting = None

    def _delay(self, tokens: float) -> float:
        now = self._clock()
        delay = 0.0
        for rate, amount in ((self._requests, 1.0), (self._tokens, tokens)):
            if rate is not None and (wait := rate.delay(now, amount)) > delay:
                delay, self._binding = wait, rate
        return delay


def _rate_of_requests(limits: Limits, now: float) -> Rate | None:
    rate = limits.requests_per_second
    if limits.requests is None or rate is None:
        return None
    burst = limits.burst if limits.burst is not None else max(1, int(rate * _BURST_SECONDS))
    seconds = window_seconds(limits.requests)
    # Of a window that is no longer than requests take, nobody can find the edge.
    if limits.window == "rolling" or seconds <= _SHORT_WINDOW:
        return RollingRate(rate, burst, now)
    return FixedWindow(rate * seconds, seconds, burst, now, by_answers=False)


def _rate_of_tokens(limits: Limits, now: float) -> Rate | None:
    rate = limits.tokens_per_second
    if limits.tokens is None or rate is None:
        return None
    if limits.window == "rolling":
        return RollingRate(rate, rate * _TOKEN_BURST_SECONDS, now)
    seconds = window_seconds(limits.tokens)
    quota = rate * seconds
    return FixedWindow(quota, seconds, quota * _WINDOW_BURST, now, by_answers=True)
