"""Whether a lane pulls: from cold over hot to ejected, draining or dead."""

from __future__ import annotations

import enum

from langgraph_hpc_fanout.endpoints.protocol import Health
from langgraph_hpc_fanout.records import Failure

PROBE_SECONDS = 10.0
"""Time that one probe may take."""

_DELAYS = (0.2, 0.5, 1.0)
"""Waits between the first probes; a lane that fails them all is taken for dead."""
_DELAY_DEAD = 15.0
_CHILLS = 4
"""Times in a row a lane may be found well by a probe and absent by a request."""
_FAULTS = 5
"""Faults in a row that eject a lane, as in Envoy's outlier detection (consecutive 5xx)."""
_EJECTION = 30.0
"""Seconds of the first ejection; each later one is longer by as much, as in Envoy."""
_LONGEST_EJECTION = 300.0


class State(enum.Enum):
    """Whether a lane pulls, and why not."""

    COLD = "not probed yet"
    PROBING = "not answering; probing"
    STARTING = "on its way"
    HOT = "pulling"
    EJECTED = "failing; left alone for a while"
    DRAINING = "leaving"
    DEAD = "given up, probed now and then"
    CLOSED = "closed"


class Condition:
    """How well one lane is. Pure: it is told what happened, and says what follows.

    A cold lane is probed by one probe at a time, however many requests found nobody there. An
    endpoint that says that it is on its way is probed when it says, and never given up. One
    that answers, but with faults only (5xx, resets, timeouts; never 429 or another 4xx, which are
    no fault of the server's), is ejected: left alone, then probed, and then on trial, which one
    request at a time ends for better or worse.
    """

    __slots__ = (
        "_chills",
        "_ejections",
        "_faults",
        "_misses",
        "failure",
        "has_answered",
        "on_trial",
        "state",
    )

    def __init__(self) -> None:
        self.state = State.COLD
        self.failure: Failure | None = None
        self.on_trial = False
        self.has_answered = False
        self._misses = 0
        self._chills = 0
        self._faults = 0
        self._ejections = 0

    @property
    def is_hot(self) -> bool:
        """Whether requests may be sent."""
        return self.state is State.HOT

    @property
    def may_recover(self) -> bool:
        """Whether it may be worth while to wait for it."""
        return self.state not in (State.DRAINING, State.DEAD, State.CLOSED)

    # -- probes ---------------------------------------------------------------------------

    def wake(self) -> bool:
        """Somebody wants the lane: whether it is to be probed."""
        if self.state is State.DEAD:
            self.failure, self._chills, self._misses = None, 0, 0
        elif self.state not in (State.COLD, State.PROBING, State.STARTING):
            return False
        if self.state is State.DEAD:
            self.state = State.PROBING
        return True

    def probed(self, found: Health) -> float | None:
        """Take what a probe found.

        Returns:
            Seconds until the next probe; None when that was the last one for now.
        """
        self.failure = found.failure
        if found.ok:
            self.state, self.failure, self._misses = State.HOT, None, 0
            return None
        if found.failure is not None and found.failure.kind == "auth":
            self.state = State.DEAD
            return None
        if found.retry_after is not None:
            self.state, self._misses, self._chills = State.STARTING, 0, 0
            return max(_DELAYS[0], found.retry_after)
        self._misses += 1
        if self._misses <= len(_DELAYS):
            if self.state is not State.COLD:
                self.state = State.PROBING
            return _DELAYS[self._misses - 1]
        self.state = State.DEAD
        return _DELAY_DEAD

    # -- requests -------------------------------------------------------------------------

    def answered(self) -> None:
        """A request has its answer."""
        self._chills = self._faults = 0
        self.has_answered = True
        if self.on_trial:
            self.on_trial, self._ejections = False, 0

    def faulted(self) -> bool:
        """A request met a fault of the server's; says whether it should be ejected."""
        if not self.is_hot:
            return False
        self._faults += 1
        return self.on_trial or self._faults >= _FAULTS

    def eject(self, failure: Failure) -> float:
        """Leave the lane alone; returns for how many seconds."""
        self._ejections += 1
        self._faults, self.on_trial = 0, True
        self.state, self.failure = State.EJECTED, failure
        return min(_LONGEST_EJECTION, _EJECTION * self._ejections)

    def end_ejection(self) -> bool:
        """Its time is over: whether it is to be probed."""
        if self.state is not State.EJECTED:
            return False
        self.state, self._misses = State.PROBING, 0
        return True

    def chill(self, failure: Failure) -> float | None:
        """A request found nobody there, or not the model it asked for.

        Returns:
            Seconds until it is to be probed; None if that was known already.
        """
        if not self.is_hot:
            return None
        self._chills += 1
        self.failure = failure
        if self._chills < _CHILLS:
            self.state, self._misses = State.PROBING, 0
            return 0.0
        self.state = State.DEAD
        return _DELAY_DEAD

    def drain(self) -> None:
        """It is to take nothing more."""
        if self.state is not State.CLOSED:
            self.state = State.DRAINING

    def close(self) -> None:
        """It is closed for good."""
        self.state = State.CLOSED
