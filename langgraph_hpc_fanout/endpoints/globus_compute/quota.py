"""The service's limit on requests, kept by everybody in the process."""

from __future__ import annotations

import os
import threading
from collections import deque

_CALLS = 18
"""Of the 20 requests in 10 s that a user may make; the rest is for what the SDK asks by itself.
Source: Globus Compute's documentation, "Limits"."""
_WINDOW_SECONDS = 10.0


class Quota:
    """Most requests in any window, spread out once half of them are used.

    A burst at the beginning goes out at once. When requests follow each other fast, they keep a
    distance, so that bundles gather between them instead of waiting for a whole window to pass.

    Args:
        calls: Most requests in a window.
        window: Length of the window in seconds.
    """

    def __init__(self, calls: int = _CALLS, window: float = _WINDOW_SECONDS) -> None:
        self._calls = calls
        self._window = window
        self._times: deque[float] = deque(maxlen=calls)
        self._lock = threading.Lock()

    def reserve(self, now: float) -> float:
        """Take the next turn; says in how many seconds it comes. Safe in threads."""
        with self._lock:
            turn = self._next(now)
            self._times.append(turn)
            return turn - now

    def unlock(self) -> None:
        """Make the lock anew, in a forked child."""
        self._lock = threading.Lock()

    def _next(self, now: float) -> float:
        recent = sum(time > now - self._window for time in self._times)
        if recent < self._calls / 2:
            return max(now, self._times[-1]) if self._times else now
        turn = max(now, self._times[-1] + self._window / self._calls)
        if len(self._times) == self._calls:
            turn = max(turn, self._times[0] + self._window)
        return turn


service_quota = Quota()
"""One for the process: the service counts by user, not by endpoint."""

# A lock that another thread held when the process was forked would never be released.
os.register_at_fork(after_in_child=service_quota.unlock)
