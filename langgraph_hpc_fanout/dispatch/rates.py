"""Rates: requests paced by aiolimiter, tokens by a bucket that can settle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiolimiter import AsyncLimiter

from langgraph_hpc_fanout.endpoints.limits import Limits

_BURST_SECONDS = 0.1
_TOKEN_WINDOW_SECONDS = 1.0
_ROUNDING = 1e-7
"""Share of a bucket that counts as none: a wait for less might not move the clock at all."""


class TokenBucket:
    """A token bucket that is charged an estimate and settled with the truth.

    A request larger than the bucket is let through when the bucket is full and leaves a
    debt, so it is late but never stuck. Pure: the caller says what time it is.

    Args:
        rate: Tokens per second.
        capacity: Most tokens that can be saved up.
        now: The time at which the bucket is full.
    """

    __slots__ = ("_at", "_capacity", "_level", "_rate")

    def __init__(self, rate: float, capacity: float, now: float) -> None:
        self._rate = rate
        self._capacity = capacity
        self._level = capacity
        self._at = now

    def __repr__(self) -> str:
        return f"TokenBucket({self._level:.0f} of {self._capacity:.0f}, {self._rate:g}/s)"

    def delay(self, now: float, amount: float) -> float:
        """Seconds until `amount` may be charged."""
        self._refill(now)
        lacking = min(amount, self._capacity) - self._level
        return lacking / self._rate if lacking > _ROUNDING * self._capacity else 0.0

    def charge(self, now: float, amount: float) -> None:
        """Take `amount`; the level may fall below zero."""
        self._refill(now)
        self._level -= amount

    def settle(self, charged: float, used: float) -> None:
        """Put right what was charged for a request that used something else."""
        self._level = min(self._capacity, self._level + charged - used)

    def _refill(self, now: float) -> None:
        if now > self._at:
            self._level = min(self._capacity, self._level + (now - self._at) * self._rate)
            self._at = now


class Gate:
    """Holds a lane to the rates of its limits. One worker of the lane waits at a time.

    Args:
        limits: Limits with a rate of requests, of tokens, or both.
        clock: The event loop's time.
    """

    __slots__ = ("_clock", "_requests", "_tokens", "_turn")

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._turn = asyncio.Lock()
        self._requests = _request_limiter(limits)
        self._tokens: TokenBucket | None = None
        if limits.tokens_per_second is not None:
            rate = limits.tokens_per_second
            self._tokens = TokenBucket(rate, rate * _TOKEN_WINDOW_SECONDS, clock())

    async def __aenter__(self) -> None:
        await self._turn.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._turn.release()

    async def admit(self, tokens: float) -> None:
        """Wait until one request of about this many tokens may leave."""
        if self._tokens is not None:
            while (delay := self._tokens.delay(self._clock(), tokens)) > 0:
                await asyncio.sleep(delay)
        if self._requests is not None:
            await self._requests.acquire()

    def is_open(self, tokens: float) -> bool:
        """Whether `admit` would let such a request leave without a wait."""
        if self._tokens is not None and self._tokens.delay(self._clock(), tokens) > 0:
            return False
        return self._requests is None or self._requests.has_capacity()

    def charge(self, tokens: float) -> None:
        """Reserve tokens for a request that leaves now."""
        if self._tokens is not None:
            self._tokens.charge(self._clock(), tokens)

    def settle(self, charged: float, used: float) -> None:
        """Replace a reservation by what was used."""
        if self._tokens is not None:
            self._tokens.settle(charged, used)


def _request_limiter(limits: Limits) -> AsyncLimiter | None:
    """A limiter whose burst is small.

    aiolimiter's burst equals its rate per period (`AsyncLimiter(600, 60)` lets 610 requests
    through in the first second), so the period is what a burst of the wanted size takes.
    """
    rate = limits.requests_per_second
    if rate is None:
        return None
    burst = limits.burst if limits.burst is not None else max(1, int(rate * _BURST_SECONDS))
    return AsyncLimiter(burst, burst / rate)
