"""What waits to be sent: tickets, and the job whose tickets they are."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from langgraph_hpc_fanout.dispatch.costs.budget import Purse
from langgraph_hpc_fanout.dispatch.costs.charges import NO_CHARGE, Charge
from langgraph_hpc_fanout.dispatch.health import State
from langgraph_hpc_fanout.dispatch.ordering import Order, queue_in
from langgraph_hpc_fanout.dispatch.retry import Retry, RetryBudget
from langgraph_hpc_fanout.endpoints.tags import are_admitted
from langgraph_hpc_fanout.records import Failure, Reply, Request

if TYPE_CHECKING:
    from langgraph_hpc_fanout.dispatch.bundle import Bundle
    from langgraph_hpc_fanout.dispatch.lane import Lane

_FEED = 64
"""Requests made ahead of need: enough to keep lanes busy, too few to hold up the loop."""
_LOOK_AHEAD = 1_024
"""Requests among which an order other than that of the input chooses."""
_SCAN = 32
"""Most retries looked at for one that a lane may take: bounds a storm's cost."""
_NOWHERE: Mapping[Lane, float] = MappingProxyType({})


class Ticket:
    """One request on its way: how often it was sent, which lanes it avoids until when.

    Two tickets may be twins: of one item that is asked twice at the same time.

    Args:
        tag: Whatever the client wants to know the ticket by.
        request: What to send.
    """

    __slots__ = (
        "attempts",
        "avoid",
        "bundle",
        "charged",
        "deadline",
        "expiry",
        "faults",
        "first_sent",
        "mark",
        "open",
        "refusals",
        "refused_since",
        "request",
        "reserved",
        "sent",
        "spent",
        "tag",
        "twin",
    )

    def __init__(self, tag: Any, request: Request) -> None:
        self.tag = tag
        self.request = request
        self.open = True
        self.attempts = 0
        self.faults = 0
        self.refusals = 0
        self.refused_since: float | None = None
        self.first_sent: float | None = None
        self.sent = 0.0
        self.deadline: float | None = None
        self.expiry: asyncio.TimerHandle | None = None
        self.avoid: Mapping[Lane, float] = _NOWHERE
        self.charged = 0.0
        self.bundle: Bundle | None = None
        self.twin: Ticket | None = None
        self.reserved: Charge | None = None
        self.spent = NO_CHARGE
        self.mark: float | None = None

    def stop_clock(self) -> None:
        """Nobody could take it: its time and patience begin anew when it is sent again."""
        self.first_sent = self.deadline = self.refused_since = None
        if self.expiry is not None:
            self.expiry.cancel()

    def follow_up(self, tag: Any, request: Request) -> Ticket:
        """The same question in other words: it keeps its deadline and its count of attempts."""
        ticket = Ticket(tag, request)
        ticket.attempts = self.attempts
        ticket.first_sent = self.first_sent
        ticket.deadline = self.deadline
        ticket.spent = self.spent
        return ticket


class Client(Protocol):
    """Whoever owns a job: makes requests when they are wanted, takes what comes of them."""

    def feed(self, most: int) -> Sequence[Ticket]:
        """Up to `most` new tickets; an empty sequence when there are none right now."""
        ...

    def unfed(self) -> int:
        """How many tickets are still to be made."""
        ...

    def settle(self, ticket: Ticket, reply: Reply, lane: Lane, seconds: float) -> None:
        """Take the last word on a ticket; called exactly once for each unless closed."""
        ...

    def abort(self, failures: Sequence[Failure]) -> None:
        """The job cannot go on, for these reasons, one an endpoint."""
        ...


