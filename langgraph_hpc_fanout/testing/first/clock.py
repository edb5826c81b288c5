"""The fake's clock, and what is to happen at which of its times."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Any

_LEAST_ALARM = 0.001
_MANY_CANCELLED = 1024


class Clock:
    """Seconds since the fake began, by its own clock. May be read from any thread.

    Args:
        scale: Its seconds for each real one; 0 for a clock that only `advance` moves.
        real: The real clock, in seconds.
    """

    __slots__ = ("_ahead", "_began", "_epoch", "_real", "scale")

    def __init__(self, scale: float, real: Callable[[], float] = time.monotonic) -> None:
        self.scale = scale
        self._real = real
        self._began = real()
        self._ahead = 0.0
        self._epoch = time.time()

    def now(self) -> float:
        """Seconds since it began."""
        return (self._real() - self._began) * self.scale + self._ahead

    def advance(self, seconds: float) -> None:
        """Jump ahead."""
        self._ahead += seconds

    def epoch(self, moment: float) -> float:
        """A moment of this clock in seconds since 1970."""
        return self._epoch + moment


class Timer:
    """Something that is to happen.

    Attributes:
        cancelled: Whether it is not to happen any more.
    """

    __slots__ = ("_arguments", "_callback", "_timers", "cancelled")

    def __init__(
        self, timers: Timers, callback: Callable[..., object], arguments: tuple[Any, ...]
    ) -> None:
        self._timers = timers
        self._callback = callback
        self._arguments = arguments
        self.cancelled = False

    def cancel(self) -> None:
        """Let it not happen."""
        if not self.cancelled:
            self.cancelled = True
            self._timers.one_cancelled()

    def ring(self) -> None:
        """Let it happen."""
        if not self.cancelled:
            self.cancelled = True
            self._callback(*self._arguments)


class Timers:
    """Timers on the fake's clock, with one alarm of the loop for all of them.

    A heap of our own, because the loop's timers know nothing of a clock that can jump.

    Args:
        clock: The fake's clock.
        loop: The loop that callbacks run on.
    """

    def __init__(self, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self._clock = clock
        self._loop = loop
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._cancelled = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = float("inf")

    def after(self, seconds: float, callback: Callable[..., object], *arguments: Any) -> Timer:
        """Call something so many seconds of the fake's clock from now."""
        return self.at(self._clock.now() + seconds, callback, *arguments)

    def at(self, when: float, callback: Callable[..., object], *arguments: Any) -> Timer:
        """Call something at a time of the fake's clock, and not a rounding error before."""
        timer = Timer(self, callback, arguments)
        heapq.heappush(self._heap, (when, next(self._order), timer))
        if when < self._alarm_at:
            self._set_alarm()
        return timer

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds of the fake's clock."""
        done = self._loop.create_future()
        timer = self.after(seconds, _wake, done)
        try:
            await done
        finally:
            timer.cancel()

    def turn(self) -> None:
        """Let everything happen that is due, in the order of its times."""
        now = self._clock.now()
        while self._heap and self._heap[0][0] <= now:
            _, _, timer = heapq.heappop(self._heap)
            if timer.cancelled:
                self._cancelled -= 1
            else:
                timer.ring()
        self._set_alarm()

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass at once; what is due in them happens at its own time."""
        end = self._clock.now() + seconds
        while self._heap and self._heap[0][0] <= end:
            self._clock.advance(max(0.0, self._heap[0][0] - self._clock.now()))
            self.turn()
        self._clock.advance(max(0.0, end - self._clock.now()))

    def one_cancelled(self) -> None:
        """Forget cancelled timers when most are: they would pile up for their 300 seconds."""
        self._cancelled += 1
        if self._cancelled > max(_MANY_CANCELLED, len(self._heap) // 2):
            self._heap = [entry for entry in self._heap if not entry[2].cancelled]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def close(self) -> None:
        """Let nothing more happen."""
        self._heap.clear()
        self._set_alarm()

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._alarm_at = self._heap[0][0] if self._heap else float("inf")
        if self._heap and self._clock.scale:
            wait = (self._alarm_at - self._clock.now()) / self._clock.scale
            # uvloop does not say when timers are due that lie in the past.
            self._alarm = self._loop.call_later(max(_LEAST_ALARM, wait), self.turn)


def _wake(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
