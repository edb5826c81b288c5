"""What a server counts against a rate: anything at any time, or windows of fixed length.

Both kinds learn from refusals (429), because others may use the same quota. Both are pure: the
caller says what time it is.
"""

from __future__ import annotations

import math
from typing import Protocol

from langgraph_hpc_fanout.dispatch.pacing.bucket import TokenBucket

_LEAST_SHARE = 0.05
"""Share of a rate below which refusals do not push it: something must go out to learn from."""
_CUT = 0.9
_REGROWTH_SECONDS = 60.0
"""Until a rate that was cut is again what it was."""
_HOLD = 2.0
"""Seconds of quiet after a refusal by a server that does not say how long."""
_GROWTH = 0.02
"""Share of a quota that is tried again after a window with a refusal; it doubles without one."""
_NEARLY_ALL = 0.85
"""Share of a window's quota at which a refusal is no news: chance and others' clocks do that."""
_STEPS = 12
"""Looks for a window's edge, one window long, while nothing is known of it."""
_SURE_WINDOWS = 2
"""Windows after which an edge that was found is looked for again: clocks differ, and windows that
open with an answer are all a little longer than the last."""
_SPEEDS = (1.03, 1.25)
"""Bounds of the pace in a window, as a share of the even one."""
_ROUNDING = 1e-9


class Rate(Protocol):
    """Holds what is sent to a rate. All times are seconds of the caller's clock."""

    def delay(self, now: float, amount: float) -> float:
        """Seconds until `amount` may be charged, as far as is known now."""
        ...

    def charge(self, now: float, amount: float) -> None:
        """Count `amount` for a request that leaves now."""
        ...

    def settle(self, now: float, charged: float, used: float) -> None:
        """Count `used` in place of what was charged; it is none if there was no answer."""
        ...

    def refused(self, now: float, retry_after: float | None) -> None:
        """A request came back with a 429, and maybe with the seconds to wait."""
        ...


class RollingRate:
    """A token bucket whose rate gives way when the server refuses.

    A refusal at a rate that is allowed means that somebody else uses a part of it. So the rate
    is cut and grows again along TCP CUBIC's curve (RFC 9438): it stays long near where it was
    refused, and if it is not refused there, goes ever faster back to what is allowed. Refusals
    during the quiet that follows one are of requests that had left before, and count once.

    Args:
        rate: Amount per second.
        capacity: Most that can be saved up.
        now: The time at which the bucket is full.
    """

    __slots__ = ("_bucket", "_full", "_held_until", "_rate", "_refused_at", "_refused_rate")

    def __init__(self, rate: float, capacity: float, now: float) -> None:
        self._bucket = TokenBucket(rate, capacity, now)
        self._full = self._rate = rate
        self._refused_rate = rate
        self._refused_at = self._held_until = -math.inf

    def __repr__(self) -> str:
        return f"RollingRate({self._rate:g} of {self._full:g}/s)"

    def delay(self, now: float, amount: float) -> float:
        """Seconds until `amount` may be charged."""
        if self._rate < self._full:
            self._grow(now)
        return max(self._held_until - now, self._bucket.delay(now, amount))

    def charge(self, now: float, amount: float) -> None:
        """Count `amount` for a request that leaves now."""
        self._bucket.charge(now, amount)

    def settle(self, now: float, charged: float, used: float) -> None:
        """Count `used` in place of what was charged."""
        self._bucket.settle(now, charged, used)

    def refused(self, now: float, retry_after: float | None) -> None:
        """Be quiet for as long as the server says, or two seconds, then go slower."""
        held = now < self._held_until
        if not held:
            self._refused_rate, self._refused_at = self._rate, now
            self._set_rate(now, max(_CUT * self._rate, _LEAST_SHARE * self._full))
        if retry_after is not None or not held:
            wait = _HOLD if retry_after is None else retry_after
            self._held_until = max(self._held_until, now + wait)

    def _grow(self, now: float) -> None:
        bend = (now - self._refused_at) / _REGROWTH_SECONDS - 1
        grown = self._refused_rate * (1 + (1 - _CUT) * bend**3)
        self._set_rate(now, min(self._full, max(self._rate, grown)))

    def _set_rate(self, now: float, rate: float) -> None:
        self._rate = rate
        self._bucket.change_rate(now, rate)


