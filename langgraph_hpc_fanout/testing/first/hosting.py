"""Whether a model is loaded, as its cluster and as the gateway see it; on any clock."""

from __future__ import annotations

import math
from typing import Literal

from langgraph_hpc_fanout.testing.first.spec import ColdStart, ModelState, Times

Phase = Literal["cold", "queued", "starting", "running", "offline"]
Verdict = Literal["submit", "not_ready", "offline"]


class Sight:
    """What the gateway believes of a Globus Compute endpoint's managers.

    It asks for them at most once in `Times.status_cache` seconds (FIRST 1a92ca4,
    globus_utils.py).

    Args:
        times: The gateway's times.
    """

    __slots__ = ("_asked", "_managers", "_times")

    def __init__(self, times: Times) -> None:
        self._times = times
        self._asked = -math.inf
        self._managers = False

    def managers(self, now: float, there: bool) -> bool:
        """Whether the gateway believes that there are managers; `there` is the truth."""
        if now >= self._asked + self._times.status_cache:
            self._asked = now
            self._managers = there
        return self._managers


class Hosting:
    """The life of one model: cold, queued, starting, running, and cold again when idle.

    Args:
        state: How it begins.
        cold: How long it takes to load.
        times: The gateway's times.
    """

    __slots__ = (
        "_asked",
        "_busy",
        "_cold",
        "_flag_from",
        "_flag_until",
        "_sight",
        "_state",
        "_times",
        "_used",
        "wakeups",
    )

    def __init__(self, state: ModelState, cold: ColdStart, times: Times) -> None:
        self._cold = cold
        self._times = times
        self._busy = 0
        self.wakeups = 0
        """How often it was loaded."""
        self.change(state)

    def change(self, state: ModelState) -> None:
        """Begin anew in a state."""
        self._state = state
        self._asked = self._used = -math.inf
        self._sight = Sight(self._times)
        self._flag_from = self._flag_until = -math.inf

    # As the cluster sees it

    def phase(self, now: float) -> Phase:
        """Where it is in its life."""
        if self._state == "offline":
            return "offline"
        if self._state == "hot":
            return "running"
        if self._asked == -math.inf:
            return "cold"
        if now < self.starts:
            return "queued"
        if now < self.ready:
            return "starting"
        if not self._busy and now >= max(self._used, self.ready) + self._times.idle:
            self._asked = -math.inf
            return "cold"
        return "running"

    @property
    def asked(self) -> float:
        """When its job was queued."""
        return self._asked

    @property
    def starts(self) -> float:
        """When its job begins to run."""
        return self._asked + self._cold.queued

    @property
    def ready(self) -> float:
        """When it is loaded."""
        return self.starts + self._cold.starting

    def wake(self, now: float) -> bool:
        """Queue a job for it, if it has none; returns whether it did."""
        if self.phase(now) != "cold":
            return False
        self._asked = now
        self.wakeups += 1
        return True

    def begin(self) -> None:
        """It has work."""
        self._busy += 1

    def end(self, now: float) -> None:
        """It has done some work."""
        self._busy -= 1
        self._used = now

    # As the gateway sees it through Globus Compute

    def verdict(self, now: float) -> Verdict:
        """What the gateway does with a request.

        It submits to an endpoint without managers when nobody has lately (FIRST 3dde68d,
        endpoints/globus_compute.py).
        """
        phase = self.phase(now)
        if phase == "offline":
            return "offline"
        ready = self._sight.managers(now, phase == "running")
        return "not_ready" if not ready and self.triggered(now) else "submit"

    def triggered(self, now: float) -> bool:
        """Whether the gateway knows of a submit in the last `Times.trigger` seconds."""
        return self._flag_from <= now < self._flag_until

    def submitted(self, now: float) -> bool:
        """A task was submitted; returns whether that woke the model."""
        if now >= self._flag_until:
            self._flag_from = now + self._times.trigger_lag
        self._flag_until = now + self._times.trigger
        return self.wake(now)
