"""Whose time it is when one node works on many requests at once."""

from __future__ import annotations


class NodeTime:
    """Shares the time in which an endpoint is busy among the requests in flight.

    At each moment each of n requests has an n-th of it, so the shares of all requests add up to
    the time in which there was any, however many there were. Kept as a virtual clock that runs n
    times slower than the real one, as in fair queueing (Demers, Keshav and Shenker, "Analysis and
    Simulation of a Fair Queueing Algorithm", SIGCOMM 1989), so nothing is gone through.

    Pure: the caller says what time it is.
    """

    __slots__ = ("_at", "_in_flight", "_virtual")

    def __init__(self) -> None:
        self._at = 0.0
        self._virtual = 0.0
        self._in_flight = 0

    def begin(self, now: float) -> float:
        """A request leaves.

        Returns:
            The mark to end it with.
        """
        self._advance(now)
        self._in_flight += 1
        return self._virtual

    def end(self, mark: float, now: float) -> float:
        """A request is back: the seconds that are its share."""
        self._advance(now)
        self._in_flight -= 1
        if not self._in_flight:
            # A clock that starts at 0 for each busy time keeps its last digits.
            share, self._virtual = self._virtual - mark, 0.0
            return share
        return self._virtual - mark

    def _advance(self, now: float) -> None:
        if now > self._at:
            if self._in_flight:
                self._virtual += (now - self._at) / self._in_flight
            self._at = now
