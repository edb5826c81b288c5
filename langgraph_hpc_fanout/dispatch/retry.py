"""What follows from a failure: one table, and how long to wait."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from langgraph_hpc_fanout.endpoints.protocol import Action, Endpoint
from langgraph_hpc_fanout.records import FailureKind

_EXAMPLE = 'such as {"timeout": Action.GIVE_UP}'
_RETRIES_A_SECOND = 10.0
"""Those that time pays for, as in Finagle."""
_SAVED_AT_FIRST = 100.0
_MOST_SAVED = 1_000.0


ACTIONS: Mapping[FailureKind, Action] = MappingProxyType(
    {
        "auth": Action.ABORT,
        "rate_limited": Action.WAIT,
        "overloaded": Action.WAIT,
        "cold": Action.PROBE,
        "transient": Action.TRY_AGAIN,
        "timeout": Action.TRY_AGAIN,
        "permanent": Action.GIVE_UP,
        "budget": Action.GIVE_UP,
        "invalid_output": Action.GIVE_UP,
        "cancelled": Action.GIVE_UP,
    }
)


def actions_at(endpoint: Endpoint) -> Mapping[FailureKind, Action]:
    """What follows from failures at an endpoint: the table, with what is different there.

    Raises:
        TypeError: If its own `actions` are no mapping, or one of them is no `Action`.
        ValueError: If they name a kind of failure that there is not.
    """
    own: Any = getattr(endpoint, "actions", None)
    if own is None:
        return ACTIONS
    if not isinstance(own, Mapping):
        raise TypeError(f"{endpoint.name} has the actions {own!r}; give it a mapping, {_EXAMPLE}.")
    for kind, action in own.items():
        if kind not in ACTIONS:
            raise ValueError(
                f"{endpoint.name} has an action for {kind!r}, which is no kind of failure; "
                f"known: {', '.join(ACTIONS)}."
            )
        if not isinstance(action, Action):
            raise TypeError(
                f"{endpoint.name} has the action {action!r} for {kind!r}; give it an Action, "
                f"{_EXAMPLE}."
            )
    return {**ACTIONS, **own}


@dataclass(frozen=True, slots=True)
class Retry:
    """How hard to try for one item.

    Backoff is exponential with full jitter; a server's Retry-After is honoured. While a
    request backs off it holds no slot, and another endpoint may take it at once.

    Args:
        attempts: Most times a request is sent and fails before its item fails. Being turned
            away (429, 503, a server that is not there) does not count.
        timeout: Seconds that one attempt may take.
        patience: Seconds that an item may spend being turned away before it fails.
        base: Upper bound of the first backoff, in seconds; it doubles each time.
        cap: Upper bound of every backoff, in seconds.

    Raises:
        ValueError: If a value is out of range.
    """

    attempts: int = 5
    timeout: float = 600.0
    patience: float = 600.0
    base: float = 0.5
    cap: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"Retry(attempts={self.attempts!r}) must be at least 1.")
        for name in ("timeout", "patience", "base", "cap"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"Retry({name}={value!r}) must be a positive number of seconds.")

    def backoff(self, failures: int, rng: random.Random) -> float:
        """Seconds to wait after the given number of failures in a row (1 or more)."""
        return rng.uniform(0, min(self.cap, self.base * 2.0 ** min(failures - 1, 32)))


class RetryBudget:
    """Retries as a share of answers, so that a storm of failures ends.

    As in Finagle and gRPC: every answer pays for a share of a retry, and time for a few besides, so
    that a run in which nothing is answered yet may retry, too. A retry that is answered costs
    nothing, so what has waited goes on quickly when the storm is over. Pure: the caller says what
    time it is.

    Args:
        share: Retries that an answer pays for.
        now: When it begins.
    """

    __slots__ = ("_at", "_level", "_share")

    def __init__(self, share: float, now: float) -> None:
        self._share = share
        self._level = _SAVED_AT_FIRST
        self._at = now

    def answered(self, *, was_retry: bool = False) -> None:
        """A request has its answer, at once or by a retry."""
        self._level = min(_MOST_SAVED, self._level + self._share + was_retry)

    def take(self, now: float) -> bool:
        """Pay for a retry, if there is enough."""
        self._refill(now)
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True

    def wait(self, now: float) -> float:
        """Seconds until time alone has paid for a retry."""
        self._refill(now)
        return max(0.0, 1.0 - self._level) / _RETRIES_A_SECOND

    def _refill(self, now: float) -> None:
        if now > self._at:
            paid = (now - self._at) * _RETRIES_A_SECOND
            self._level = min(max(_SAVED_AT_FIRST, self._level), self._level + paid)
            self._at = now
