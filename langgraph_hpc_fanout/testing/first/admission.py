"""How v2 admits a request: quotas of a user with a model, then room; on any clock.

See FIRST 000ae19, database/redis/lua/admit.lua and admission.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from langgraph_hpc_fanout.testing.first.quotas import Gcra

_MINUTE = 60.0

QuotaReason = Literal["user_concurrency", "user_rpm", "user_tpm"]


@dataclass(frozen=True, slots=True)
class UsageLimits:
    """Limits of v2 for each user with each model, the defaults of FIRST firstv2 a2835a8.

    Attributes:
        concurrency: Requests at one time.
        requests: Requests a minute.
        burst: Requests that may come at once.
        tokens: Tokens a minute, reserved before and settled after; as many may come at once.

    Raises:
        ValueError: If a number is not positive.
    """

    concurrency: int = 8
    requests: int = 120
    burst: int = 10
    tokens: int = 100_000

    def __post_init__(self) -> None:
        for name in ("concurrency", "requests", "burst", "tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"UsageLimits({name}={getattr(self, name)!r}) must be positive.")


@dataclass(frozen=True, slots=True)
class Refused:
    """A request over a quota.

    Attributes:
        reason: Which one.
        wait: Seconds until it may come again, if that is known.
    """

    reason: QuotaReason
    wait: float | None


class Account:
    """What one user has used of one model.

    Args:
        limits: The limits.
    """

    __slots__ = ("_limits", "_requests", "_tokens", "in_flight")

    def __init__(self, limits: UsageLimits) -> None:
        self._limits = limits
        self._requests = Gcra(limits.requests / _MINUTE, limits.burst)
        self._tokens = Gcra(limits.tokens / _MINUTE, limits.tokens)
        self.in_flight = 0

    def check(self, now: float, tokens: int) -> Refused | None:
        """Whether a request of an estimated size is over a quota; counts nothing."""
        if self.in_flight >= self._limits.concurrency:
            return Refused("user_concurrency", None)
        if wait := self._requests.wait(now):
            return Refused("user_rpm", wait)
        if wait := self._tokens.wait(now, self.capped(tokens)):
            return Refused("user_tpm", wait)
        return None

    def admit(self, now: float, tokens: int) -> None:
        """Count a request in."""
        self._requests.take(now)
        self._tokens.take(now, self.capped(tokens))
        self.in_flight += 1

    def settle(self, now: float, tokens: int, used: int) -> None:
        """Count a request out, with the tokens that it has used."""
        self._tokens.take(now, used - self.capped(tokens))
        self.in_flight -= 1

    def capped(self, tokens: int) -> int:
        """What is reserved: no more than may ever be admitted."""
        return min(tokens, self._limits.tokens)
