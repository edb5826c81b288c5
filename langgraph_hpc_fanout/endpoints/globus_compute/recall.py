"""Bundles that an earlier process sent: their results are asked for until they are there.

Results of this process come over a connection to the group of tasks that they belong to. Those of
an earlier one are fetched by asking for tasks by their ids instead. For the connection brings
whatever is in the group, and all of it at once: results of 7 MB each, wanted or not, or fetched
already, which the SDK keeps in memory for as long as it listens. And where the earlier process
is not as dead as it was believed to be, each result goes to one of the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from langgraph_hpc_fanout.endpoints.globus_compute.faults import ParcelError
from langgraph_hpc_fanout.endpoints.globus_compute.losses import Flight, Ledger
from langgraph_hpc_fanout.endpoints.protocol import Sent
from langgraph_hpc_fanout.records import Reply

if TYPE_CHECKING:
    from langgraph_hpc_fanout.endpoints.globus_compute.service import Landed

logger = logging.getLogger("langgraph_hpc_fanout")

Replies = Sequence[tuple[str, Reply]]
Find = Callable[[Sequence[str]], Awaitable["Mapping[str, Landed]"]]
Unpack = Callable[[Sent, Flight, "Landed"], Replies]

_SOONEST, _LATEST = 1.0, 30.0
"""Seconds between two looks at the same tasks: each time in which nothing came, twice as long."""
_APART = 1.0
"""Seconds in which one request is made, on average, as the service takes two and bundles want to
be submitted, too."""
_ROOM = 32_000_000
"""Bytes of results in one answer, which are in memory several times while it is read."""
_LARGEST = 8_000_000
"""What a result may be while none has been seen."""
_MOST = 32


class _Awaited:
    """One bundle that somebody waits for."""

    __slots__ = ("flight", "replies", "sent", "waiting")

    def __init__(self, sent: Sent, flight: Flight) -> None:
        self.sent = sent
        self.flight = flight
        self.replies: asyncio.Future[Replies] = asyncio.get_running_loop().create_future()
        self.waiting = 0

    def settle(self, replies: Replies = ()) -> None:
        """Tell all who wait; nothing, when there is nothing more to be had."""
        if not self.replies.done():
            self.replies.set_result(replies)


class Recall:
    """Looks for results of tasks by their ids, on one event loop.

    Each task is asked for by one request at a time, however many wait for it: the service
    forgets a result that it has handed out.

    Args:
        find: Asks the service what became of some tasks; raises a ParcelError.
        ledger: The endpoint's bundles under way, which says what is lost.
        unpack: Makes keys and replies of what was found of a bundle; raises nothing.
        begin: Called when there is something to wait for.
    """

    def __init__(
        self, find: Find, ledger: Ledger, unpack: Unpack, begin: Callable[[], None]
    ) -> None:
        self._find = find
        self._ledger = ledger
        self._unpack = unpack
        self._begin = begin
        self._awaited: dict[str, _Awaited] = {}
        self._largest = 0
        self._more = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    @property
    def awaited(self) -> list[Sent]:
        """The bundles that are waited for."""
        return [each.sent for each in self._awaited.values()]

    async def replies(self, sent: Sequence[Sent]) -> AsyncGenerator[tuple[str, Reply], None]:
        """What becomes of these bundles."""
        mine = self._enlist(sent)
        try:
            for done in asyncio.as_completed([each.replies for each in mine]):
                for key, reply in await done:
                    yield key, reply
        finally:
            self._leave(mine)

    def close(self) -> None:
        """Wait for nothing more."""
        if self._looking is not None:
            self._looking.cancel()
        self._give_up()

    # -- who waits for what ---------------------------------------------------------------

    def _enlist(self, sent: Sequence[Sent]) -> list[_Awaited]:
        new = {each.task_id: each for each in sent if each.task_id not in self._awaited}
        flights = self._ledger.adopt(
            [(len(each.keys), each.at) for each in new.values()],
            asyncio.get_running_loop().time(),
        )
        for each, flight in zip(new.values(), flights, strict=True):
            self._awaited[each.task_id] = _Awaited(each, flight)
        mine = [self._awaited[task_id] for task_id in dict.fromkeys(s.task_id for s in sent)]
        for awaited in mine:
            awaited.waiting += 1
        if mine:
            self._begin()
            self._more.set()
            if self._looking is None or self._looking.done():
                self._looking = asyncio.get_running_loop().create_task(self._look())
        return mine

    def _leave(self, mine: Sequence[_Awaited]) -> None:
        for each in mine:
            each.waiting -= 1
            if not each.waiting and self._awaited.get(each.sent.task_id) is each:
                self._drop(each)

    def _drop(self, each: _Awaited) -> None:
        del self._awaited[each.sent.task_id]
        self._ledger.drop(each.flight)

    def _give_up(self) -> None:
        for each in list(self._awaited.values()):
            self._drop(each)
            each.settle()

    # -- looking --------------------------------------------------------------------------

    async def _look(self) -> None:
        """Ask for all that is waited for, over and over, the first first."""
        pause = _SOONEST
        try:
            while self._awaited:
                self._more.clear()
                requests, news = await self._look_once()
                pause = _SOONEST if news else min(2 * pause, _LATEST)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(pause, requests * _APART)):
                        await self._more.wait()
        finally:
            self._give_up()  # nobody else would tell those who wait

    async def _look_once(self) -> tuple[int, bool]:
        """Ask once for each; says how many requests that took, and whether anything was there."""
        tasks = list(self._awaited)
        requests, news = 0, False
        while tasks:
            asked, tasks = tasks[: self._many()], tasks[self._many() :]
            if asked := [task for task in asked if task in self._awaited]:
                requests += 1
                news |= await self._ask(asked)
        return requests, news

    def _many(self) -> int:
        return max(1, min(_MOST, _ROOM // (self._largest or _LARGEST)))

    async def _ask(self, tasks: Sequence[str]) -> bool:
        try:
            found = await self._find(tasks)
        except ParcelError as error:
            logger.info("%d bundles cannot be asked for: %s", len(tasks), error)
            if error.failure.kind == "auth":
                self._give_up()
            found = {}  # it says nothing of the bundles
        lost = set(self._ledger.lost(asyncio.get_running_loop().time()))
        for task in tasks:
            if (each := self._awaited.get(task)) is None:
                continue
            if (landed := found.get(task)) is not None:
                self._largest = max(self._largest, landed.size)
                each.settle(self._unpack(each.sent, each.flight, landed))
            elif each.flight in lost:  # and it has just been seen that it has not come
                each.settle()
            else:
                continue
            self._drop(each)
        return bool(found)
