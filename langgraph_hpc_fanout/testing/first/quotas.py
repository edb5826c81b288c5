"""Quotas of both versions of the gateway, on any clock: `now` is given, in seconds."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

_PERIODS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
WINDOW = 60.0
"""Seconds of a window of tokens."""
_ROUNDING = 1e-9
"""Seconds that are no wait: what is left when sums of floats are compared."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in so many seconds."""

    count: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Rate:
        """The rate `10/s`, `120/min` or `5/h`.

        Raises:
            ValueError: If the text is no such rate.
        """
        count, _, period = text.partition("/")
        if not count.isdecimal() or int(count) == 0 or period not in _PERIODS:
            raise ValueError(f"{text!r} is no rate; write it as '10/s', '120/min' or '5/h'.")
        return cls(int(count), _PERIODS[period])


@dataclass(frozen=True, slots=True)
class Quotas:
    """Limits of v1, the defaults of FIRST main 329c0cd; None lifts one.

    Attributes:
        requests: Requests of a user, over all routes.
        user_tokens: Tokens a minute of a user with a model.
        model_tokens: Tokens a minute of all users with a model.
        address: Requests from one address, which nginx counts (its sample configuration has
            `50/s`); None by default, because on loopback all clients share one.
        address_burst: Requests that nginx lets through beyond that.
        batches: Batches of a user that may be under way.

    Raises:
        ValueError: If `requests` or `address` is no rate, or a number not positive.
    """

    requests: str | None = "10/s"
    user_tokens: int | None = 60_000
    model_tokens: int | None = 100_000
    address: str | None = None
    address_burst: int = 50
    batches: int = 1

    def __post_init__(self) -> None:
        for rate in (self.requests, self.address):
            if rate is not None:
                Rate.parse(rate)
        for name in ("user_tokens", "model_tokens", "batches"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"Quotas({name}={limit!r}) must be at least 1.")


class Throttle:
    """Requests in a window that slides, as django-ninja 1.4.5 counts them.

    It keeps the times of those that it let through; those that it refused do not count.
    """

    __slots__ = ("_rate", "_times")

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._times: deque[float] = deque()

    def admit(self, now: float) -> bool:
        """Whether a request may pass; counts it if so."""
        while self._times and self._times[0] <= now - self._rate.seconds:
            self._times.popleft()
        if len(self._times) >= self._rate.count:
            return False
        self._times.append(now)
        return True


class TokenWindow:
    """Tokens in windows that begin with the first answer after the last one was over.

    Answers are counted when they are there, so all requests that came before pass, and usage
    may end above the limit (FIRST 4d016f5, rate_limiters.py).
    """

    __slots__ = ("_began", "totals")

    def __init__(self) -> None:
        self._began = -math.inf
        self.totals: list[int] = []
        """Tokens of each window so far, the open one last."""

    def used(self, now: float) -> int:
        """Tokens of the window that is open, or none."""
        return self.totals[-1] if now < self._began + WINDOW else 0

    def add(self, now: float, tokens: int) -> None:
        """Count an answer."""
        if now >= self._began + WINDOW:
            self._began = now
            self.totals.append(0)
        self.totals[-1] += tokens


class Gcra:
    """The generic cell rate algorithm, as v2 counts requests and tokens (FIRST 000ae19, admit.lua).

    Args:
        rate: Units a second.
        burst: Units that may come at once.
    """

    __slots__ = ("_arrival", "_burst", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._arrival = -math.inf

    def wait(self, now: float, cost: float = 1.0) -> float:
        """Seconds until so much may pass; 0 if now."""
        due = max(self._arrival, now) + (cost - self._burst) / self._rate
        return due - now if due - now > _ROUNDING else 0.0

    def take(self, now: float, cost: float = 1.0) -> None:
        """Count what passes now; a negative cost gives back."""
        self._arrival = max(self._arrival, now) + cost / self._rate