class FixedWindow:
    """A quota for each window of fixed length, after which the server's count begins at zero.

    Tokens are known to the server when it has answered, so it counts them then, refuses
    everything from there on that they have reached the quota, and FIRST's window opens with the
    first answer after the last window's end. Requests are counted when they come. Here it is the
    same, and what is left of a quota is spread over what is left of the window: servers whose
    windows open with an answer lose the time in which there is none.

    Where windows begin is learned from refusals: after one, requests are held until the edge if
    it is known, and otherwise for a twelfth of a window at a time; the window opens when a hold
    ends that no refusal follows. Before the first refusal the pace is such that no time of a
    window's length has more than the quota in it. A refusal while much of the quota should be
    left tells that others use a part of it, which is tried again bit by bit.

    Args:
        quota: Amount per window.
        seconds: Length of a window.
        burst: Most that may leave at once.
        now: The time at which a burst may leave.
        by_answers: Whether answers are counted, by what they used, or requests, one by one.

    Source: `resource_server_async/rate_limiters.py` of FIRST (auroraGPT-ANL/inference-gateway).
    """

    __slots__ = (
        "_available",
        "_bucket",
        "_by_answers",
        "_end",
        "_growth",
        "_held_until",
        "_quota",
        "_seconds",
        "_unopened",
        "_used",
        "_windows",
    )

    def __init__(
        self, quota: float, seconds: float, burst: float, now: float, *, by_answers: bool
    ) -> None:
        self._quota = self._available = quota
        self._seconds = seconds
        self._by_answers = by_answers
        self._used = 0.0
        self._growth = _GROWTH
        self._end: float | None = None
        self._unopened = False
        self._windows = 0
        self._held_until = -math.inf
        # A burst and what follows it in a window's time are a quota. Of requests, the last of
        # them would be the first of the next window.
        saved_up = burst if by_answers else burst - 1
        self._bucket = TokenBucket((quota - saved_up) / seconds, burst, now)

    def __repr__(self) -> str:
        edge = "edge unknown" if self._end is None else f"until {self._end:.1f} s"
        return (
            f"FixedWindow({self._used:.0f} of {self._available:.0f} in {self._seconds:g} s, {edge})"
        )

    def delay(self, now: float, amount: float) -> float:
        """Seconds until `amount` may be charged, unless answers turn out shorter than reserved."""
        self._turn(now)
        if now < self._held_until:
            return self._held_until - now
        if self._end is not None and self._is_used_up():
            return self._end - now
        return self._bucket.delay(now, amount)

    def charge(self, now: float, amount: float) -> None:
        """Count `amount` for a request that leaves now."""
        self._turn(now)
        self._bucket.charge(now, amount)
        if not self._by_answers:
            self._used += amount
        if self._end is not None:
            self._spread(now, self._end)

    def settle(self, now: float, charged: float, used: float) -> None:
        """Count `used` in place of what was charged; an answer may open a window."""
        self._turn(now)
        self._bucket.settle(now, charged, used)
        if not used or not self._by_answers:
            return
        if self._unopened:
            self._end = now + self._seconds
            self._unopened = False
        self._used += used

    def refused(self, now: float, retry_after: float | None) -> None:
        """Hold until the window's edge, or for a step towards it."""
        self._turn(now)
        if now < self._held_until:
            if retry_after is not None:
                self._hold(max(self._held_until, now + retry_after))
            return
        step = self._seconds / _STEPS
        until = now + step
        if self._end is not None and self._is_sure(now, self._end, step):
            until = self._end
            self._give_way()
        else:
            self._windows = 0
        self._hold(until if retry_after is None else now + retry_after)

    def _is_sure(self, now: float, end: float, step: float) -> bool:
        """Whether the edge was found not long ago, and this is no refusal before it."""
        return self._windows <= _SURE_WINDOWS and end - now < self._seconds - 2 * step

    def _give_way(self) -> None:
        """Leave to others what they use."""
        if self._used < _NEARLY_ALL * self._available:
            least = max(_LEAST_SHARE * self._quota, self._available / 2)
            self._available = max(least, self._used)
            self._growth = _GROWTH

    def _is_used_up(self) -> bool:
        if self._by_answers:
            return self._used >= self._available
        return self._used + 1 > self._available * (1 + _ROUNDING)

    def _hold(self, until: float) -> None:
        self._held_until = self._end = until
        self._unopened = False

    def _turn(self, now: float) -> None:
        """Begin the window in which we are."""
        if self._end is None or now < self._end:
            return
        self._end += self._seconds * (1 + math.floor((now - self._end) / self._seconds))
        self._windows += 1
        self._used = 0.0
        self._unopened = True
        self._available = min(self._quota, self._available + self._growth * self._quota)
        self._growth *= 2
        self._bucket.change_rate(now, self._available / self._seconds)

    def _spread(self, now: float, end: float) -> None:
        even = self._available / self._seconds
        slowest, fastest = (speed * even for speed in _SPEEDS)
        pace = (self._available - self._used) / max(end - now, _ROUNDING)
        self._bucket.change_rate(now, min(max(pace, slowest), fastest))
