"""The bundles of one endpoint under way: sent, watched, given up, unpacked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from langgraph_hpc_fanout.endpoints.globus_compute.faults import ParcelError, Trouble
from langgraph_hpc_fanout.endpoints.globus_compute.losses import Flight, Ledger, Losses
from langgraph_hpc_fanout.endpoints.globus_compute.pace import Pace
from langgraph_hpc_fanout.endpoints.globus_compute.quota import service_quota
from langgraph_hpc_fanout.endpoints.globus_compute.recall import Recall
from langgraph_hpc_fanout.endpoints.globus_compute.shipping import Delivery, Shipping
from langgraph_hpc_fanout.endpoints.globus_compute.submitter import Parcel, Submitter
from langgraph_hpc_fanout.endpoints.protocol import Listener, Sent
from langgraph_hpc_fanout.records import Failure, Reply, Request

if TYPE_CHECKING:
    from langgraph_hpc_fanout.endpoints.globus_compute.service import Landed, Service

logger = logging.getLogger("langgraph_hpc_fanout")

_WATCH_SECONDS = 1.0
_STATUS_SECONDS = 30.0
_BROKEN_SECONDS = 20.0
"""For which an endpoint that could work on no bundle is believed to be so still."""
_WELL_SECONDS = 300.0
"""For which an endpoint that has worked on a bundle is believed to have good workers."""
_SAID_SECONDS = 30.0
_CLOSING_SECONDS = 3.0
_PING_BYTES = 1_000


@dataclass(frozen=True, slots=True)
class Part:
    """Requests that make one task.

    Attributes:
        positions: Their places in what was to be sent.
        requests: The requests, all of one function or of none.
        models: For each the id that is served.
        size: Bytes in the body of a submit.
    """

    positions: Sequence[int]
    requests: Sequence[Request]
    models: Sequence[str]
    size: int

    def halves(self) -> tuple[Part, Part]:
        """The part as two."""
        middle = len(self.requests) // 2
        return self._slice(slice(middle)), self._slice(slice(middle, None))

    def _slice(self, cut: slice) -> Part:
        positions, requests = self.positions[cut], self.requests[cut]
        size = self.size * len(requests) // len(self.requests)
        return Part(positions, requests, self.models[cut], size)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What an endpoint has done since it was opened.

    Attributes:
        submits: Requests to the service that held bundles.
        bundles: Bundles that it acknowledged.
        requests: Requests in them, those that were sent again included.
        lost: Bundles that were given up as lost, or came back without a result.
        resent: Requests in these, which were sent again where their retries allow.
        late: Results that came after their bundle had been given up, and were dropped.
        executors: Executors of the SDK that were needed; more than one, when one has died.
        recalled: Bundles of an earlier process whose answers were fetched.
    """

    submits: int = 0
    bundles: int = 0
    requests: int = 0
    lost: int = 0
    resent: int = 0
    late: int = 0
    executors: int = 0
    recalled: int = 0


