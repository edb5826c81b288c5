"""Faults by a schedule, and what they make of the work on a request. Pure.

All times are seconds of the event loop's clock, which begins at 0 in virtual time. A fault is on
from `start` until just before `until`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

F = TypeVar("F", bound="Fault")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with an endpoint, and when.

    Attributes:
        start: When it begins.
        until: When it is over; infinity for never.
        ends_work: Whether requests that are worked on when it begins are lost.
    """

    start: float = 0.0
    until: float = math.inf
    ends_work: ClassVar[bool] = False

    def is_on(self, now: float) -> bool:
        """Whether it is on."""
        return self.start <= now < self.until

    def next_change(self, now: float) -> float:
        """When it begins or ends next, always later than now; infinity for never."""
        if now < self.start:
            return self.start
        return self.until if now < self.until else math.inf


@dataclass(frozen=True, slots=True)
class Away(Fault):
    """Nobody is there: requests and probes are refused at once, connections are lost.

    Attributes:
        why: What the refusal says.
    """

    ends_work: ClassVar[bool] = True
    why: ClassVar[str] = "refuses connections"


@dataclass(frozen=True, slots=True)
class Dead(Away):
    """The process has died: its port is closed."""


@dataclass(frozen=True, slots=True)
class Cold(Away):
    """It starts, which takes a large model minutes: `Cold(until=720.0)`."""

    why: ClassVar[str] = "is loading its model"


@dataclass(frozen=True, slots=True)
class WalltimeEnd(Away):
    """Its batch job has used up its time; `until` is when the next one serves."""

    why: ClassVar[str] = "has ended with its batch job"


@dataclass(frozen=True, slots=True)
class Flapping(Away):
    """It comes and goes.

    Attributes:
        up: Seconds for which it is there, at first and again and again.
        down: Seconds for which it is away in between.

    Raises:
        ValueError: If it would not stay for any time.
    """

    up: float = 30.0
    down: float = 10.0
    why: ClassVar[str] = "has gone for a moment"

    def __post_init__(self) -> None:
        if not (self.up > 0 and self.down > 0):
            raise ValueError(
                f"Flapping(up={self.up!r}, down={self.down!r}) needs positive numbers of seconds."
            )

    def is_on(self, now: float) -> bool:
        """Whether it is away."""
        return self.start <= now < self.until and now >= self._round(now) + self.up

    def next_change(self, now: float) -> float:
        """When it goes or comes back next."""
        if not self.start <= now < self.until:
            return Fault.next_change(self, now)
        begun = self._round(now)
        back = begun + self.up + self.down
        changes = (begun + self.up, back, back + self.up)  # a round begins now, but for rounding
        return min(self.until, next(change for change in changes if change > now))

    def _round(self, now: float) -> float:
        """When its time of being there and away began last."""
        length = self.up + self.down
        return self.start + math.floor((now - self.start) / length) * length


@dataclass(frozen=True, slots=True)
class Frozen(Fault):
    """It accepts requests and probes and never answers them, not even when it is over."""

    ends_work: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class BackendGone(Fault):
    """A gateway without the server behind it: probes are answered, requests with 504, and late.

    Attributes:
        after: Seconds after which the gateway gives a request up; 60 is nginx's default
            (`proxy_read_timeout`).
    """

    after: float = 60.0
    ends_work: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Slow(Fault):
    """It works, but slowly.

    Attributes:
        factor: How many times longer everything takes.

    Raises:
        ValueError: If nothing would ever end.
    """

    factor: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise ValueError(f"Slow(factor={self.factor!r}) must be a positive number.")


@dataclass(frozen=True, slots=True)
class Storm(Fault):
    """It turns every new request away with 429; what it has, it works on.

    Attributes:
        retry_after: Seconds that it asks to wait; None when it says nothing.
    """

    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A time in which nothing changes.

    Attributes:
        start: When it begins.
        until: When it ends.
        speed: Seconds of work done in a second.
        ended_by: What ends all work at its start.
    """

    start: float
    until: float
    speed: float
    ended_by: Fault | None


class Schedule:
    """The faults of one endpoint.

    Args:
        faults: Of several that are on, the first says what becomes of a request.
    """

    __slots__ = ("_faults",)

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = tuple(faults)

    def find(self, now: float, *kinds: type[F]) -> F | None:
        """The first fault of these kinds that is on."""
        for fault in self._faults:
            if isinstance(fault, kinds) and fault.is_on(now):
                return fault
        return None

    def finish(self, now: float, work: float) -> tuple[float, Fault | None]:
        """What becomes of work that begins now.

        Args:
            now: When it begins.
            work: Seconds that it takes when nothing is wrong.

        Returns:
            When it is done, or when it is lost, and by what.
        """
        for piece in self._pieces(now):
            if piece.ended_by is not None:
                return piece.start, piece.ended_by
            end = piece.start + work / piece.speed
            if end <= piece.until:
                return end, None
            work -= (piece.until - piece.start) * piece.speed
        raise AssertionError("The last piece has no end.")

    def work_done(self, start: float, end: float) -> float:
        """Seconds of work that are done on a request from its start to an end."""
        done = 0.0
        for piece in self._pieces(start):
            if piece.ended_by is not None or piece.start >= end:
                break
            done += (min(piece.until, end) - piece.start) * piece.speed
        return done

    def _pieces(self, now: float) -> Iterator[Piece]:
        """The time from now on, without an end."""
        while now < math.inf:
            speed, until, ended_by = 1.0, math.inf, None
            for fault in self._faults:
                if fault.is_on(now):
                    if isinstance(fault, Slow):
                        speed /= fault.factor
                    elif fault.ends_work:
                        ended_by = ended_by or fault
                until = min(until, fault.next_change(now))
            yield Piece(now, until, speed, ended_by)
            now = until