class Job:
    """A client's tickets for one model.

    Tickets are made only when a lane asks, so a million items wait as items, not as requests.
    A failed ticket goes to `again`, where lanes that have not failed it may take it at once,
    and each of the others when its own backoff is over. Where its retry is not paid for yet, see
    `RetryBudget`, it is parked before.

    Args:
        client: Makes tickets and takes what comes of them.
        model: Logical model that all tickets ask for.
        retry: How hard to try.
        item_deadline: Seconds from an item's first attempt to its last.
        concurrency: Most tickets in flight, over all lanes.
        require: Tags that an endpoint must have to see its tickets.
        forbid: Tags that it must not have.
        weight: Its turns at a lane that others want, too, against theirs.
        order: In which order its tickets leave, among those that are looked at ahead.
        purse: Pays for its requests; None for one that is only paid by the pool's.
        kind: What tells its prompts from others, for estimates of what they use.
        separate: Whether its tickets have nothing to do with each other, so that one which cannot
            be paid for says nothing of the others.
        may_hedge: Whether the client lets a ticket be asked twice at the same time. It may then
            be handed either of two tickets with the same tag.

    Attributes:
        paused: Whether nothing is to be sent for now; what is in flight goes on.
        turns: Turns it has had, by its weight; of several jobs the one with the fewest is next.
        retries: What pays for its retries, once it was added to a scheduler.
        lost_at: Since when no lane is left that could serve it; None while there is one.
        waiting_for: Why nobody can be asked now, in words, while it waits for somebody to come.
        late_after: Seconds after which its requests are late, once there are no more to send.
        purses: What pays for its requests: none where nothing has a price or a limit.
    """

    def __init__(
        self,
        client: Client,
        model: str,
        retry: Retry,
        item_deadline: float | None = None,
        concurrency: int | None = None,
        require: Iterable[str] = (),
        forbid: Iterable[str] = (),
        weight: float = 1.0,
        order: Order = "input",
        purse: Purse | None = None,
        kind: Hashable = None,
        separate: bool = False,
        may_hedge: bool = False,
    ) -> None:
        self.client = client
        self.model = model
        self.retry = retry
        self.item_deadline = item_deadline
        self.concurrency = math.inf if concurrency is None else concurrency
        self.require = frozenset(require)
        self.forbid = frozenset(forbid)
        self.weight = weight
        self.purse = purse
        self.purses: Sequence[Purse] = ()
        self.kind = (model, kind)
        self.separate = separate
        self.may_hedge = may_hedge
        self.turns = 0.0
        self.retries: RetryBudget | None = None
        self.lost_at: float | None = None
        self.waiting_for: str | None = None
        self.late_after: float | None = None
        self._is_choosy = bool(self.require or self.forbid)
        self.in_flight: dict[Ticket, None] = {}  # in the order in which they were taken
        self.open = True
        self.paused = False
        self._returned: deque[Ticket] = deque()  # those that may be sent before any new one
        self._new = queue_in(order, _LOOK_AHEAD)
        self._last: deque[Ticket] = deque()  # those that may be sent when there is no other
        self._again: dict[Ticket, None] = {}
        self._parked: deque[Ticket] = deque()
        self._delayed: list[tuple[float, int, Ticket]] = []
        self._pushed = 0
        self._keeps = False
        self._dry = False

    def __repr__(self) -> str:
        return (
            f"Job({self.model!r}, {len(self.in_flight)} in flight, {self._ready} ready, "
            f"{len(self._again)} to retry)"
        )

    @property
    def _ready(self) -> int:
        """How many tickets any lane may take."""
        return len(self._returned) + len(self._new) + len(self._last)

    def may_use(self, lane: Lane) -> bool:
        """Whether a lane serves the model, and its tags are such that it may see the tickets."""
        return self.model in lane.serves and (not self._is_choosy or self.admits(lane.tags))

    def may_be_served_by(self, lane: Lane) -> bool:
        """Whether a lane serves it, or may come to."""
        if not lane.condition.may_recover or not self.admits(lane.tags):
            return False
        if lane.state is State.COLD or self.model in lane.serves:
            return True
        return not lane.serves and not lane.condition.is_hot

    def is_left_to_others(self, lane: Lane, lanes: Iterable[Lane]) -> bool:
        """Whether lanes that take its tickets one by one serve it besides this, or may come to."""
        return not self._keeps and any(
            other is not lane and not other.is_bulk and self.may_be_served_by(other)
            for other in lanes
        )

    def awaits(self, lane: Lane) -> bool:
        """Whether a lane that is on its way will serve it."""
        return lane.state is State.STARTING and self.may_use(lane)

    def admits(self, tags: frozenset[str]) -> bool:
        """Whether an endpoint with these tags may see the tickets."""
        return are_admitted(tags, self.require, self.forbid)

    def refresh(self) -> None:
        """The client has more to feed."""
        self._dry = False

    def push(self, ticket: Ticket) -> None:
        """Take back a ticket from the client, before any new one."""
        if self.open:
            self._returned.appendleft(ticket)

    @property
    def is_full(self) -> bool:
        """Whether it has as much in flight as it may."""
        return self.paused or len(self.in_flight) >= self.concurrency

    def waiting(self) -> int:
        """About how many tickets lanes could take, one after another."""
        if self.is_full:
            return 0
        waiting = self._ready + len(self._again) + self.client.unfed()
        return int(min(waiting, self.concurrency - len(self.in_flight)))

    def may_have_work(self) -> bool:
        """Whether asking for a ticket is worth while."""
        return not self.is_full and (bool(self._ready or self._again) or not self._dry)

    def peek(self, lane: Lane) -> Ticket | None:
        """The ticket that this lane would take now."""
        return None if self.is_full else self._next_again(lane) or self._next_ready(lane)

    def take(self, lane: Lane) -> Ticket | None:
        """The next ticket that this lane may send."""
        if self.is_full:
            return None
        if (ticket := self._next_again(lane)) is not None:
            del self._again[ticket]
        elif (ticket := self._next_ready(lane)) is None:
            return None
        elif self._returned and self._returned[0] is ticket:
            self._returned.popleft()
        elif self._last and self._last[0] is ticket:
            self._last.popleft()
        else:
            self._new.pop(lane)
        self.in_flight[ticket] = None
        return ticket

    def untake(self, ticket: Ticket) -> None:
        """A ticket that was taken is not sent now: it is the next one again."""
        del self.in_flight[ticket]
        self._return(ticket)

    def keep_from(self, ticket: Ticket, lane: Lane) -> None:
        """A ticket that was taken is to go to any lane but this."""
        del self.in_flight[ticket]
        ticket.avoid = {**ticket.avoid, lane: math.inf}
        self._again[ticket] = None
        self._keeps = True

    def stop_clocks(self) -> None:
        """Nobody is there for what waits, only on the way."""
        for ticket in (*self._again, *self._returned, *self._last):
            ticket.stop_clock()

    def reconsider(self) -> bool:
        """Lanes have changed: tickets that were kept from one may go there after all.

        Returns:
            Whether any were kept.
        """
        if not self._keeps:
            return False
        self._keeps = False
        for ticket in [each for each in self._again if each.twin is None]:
            ticket.avoid = _for_a_time(ticket.avoid)
            self._return(ticket)
        return True

    # -- twins ----------------------------------------------------------------------------

    @property
    def is_drained(self) -> bool:
        """Whether all that is left of it is in flight."""
        if self._ready or self._again or self._parked or self.is_full or not self.open:
            return False
        return bool(self.in_flight) and self._dry and not self.client.unfed()

    def hedge(self, ticket: Ticket, lane: Lane) -> None:
        """Have a ticket that is in flight in a lane asked in another one as well."""
        twin = Ticket(ticket.tag, ticket.request)
        twin.first_sent, twin.deadline = ticket.first_sent, ticket.deadline
        twin.twin, ticket.twin = ticket, twin
        twin.avoid = {lane: math.inf}
        self._again[twin] = None

    def cancel_twin(self, ticket: Ticket) -> bool:
        """Whether a ticket that was taken is a second one, which is then not sent after all."""
        if (twin := ticket.twin) is None:
            return False
        ticket.twin = twin.twin = None
        self.drop(ticket)
        return True

    def speak_for_both(self, ticket: Ticket) -> None:
        """A twin has the last word: the other one is not waited for any more."""
        if (twin := ticket.twin) is not None:
            ticket.twin = twin.twin = None
            ticket.attempts += twin.attempts
            ticket.faults += twin.faults
            ticket.spent += twin.spent
            self.withdraw(twin)

    def leave_to_twin(self, ticket: Ticket) -> bool:
        """A ticket has failed: whether its twin goes on alone, which it does where it is sent."""
        twin = ticket.twin
        if twin is None or twin not in self.in_flight:
            self.speak_for_both(ticket)
            return False
        ticket.twin = twin.twin = None
        twin.attempts += ticket.attempts
        twin.faults += ticket.faults
        twin.spent += ticket.spent
        twin.avoid = _for_a_time(twin.avoid)
        self.drop(ticket)
        return True

    # -- retries --------------------------------------------------------------------------

    def put_back(self, ticket: Ticket, *, avoid: Lane, until: float, now: float) -> None:
        """Wait for another try: by this lane from `until`, by others as soon as they may."""
        self.in_flight.pop(ticket, None)
        ticket.avoid = {**_still_avoided(ticket, now), avoid: until}
        self._return(ticket)

    def put_last(self, ticket: Ticket) -> None:
        """Wait for another try, by any lane, until there is nothing else to send."""
        self.in_flight.pop(ticket, None)
        ticket.avoid = _NOWHERE
        self._last.append(ticket)

    def park(self, ticket: Ticket, *, avoid: Lane, until: float, now: float) -> None:
        """Wait until another try is paid for."""
        self.in_flight.pop(ticket, None)
        ticket.avoid = {**_still_avoided(ticket, now), avoid: until}
        self._parked.append(ticket)

    @property
    def has_parked(self) -> bool:
        """Whether any waits to be paid for."""
        while self._parked and not self._parked[0].open:
            self._parked.popleft()
        return bool(self._parked)

    def unpark(self, now: float) -> Ticket:
        """Let the first that waits to be paid for be tried again."""
        ticket = self._parked.popleft()
        ticket.avoid = _still_avoided(ticket, now)
        self._return(ticket)
        return ticket

    def next_retry(self) -> float | None:
        """When the next backoff ends, if any is running."""
        while self._delayed and self._delayed[0][2] not in self._again:
            heapq.heappop(self._delayed)
        return self._delayed[0][0] if self._delayed else None

    def end_backoffs(self, now: float) -> list[Ticket]:
        """Let lanes take the tickets whose backoff there is over; returns them."""
        freed = []
        while (due := self.next_retry()) is not None and due <= now:
            _, _, ticket = heapq.heappop(self._delayed)
            ticket.avoid = _still_avoided(ticket, now)
            self._return(ticket)
            freed.append(ticket)
        return freed

    def drop(self, ticket: Ticket) -> None:
        """Forget a ticket that is settled; one that waits is passed over when its turn comes."""
        ticket.open = False
        if ticket.expiry is not None:
            ticket.expiry.cancel()
        self.in_flight.pop(ticket, None)
        self._again.pop(ticket, None)

    def withdraw(self, ticket: Ticket) -> None:
        """Nobody wants its answer any more: forget it, and stop sending it."""
        self.drop(ticket)
        if ticket.bundle is not None:
            ticket.bundle.leave(asyncio.get_running_loop().time())

    def close(self) -> None:
        """Send nothing more and cancel what is in flight. Runs on the dispatch loop."""
        self.open = False
        self._dry = True
        first, last = (*self._again, *self._returned), (*self._parked, *self._last)
        for ticket in (*self.in_flight, *first, *self._new.clear(), *last):
            ticket.open = False
            if ticket.expiry is not None:
                ticket.expiry.cancel()
        self._returned.clear()
        self._last.clear()
        self._again.clear()
        self._parked.clear()
        self._delayed.clear()
        for ticket in self.in_flight:
            if ticket.bundle is not None:
                ticket.bundle.leave(asyncio.get_running_loop().time())
        self.in_flight.clear()

    def _refill(self) -> None:
        tickets = self.client.feed(_FEED)
        if self.open:  # the client may have closed the job just now
            self._new.extend(tickets)
            self._dry = not tickets

    def _next_ready(self, lane: Lane) -> Ticket | None:
        while self._returned:
            if (ticket := self._returned[0]).open:
                return ticket
            self._returned.popleft()
        if not self._dry and len(self._new) < self._new.look_ahead:
            self._refill()  # once, so that a wide window holds up nobody while it fills
        while len(self._new):
            if (ticket := self._new.peek(lane)).open:
                return ticket
            self._new.pop(lane)
            if not self._dry and not len(self._new):
                self._refill()
        while self._last:
            if (ticket := self._last[0]).open:
                return ticket
            self._last.popleft()
        return None

    def _next_again(self, lane: Lane) -> Ticket | None:
        if self._again:
            for ticket in itertools.islice(self._again, _SCAN):
                # A second request that waited for a bundle of many would not be the first back.
                if lane not in ticket.avoid and not (ticket.twin and lane.is_bulk):
                    return ticket
        return None

    def _return(self, ticket: Ticket) -> None:
        """Let lanes take a ticket: those that it avoids when that is over, if ever."""
        if not ticket.avoid:
            self._again.pop(ticket, None)
            self._returned.appendleft(ticket)
            return
        self._again[ticket] = None
        if (until := min(ticket.avoid.values())) < math.inf:
            self._pushed += 1
            heapq.heappush(self._delayed, (until, self._pushed, ticket))


def _for_a_time(avoid: Mapping[Lane, float]) -> Mapping[Lane, float]:
    return {lane: until for lane, until in avoid.items() if until < math.inf}


def _still_avoided(ticket: Ticket, now: float) -> Mapping[Lane, float]:
    return {lane: until for lane, until in ticket.avoid.items() if until > now}
