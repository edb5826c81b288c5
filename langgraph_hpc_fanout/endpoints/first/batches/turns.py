"""One batch at a time for each user of a gateway, and how long to wait between two looks at it."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

from langgraph_hpc_fanout.endpoints.first.gateway import Gateway

_SHARE = 0.02
"""Of a batch's time, that its end may be noticed late."""
_LONGEST = 10.0
"""The longest pause, over the shortest."""

_turns: WeakKeyDictionary[Gateway, Turns] = WeakKeyDictionary()


def pause_after(elapsed: float, poll: float, chance: float) -> float:
    """Seconds until the next look at a batch, longer for one that takes long.

    Args:
        elapsed: Seconds since it was submitted.
        poll: Seconds between two looks at first.
        chance: From 0 to 1, to spread clients: a tenth less or more.
    """
    return max(poll, min(_SHARE * elapsed, _LONGEST * poll)) * (0.9 + 0.2 * chance)


def turns_of(gateway: Gateway) -> Turns:
    """The turns that all endpoints of a gateway and user take."""
    return _turns.setdefault(gateway, Turns())


class Turns:
    """Who may have a batch: one at a time (MAX_BATCHES_PER_USER of FIRST main 329c0cd is 1).

    Attributes:
        followed: Ids of batches whose end somebody in this process waits for.
    """

    def __init__(self) -> None:
        self.followed: set[str] = set()
        self._lock: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    @property
    def lock(self) -> asyncio.Lock:
        """Held from before a batch is submitted to its end; one for each event loop."""
        loop = asyncio.get_running_loop()
        if self._lock is None or self._lock[0] is not loop:
            self._lock = loop, asyncio.Lock()
        return self._lock[1]
