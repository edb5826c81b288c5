"""In which order the requests of a job leave, among those that are looked at ahead."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, Protocol

from langgraph_hpc_fanout.endpoints.chat import opening_of

if TYPE_CHECKING:
    from langgraph_hpc_fanout.dispatch.job import Ticket
    from langgraph_hpc_fanout.dispatch.lane import Lane

Order = Literal["input", "longest_first", "by_prefix"]

PREFIX = 1_024
"""Characters at the beginning of a prompt that make its group. About 256 tokens, 16 of the blocks
in which vLLM caches: less would not be worth much."""


_SEEN = 16
"""Groups that are looked at for one that no lane is at."""


class Queue(Protocol):
    """Tickets that were never sent, in the order in which they should be."""

    look_ahead: int
    """How many tickets it wants to choose from."""

    def __len__(self) -> int: ...

    def extend(self, tickets: Iterable[Ticket]) -> None:
        """Take in tickets, in input order."""
        ...

    def peek(self, lane: Lane) -> Ticket:
        """The next one for a lane; there must be one."""
        ...

    def pop(self, lane: Lane) -> Ticket:
        """Take it out."""
        ...

    def clear(self) -> list[Ticket]:
        """Take out all."""
        ...


def queue_in(order: Order, look_ahead: int) -> Queue:
    """An empty queue of this order."""
    if order == "longest_first":
        return LongestFirst(look_ahead)
    return ByPrefix(look_ahead) if order == "by_prefix" else InInputOrder()


class InInputOrder:
    """First come, first served."""

    look_ahead = 1

    def __init__(self) -> None:
        self._tickets: deque[Ticket] = deque()

    def __len__(self) -> int:
        return len(self._tickets)

    def extend(self, tickets: Iterable[Ticket]) -> None:
        """Take in tickets, in input order."""
        self._tickets.extend(tickets)

    def peek(self, lane: Lane) -> Ticket:
        """The next one; there must be one."""
        return self._tickets[0]

    def pop(self, lane: Lane) -> Ticket:
        """Take it out."""
        return self._tickets.popleft()

    def clear(self) -> list[Ticket]:
        """Take out all."""
        tickets = list(self._tickets)
        self._tickets.clear()
        return tickets


class LongestFirst:
    """Those that should take longest leave first, so that a run does not end with one of them.

    Longest processing time first (Graham, "Bounds on Multiprocessing Timing Anomalies", 1969),
    within the window. How long one takes is judged by the tokens to read and the most to write.

    Args:
        look_ahead: Size of the window.
    """

    def __init__(self, look_ahead: int) -> None:
        self.look_ahead = look_ahead
        self._heap: list[tuple[int, int, Ticket]] = []
        self._count = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def extend(self, tickets: Iterable[Ticket]) -> None:
        """Take in tickets, in input order."""
        for ticket in tickets:
            request = ticket.request
            tokens = request.prompt_tokens + (request.max_tokens or 0)
            heapq.heappush(self._heap, (-tokens, next(self._count), ticket))

    def peek(self, lane: Lane) -> Ticket:
        """The longest; there must be one."""
        return self._heap[0][2]

    def pop(self, lane: Lane) -> Ticket:
        """Take it out."""
        return heapq.heappop(self._heap)[2]

    def clear(self) -> list[Ticket]:
        """Take out all."""
        tickets = [ticket for _, _, ticket in self._heap]
        self._heap.clear()
        return tickets


class ByPrefix:
    """Those that begin alike go to the same lane, one after another, for its server's cache.

    Args:
        look_ahead: Size of the window.
    """

    def __init__(self, look_ahead: int) -> None:
        self.look_ahead = look_ahead
        self._groups: dict[int, deque[Ticket]] = {}
        self._group_of: dict[Lane, int] = {}
        self._lanes_at: Counter[int] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def extend(self, tickets: Iterable[Ticket]) -> None:
        """Take in tickets, in input order."""
        for ticket in tickets:
            group = hash(opening_of(ticket.request.body, PREFIX))
            self._groups.setdefault(group, deque()).append(ticket)
            self._count += 1

    def peek(self, lane: Lane) -> Ticket:
        """The next one of the lane's group, or of the first that is no other lane's."""
        return self._groups[self._choose(lane)][0]

    def pop(self, lane: Lane) -> Ticket:
        """Take it out."""
        group = self._choose(lane)
        self._move(lane, group)
        tickets = self._groups[group]
        ticket = tickets.popleft()
        self._count -= 1
        if not tickets:
            del self._groups[group]
        return ticket

    def clear(self) -> list[Ticket]:
        """Take out all."""
        tickets = [ticket for group in self._groups.values() for ticket in group]
        self._groups.clear()
        self._group_of.clear()
        self._lanes_at.clear()
        self._count = 0
        return tickets

    def _choose(self, lane: Lane) -> int:
        """The lane's group while there is more of it; else a fresh one; else help another lane."""
        own = self._group_of.get(lane)
        if own is not None and own in self._groups:
            return own
        seen = itertools.islice(self._groups, _SEEN)
        fresh = (group for group in seen if not self._lanes_at[group])
        return next(fresh, next(iter(self._groups)))

    def _move(self, lane: Lane, group: int) -> None:
        before = self._group_of.get(lane)
        if before == group:
            return
        self._group_of[lane] = group
        self._lanes_at[group] += 1
        if before is not None:
            self._lanes_at[before] -= 1
            if not self._lanes_at[before]:
                del self._lanes_at[before]
