"""A scheduler's watch over a list of instances: who joins, who leaves, who is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from typing import Generic

from langgraph_hpc_fanout.dispatch.reasons import NoEndpointError
from langgraph_hpc_fanout.dispatch.scheduler import Scheduler
from langgraph_hpc_fanout.endpoints.protocol import Endpoint
from langgraph_hpc_fanout.instances.instance import InstancesError, ListedT, Reading
from langgraph_hpc_fanout.instances.listing import Change, Listing
from langgraph_hpc_fanout.instances.sources import Source

logger = logging.getLogger("langgraph_hpc_fanout")

_TRY_AGAIN_SECONDS = 15.0
"""Time between attempts at instances that are listed and do not answer yet; dead lanes have the
same."""
_LEAST_LOOK = 10.0
"""Seconds that a first look may take, however little there is to wait for instances."""
_MOST_FAULTS = 4


class Watched(Generic[ListedT]):
    """A list of instances, and what is known of it; it outlives schedulers and forks.

    Args:
        source: Where the list is.
        make: What makes an endpoint of an instance.
        every: Seconds between looks.
        wait: Seconds for which a request waits while no instance answers.

    Raises:
        ValueError: If a time is out of range.
    """

    def __init__(
        self,
        source: Source[ListedT],
        make: Callable[[ListedT], Endpoint],
        every: float,
        wait: float,
    ) -> None:
        if not 0.0 < every < math.inf:
            raise ValueError(f"every={every!r} must be seconds between looks, more than 0.")
        if not wait >= 0.0:
            raise ValueError(f"wait={wait!r} must be seconds, at least 0.")
        self.source = source
        self.make = make
        self.every = every
        self.wait = wait
        self.listing: Listing[ListedT] = Listing()
        self.absent = ""
        self._told: set[str] = set()

    def take(self, reading: Reading[ListedT]) -> Change[ListedT]:
        """Take in what a look has found; each fault is logged once.

        Raises:
            InstancesError: If the first list that there is has faults: somebody is there to
                mend it, and nothing is under way.
        """
        if reading.faults and not len(self.listing):
            raise InstancesError(_in_short(reading.faults))
        for fault in reading.faults:
            if fault not in self._told:
                self._told.add(fault)
                logger.warning("%s", fault)
        self.absent = reading.absent
        return self.listing.take(reading)


class Watch(Generic[ListedT]):
    """Looks at a list again and again while a scheduler is wanted, and not otherwise.

    Args:
        watched: The list.
        scheduler: Whose lanes they are; the watch belongs to its loop.
        change: Called on the loop with whoever has joined and left.
    """

    def __init__(
        self,
        watched: Watched[ListedT],
        scheduler: Scheduler,
        change: Callable[[Change[ListedT]], object],
    ) -> None:
        self._watched = watched
        self._scheduler = scheduler
        self._change = change
        self.loop = scheduler.loop
        self._task: asyncio.Task[None] | None = None
        self._looked_at = -math.inf
        self._looked = asyncio.Event()
        self._fault: InstancesError | None = None
        self._waiting = 0
        self._joined = asyncio.Event()
        self._is_closed = False
        scheduler.when_busy = self.begin

    def begin(self) -> None:
        """Look from now on, until nobody wants the scheduler any more."""
        if self._task is None and not self._is_closed:
            self._task = self.loop.create_task(self._run(), name="watch instances")

    async def close(self) -> None:
        """Look no more; who waits is told."""
        self._is_closed = True
        self._looked.set()
        self._joined.set()
        if (task := self._task) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def resolve(
        self, model: str | None, require: frozenset[str], forbid: frozenset[str]
    ) -> str:
        """The logical model to ask for, as the scheduler resolves it, once an instance answers.

        Raises:
            NoEndpointError: As the scheduler does, if there is somebody to ask; if the list is
                not one; or if nobody answers in time.
        """
        ends = self.loop.time() + self._watched.wait
        advice = self._watched.source.advice
        was_told = False
        self._waiting += 1
        try:
            await self._look_once(self._watched.wait)
            while True:
                self._joined.clear()
                try:
                    return await self._resolve_now(model, require, forbid)
                except NoEndpointError as error:
                    left = ends - self.loop.time()
                    if self._is_final(error) or (left <= 0.0 and not advice):
                        raise
                    if left <= 0.0:
                        raise NoEndpointError(f"{error} {self._too_late()}", error.kind) from error
                    if not was_told:
                        logger.warning("%s Waiting up to %.0f s for instances.", error, left)
                        was_told = True
                await _wait_for(self._joined, min(left, _TRY_AGAIN_SECONDS))
        finally:
            self._waiting -= 1

    async def _resolve_now(
        self, model: str | None, require: frozenset[str], forbid: frozenset[str]
    ) -> str:
        if self._is_closed:
            raise NoEndpointError("The pool was closed.", "cancelled")
        if self._fault is not None:
            raise NoEndpointError(str(self._fault), self._fault.kind)
        if not self._scheduler.lanes:
            name = self._watched.source.name
            empty = "has not answered yet" if self._looked_at == -math.inf else "lists no instance"
            absent = self._watched.absent or f"{name} {empty}"
            raise NoEndpointError(absent if absent.endswith("?") else f"{absent}.")
        return await self._scheduler.resolve(model, require, forbid)

    def _is_final(self, error: NoEndpointError) -> bool:
        """Whether waiting does not help: the list is none, or somebody has answered."""
        return error.kind != "cold" or any(lane.condition.is_hot for lane in self._scheduler.lanes)

    def _too_late(self) -> str:
        return (
            f"No instance of {self._watched.source.name} has answered within "
            f"{self._watched.wait:g} s; {self._watched.source.advice}"
        )

    async def _look_once(self, most: float) -> None:
        """Have a look that is not older than the time between looks, and not one in vain.

        Args:
            most: Seconds that it is waited for; it goes on.
        """
        is_old = self.loop.time() - self._looked_at >= self._watched.every
        self.begin()
        if (is_old or self._fault is not None) and not self._is_closed:
            self._looked.clear()
            await _wait_for(self._looked, max(most, _LEAST_LOOK))

    async def _run(self) -> None:
        try:
            while self._waiting or self._scheduler.is_wanted:
                due = self._looked_at + self._watched.every - self.loop.time()
                if due > 0.0:
                    await asyncio.sleep(due)
                else:
                    await self._look()
        finally:
            self._task = None

    async def _look(self) -> None:
        try:
            change = self._watched.take(await self._watched.source.look())
            self._fault = None
            if change:
                self._change(change)
                self._tell(change)
                self._joined.set()
        except InstancesError as error:
            self._fault = error
            self._joined.set()
        except Exception:
            logger.exception("The list of instances %s", self._watched.source.name)
        finally:
            self._looked_at = self.loop.time()
            self._looked.set()

    def _tell(self, change: Change[ListedT]) -> None:
        logger.info(
            "%s: %d instances have joined, %d have left, %d are listed.",
            self._watched.source.name,
            len(change.joined),
            len(change.left),
            len(self._watched.listing),
        )


async def _wait_for(event: asyncio.Event, most: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(most):
            await event.wait()


def _in_short(faults: Sequence[str]) -> str:
    """A few of many sentences."""
    more = len(faults) - _MOST_FAULTS
    return " ".join(faults[:_MOST_FAULTS]) + (f" And {more} more." if more > 0 else "")
