"""Whose time it is when one node works on many requests at once."""

from __future__ import annotations

from collections import deque

from langgraph_hpc_fanout.records import Work

_SPANS = 1_024
"""Most spans of time that are kept apart; they fall together where work overlaps."""


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


class WorkTime:
    """Shares the time in which workers worked on bundles, as they tell it when they are done.

    Each second in which there was any work counts once, for the bundle that tells of it first,
    and each request of a bundle has the same part of what is counted for it. So all shares add
    up to the time in which there was work, as those of `NodeTime` do, without the time in which
    all that was under way waited in a queue.

    Pure: the caller says what time it is.
    """

    __slots__ = ("_last", "_share", "_spans")

    def __init__(self) -> None:
        self._spans: deque[tuple[float, float]] = deque(maxlen=_SPANS)  # apart, and in order
        self._last: Work | None = None
        self._share = 0.0

    def share(self, work: Work, sent: float, now: float) -> float:
        """A request is back with its bundle: the seconds that are its share.

        Args:
            work: What was done for the bundle, whose replies come in a row.
            sent: When it left; nothing was done before.
            now: When the worker was done, about.
        """
        if work is not self._last:
            begun = max(sent, now - max(0.0, work.seconds))
            self._last, self._share = work, self._count(begun, now) / max(1, work.requests)
        return self._share

    def _count(self, begun: float, ended: float) -> float:
        """Count a span that ends no earlier than all before: the seconds of it that are new."""
        seconds, start = ended - begun, begun
        while self._spans and self._spans[-1][1] >= begun:
            since, until = self._spans.pop()
            seconds -= until - max(since, begun)
            start = min(start, since)
        self._spans.append((start, ended))
        return seconds
