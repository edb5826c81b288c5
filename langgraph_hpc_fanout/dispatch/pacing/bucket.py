"""A token bucket that is charged an estimate and settled with the truth."""

from __future__ import annotations

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

    def settle(self, now: float, charged: float, used: float) -> None:
        """Put right what was charged for a request that used something else.

        What comes back may be more than the bucket holds, as much as was charged: a bucket that
        is small beside its requests would spill most of it.
        """
        self._refill(now)
        most = max(self._level, self._capacity + charged)
        self._level = min(most, self._level + charged - used)

    def change_rate(self, now: float, rate: float) -> None:
        """Fill at another rate from now on; it must be positive."""
        self._refill(now)
        self._rate = rate

    def _refill(self, now: float) -> None:
        if now > self._at:
            if self._level < self._capacity:
                filled = self._level + (now - self._at) * self._rate
                self._level = min(self._capacity, filled)
            self._at = now