class Session:
    """Everything of an endpoint that lives from its opening to its closing, on one event loop.

    Args:
        connect: Makes the service and the id of the function to call; blocks.
        shipping: Makes tasks of requests, and replies of results.
        trouble: Reads errors.
        pace: What learns from each bundle.
        losses: When a bundle counts as lost.
        tell: Called, in a thread, with the bundles of a submit that the service has, before
            anything comes of them.
    """

    def __init__(
        self,
        connect: Callable[[], tuple[Service, str]],
        shipping: Shipping,
        trouble: Trouble,
        pace: Pace,
        losses: Losses,
        tell: Listener,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._shipping = shipping
        self._trouble = trouble
        self._pace = pace
        self._ledger = Ledger(losses)
        self._unproven = losses.unproven
        self._submitter = Submitter(
            connect, trouble, service_quota, tell, f"hpc-fanout-{trouble.name}-submit"
        )
        self._recall = Recall(self._find, self._ledger, self._unpack_recalled, self._keep_watch)
        self._flights: dict[Flight, tuple[Parcel, Part]] = {}
        self._waiting = 0
        self._traffic = Traffic()
        self._suspicions: dict[str, int] = {}
        self._broken: tuple[float, Failure] | None = None
        self._well = -math.inf
        self._said: dict[str, float] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._pings: set[asyncio.Task[None]] = set()
        self._status_asked = 0.0
        self._status_every = min(_STATUS_SECONDS, losses.silence)

    def belongs_to(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether it was opened on this loop."""
        return self._loop is loop

    @property
    def traffic(self) -> Traffic:
        """What was done so far."""
        submitter = self._submitter
        return replace(self._traffic, submits=submitter.submits, executors=submitter.executors)

    @property
    def outstanding(self) -> tuple[Sent, ...]:
        """Bundles that the service has, those of an earlier process included."""
        mine = (parcel.accepted for parcel, part in self._flights.values() if part.requests)
        return (*self._recall.awaited, *(each for each in mine if each is not None))

    def suspicion(self, key: str) -> int:
        """How many workers have died under a bundle that held this request."""
        return self._suspicions.get(key, 0)

    async def why_not(self) -> Failure | None:
        """Why the endpoint cannot be used now, if it cannot."""
        if self._broken is not None and self._loop.time() < self._broken[0] + _BROKEN_SECONDS:
            return self._broken[1]
        try:
            online = await self._submitter.ask(lambda service: service.is_online())
        except Exception as error:  # noqa: BLE001 - whatever the SDK raises, it says why
            return self._trouble.of_connecting(error).failure
        return None if online else self._trouble.offline()

    async def deliver(self, part: Part) -> list[Reply]:
        """Have a part worked on; each of its requests gets one reply."""
        self._waiting += 1
        try:
            delivery = await self._fetch(part)
        except ParcelError as error:
            if error.too_large and len(part.requests) > 1:
                self._pace.too_large(len(part.requests))
                halves = await asyncio.gather(*map(self.deliver, part.halves()))
                # What was too large to come back had been worked on.
                return [replace(reply, tries=reply.tries + 1) for half in halves for reply in half]
            failure = self._remember(error, part)
            return [Reply(position, failure=failure) for position in part.positions]
        finally:
            self._waiting -= 1
        if self._suspicions:
            for request in part.requests:
                self._suspicions.pop(request.key, None)
        for reply in delivery.replies:
            if reply.failure is not None and reply.failure.kind == "overloaded":
                self._say(reply.failure.message)
                break
        return list(delivery.replies)

    def reattach(self, sent: Sequence[Sent]) -> AsyncGenerator[tuple[str, Reply], None]:
        """What becomes of bundles that an earlier process sent."""
        return self._recall.replies(sent)

    async def close(self) -> None:
        """Wait for nothing more, and let go of every connection."""
        self._recall.close()
        for task in (self._watcher, *self._pings):
            if task is not None:
                task.cancel()
        self._submitter.close()
        for parcel, _ in list(self._flights.values()):
            parcel.fail(self._trouble.closed())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_SECONDS):
                await asyncio.wrap_future(self._submitter.ended)

    # -- one bundle -----------------------------------------------------------------------

    async def _fetch(self, part: Part) -> Delivery:
        """Send a part and wait for what comes of it.

        Raises:
            ParcelError: If no answers do.
        """
        payload = self._shipping.pack(part.requests, part.models)
        flight: Flight | None = None

        def sent() -> None:
            nonlocal flight
            if parcel.result.done():
                return
            flight = self._ledger.send(len(part.requests), self._loop.time())
            self._flights[flight] = parcel, part
            if part.requests:
                self._count(bundles=1, requests=len(part.requests))

        keys = tuple(request.key for request in part.requests)
        parcel = Parcel(payload, part.size, keys, sent, self._count_late)
        self._submitter.put(parcel)
        self._keep_watch()
        began = self._loop.time()
        try:
            result = await parcel.result
            seconds = self._loop.time() - began
            delivery = self._shipping.unpack(result, part.positions, part.requests, seconds)
            self._learn(delivery, flight)
            self._well = self._loop.time()
        except ParcelError:
            if flight is not None and part.requests:
                self._count(lost=1, resent=len(part.requests))
            raise
        else:
            return delivery
        finally:
            if flight is not None:
                self._ledger.drop(flight)
                del self._flights[flight]

    def _learn(self, delivery: Delivery, flight: Flight | None) -> None:
        """A bundle is back."""
        now = self._loop.time()
        if flight is not None:
            self._ledger.land(flight, delivery.seconds, now)
        if answered := sum(reply.body is not None for reply in delivery.replies):
            worker, seconds = delivery.worker, delivery.seconds
            self._pace.learn(worker, answered, seconds, delivery.size, now)

    def _remember(self, error: ParcelError, part: Part) -> Failure:
        """Draw conclusions from an error; returns what its requests are told."""
        self._say(error.failure.message)
        if error.suspect:
            self._suspect(request.key for request in part.requests)
        if not error.broken:
            return error.failure
        now = self._loop.time()
        if now < self._well + _WELL_SECONDS:  # one bad node among others
            return replace(error.failure, kind="transient")
        self._broken = now, error.failure
        return error.failure

    def _suspect(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._suspicions[key] = self.suspicion(key) + 1

    def _say(self, message: str) -> None:
        """Log what went wrong, though the same thing only now and then."""
        now = self._loop.time()
        if now >= self._said.get(message, -math.inf) + _SAID_SECONDS:
            self._said[message] = now
            logger.warning("%s", message)

    def _count(self, **more: int) -> None:
        known = self._traffic
        self._traffic = replace(
            known, **{name: getattr(known, name) + number for name, number in more.items()}
        )

    def _count_late(self) -> None:
        self._count(late=1)

    # -- bundles of an earlier process ----------------------------------------------------

    async def _find(self, tasks: Sequence[str]) -> Mapping[str, Landed]:
        """Ask what became of tasks.

        Raises:
            ParcelError: If the service cannot be asked.
        """
        try:
            return await self._submitter.ask(lambda service: service.find(tasks))
        except ParcelError:
            raise
        except Exception as error:
            raise self._trouble.of_connecting(error) from error

    def _unpack_recalled(
        self, sent: Sent, flight: Flight, landed: Landed
    ) -> Sequence[tuple[str, Reply]]:
        """Keys and replies of a bundle; none when it brought no result."""
        try:
            if landed.error is not None:
                raise self._trouble.of_task(landed.error)
            requests = self._shipping.stand_ins(landed.result, sent.keys)
            # A result says how long its bundle took; where it does not, nothing shorter is known.
            delivery = self._shipping.unpack(
                landed.result, range(len(requests)), requests, self._unproven
            )
        except ParcelError as error:
            logger.info("task %s of an earlier process: %s", sent.task_id, error)
            if error.suspect:
                self._suspect(sent.keys)
            return ()
        self._learn(delivery, flight)
        self._count(recalled=1)
        return [(sent.keys[reply.position], reply) for reply in delivery.replies]

    # -- watching -------------------------------------------------------------------------

    def _keep_watch(self) -> None:
        if self._watcher is None or self._watcher.done():
            self._watcher = self._loop.create_task(self._watch())

    async def _watch(self) -> None:
        """Give up what is lost, and find out whether anybody works, while something is awaited."""
        while self._waiting or self._recall.awaited:
            await asyncio.sleep(_WATCH_SECONDS)
            now = self._loop.time()
            away = self._ledger.is_away(now)
            for flight in self._ledger.lost(now):
                if flight not in self._flights:  # of an earlier process, see `recall`
                    continue
                parcel, _ = self._flights[flight]
                lost = self._trouble.lost(now - flight.sent)
                parcel.fail(ParcelError(self._trouble.offline()) if away else lost)
            if self._ledger.is_quiet(now) and now >= self._status_asked + self._status_every:
                self._status_asked = now
                self._in_background(self._ask_status())  # it may have to wait for its turn
            if self._ledger.may_ask(now):
                self._in_background(self._ping())

    async def _ask_status(self) -> None:
        try:
            online = await self._submitter.ask(lambda service: service.is_online())
        except Exception as error:  # noqa: BLE001 - whatever the SDK raises, it is looked at
            if not self._trouble.is_gone(error):  # it says nothing of the bundles
                logger.debug("%s: no status: %r", self._trouble.name, error)
                return
            online = False
        self._ledger.status(online=online, now=self._loop.time())

    async def _ping(self) -> None:
        """Send a bundle of nothing: when it is back, all bundles before it have begun."""
        with contextlib.suppress(ParcelError):
            await self._fetch(Part((), (), (), _PING_BYTES))

    def _in_background(self, coroutine: Coroutine[object, object, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._pings.add(task)
        task.add_done_callback(self._pings.discard)
