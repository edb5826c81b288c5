"""Which bundles are lost: kept by no worker, reported by nobody.

The endpoint acknowledges a task when it hands it to its engine, so one that is killed loses
what it had, in silence. And a task may wait for hours in a batch scheduler's queue and be well.
What tells the two apart is order: workers begin bundles in the order in which they were sent.
So when a later bundle has come back, an earlier one has begun, and must end within a multiple
of what bundles take. Where nothing comes back at all, an empty bundle is sent to find out.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

_REMEMBERED = 16
"""Bundles whose times are looked at to predict the next."""


@dataclass(frozen=True, slots=True)
class Losses:
    """When a bundle counts as lost, and is sent again.

    Args:
        factor: A bundle that has begun may take this many times what was predicted.
        grace: Seconds on top of that.
        unproven: Seconds that a bundle may take, once it has begun, while none has come back yet
            that would tell how long one takes. A worker may spend a whole `bundle_deadline`
            waiting for a server that is still loading its model.
        silence: Seconds without any result after which an empty bundle is sent, to see whether
            anybody works; then twice as long, and so on.
        offline: Seconds that the endpoint may be offline before everything sent to it is lost,
            and it counts as away: other endpoints take over, or the run ends and says so.
        deadline: Seconds after which a bundle is lost whatever else is known, the time in the
            batch scheduler's queue included.

    Raises:
        ValueError: If a number is not positive.
    """

    factor: float = 4.0
    grace: float = 30.0
    unproven: float = 4_000.0
    silence: float = 60.0
    offline: float = 120.0
    deadline: float = 172_800.0

    def __post_init__(self) -> None:
        for name in ("factor", "grace", "unproven", "silence", "offline", "deadline"):
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"Losses({name}={value!r}) must be positive.")


class Flight:
    """One bundle under way.

    Args:
        items: Its requests; none in one that only asks whether anybody works.
        sent: When it was sent, or taken over from an earlier process.
        at: When an earlier process sent it, by a clock that both can read.
    """

    __slots__ = ("at", "begun", "items", "sent")

    def __init__(self, items: int, sent: float, at: float = math.inf) -> None:
        self.items = items
        self.sent = sent
        self.at = at
        self.begun: float | None = None


class Ledger:
    """The bundles under way, in the order in which they were sent. Times are those of one clock.

    Args:
        losses: When one counts as lost.
    """

    def __init__(self, losses: Losses) -> None:
        self._losses = losses
        self._flights: dict[Flight, None] = {}
        self._taken: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)
        self._heard = -math.inf
        self._asked = -math.inf
        self._patience = losses.silence
        self._offline_since: float | None = None

    @property
    def flights(self) -> list[Flight]:
        """Those that are neither back nor lost, the oldest first."""
        return list(self._flights)

    def send(self, items: int, now: float) -> Flight:
        """A bundle leaves."""
        flight = Flight(items, now)
        self._flights[flight] = None
        return flight

    def adopt(self, bundles: Sequence[tuple[int, float]], now: float) -> list[Flight]:
        """Bundles that an earlier process sent: before all of this one, in order among themselves.

        Args:
            bundles: For each, its requests, and when it was sent, by a clock of the processes'.
            now: By the ledger's own clock.
        """
        adopted = [Flight(items, now, at) for items, at in bundles]
        flights = [*self._flights, *adopted]
        self._flights = dict.fromkeys(sorted(flights, key=lambda flight: flight.at))
        return adopted

    def drop(self, flight: Flight) -> None:
        """A bundle is not waited for any more."""
        self._flights.pop(flight, None)

    def land(self, flight: Flight, seconds: float, now: float) -> None:
        """A bundle is back, after so many seconds of work: all before it have begun."""
        self._heard, self._asked, self._patience = now, -math.inf, self._losses.silence
        self._offline_since = None
        if flight.items:
            self._taken.append((flight.items, seconds))
        if flight not in self._flights:
            return
        began = max(now - seconds, flight.sent)
        for earlier in self._flights:
            if earlier is flight:
                break
            if earlier.begun is None:
                earlier.begun = max(began, earlier.sent)
        self.drop(flight)

    def predict(self, items: int) -> float | None:
        """Seconds of work on so many requests, at most, going by the last bundles."""
        if not self._taken:
            return None
        return max(seconds * max(1.0, items / many) for many, seconds in self._taken)

    def lost(self, now: float) -> list[Flight]:
        """Those that have to be given up now."""
        return [flight for flight in self._flights if now > self._end(flight)]

    def is_quiet(self, now: float) -> bool:
        """Whether nothing has come back for long, though something is under way."""
        if not self._flights:
            return False
        oldest = next(iter(self._flights))
        return now - max(self._heard, oldest.sent) >= self._losses.silence

    def may_ask(self, now: float) -> bool:
        """Whether to ask now if anybody works; each time in a silence, twice as long passes."""
        if not self.is_quiet(now) or self._offline_since is not None or now < self._asked:
            return False
        self._asked, self._patience = now + self._patience, 2 * self._patience
        return True

    def status(self, *, online: bool, now: float) -> None:
        """What the service says of the endpoint."""
        if online:
            self._offline_since = None
        elif self._offline_since is None:
            self._offline_since = now

    def is_away(self, now: float) -> bool:
        """Whether the endpoint has been offline for too long."""
        since = self._offline_since
        return since is not None and now > since + self._losses.offline

    def _end(self, flight: Flight) -> float:
        """When a bundle will have to be given up, by what is known now."""
        losses = self._losses
        end = flight.sent + losses.deadline
        if flight.begun is not None:
            predicted = self.predict(flight.items)
            most = losses.unproven if predicted is None else losses.factor * predicted
            end = min(end, flight.begun + most + losses.grace)
        if self._offline_since is not None:
            end = min(end, self._offline_since + losses.offline)
        return end
