"""The service's limits (Globus Compute's documentation, "Limits")."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What the service takes.

    Attributes:
        submit_bytes: Bytes of one submit request; more is refused with 413.
        rate: `strict` refuses with 429 what comes above `requests` in `window` seconds from
            one client; `count` only records how close a client came.
        requests: Submit requests of one client within the window.
        window: Seconds.
        retention: Seconds that a result waits for somebody to fetch it ("Task TTL").
    """

    submit_bytes: int = 10 * 1024 * 1024
    rate: Literal["count", "strict"] = "count"
    requests: int = 20
    window: float = 10.0
    retention: float = 1800.0


class Pace:
    """How many requests each client sent within the last window."""

    def __init__(self) -> None:
        self._times: defaultdict[str, deque[float]] = defaultdict(deque)

    def take(self, client: str, window: float) -> int:
        """Count one more request; returns how many there are within so many seconds."""
        now, times = time.monotonic(), self._times[client]
        while times and times[0] <= now - window:
            times.popleft()
        times.append(now)
        return len(times)
