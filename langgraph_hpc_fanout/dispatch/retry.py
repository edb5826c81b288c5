"""What follows from a failure: one table, and how long to wait."""

from __future__ import annotations

import enum
import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from langgraph_hpc_fanout.records import FailureKind


class Action(enum.Enum):
    """What the scheduler does with a request that came back without an answer."""

    GIVE_UP = "the item fails"
    TRY_AGAIN = "counts as an attempt; elsewhere at once, here after a backoff"
    WAIT = "the server turned it away; costs patience, not an attempt"
    PROBE = "the server is not there (yet); the lane stops pulling and probes"
    ABORT = "the run cannot go on"


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
