"""All bundles of an endpoint leave through one thread, several in a request."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from langgraph_hpc_fanout.endpoints.globus_compute.faults import ParcelError, Trouble
from langgraph_hpc_fanout.endpoints.globus_compute.quota import Quota
from langgraph_hpc_fanout.endpoints.protocol import Listener, Sent

if TYPE_CHECKING:
    from langgraph_hpc_fanout.endpoints.globus_compute.service import Service, Submitted

T = TypeVar("T")

MOST_BYTES = 8_000_000
"""Of the 10 MB that a submit may have; the rest is for what the SDK adds."""
_MOST_TASKS = 200
"""More would often leave in two requests: the SDK begins to send while it is still being given."""
_GATHER_SECONDS = 0.02
"""For which a submit waits for the bundles that were made in the same moment."""
_SUBMITS = 6
"""Times that a bundle is submitted before it fails; the SDK tries each several times itself."""
_BACKOFF_SECONDS = 20.0
_WATCHES = 10
"""Times that a result is waited for anew after its connection ended; the SDK connects five times
for each."""


class Parcel:
    """A bundle on its way through the service, where it is a task. Made on the loop that waits.

    Args:
        payload: What the worker's function gets.
        size: Its bytes in the body of a submit.
        keys: Keys of its requests.
        sent: Called when the service has acknowledged it.
        late: Called when a result comes that nobody waits for any more.

    Attributes:
        result: What the worker's function returned, or a ParcelError.
        keys: Keys of its requests.
        accepted: Which task it is, once it was acknowledged.
    """

    __slots__ = (
        "_late",
        "_loop",
        "_sent",
        "accepted",
        "attempts",
        "keys",
        "payload",
        "result",
        "size",
        "watches",
    )

    def __init__(
        self,
        payload: Mapping[str, Any],
        size: int,
        keys: tuple[str, ...],
        sent: Callable[[], None],
        late: Callable[[], None],
    ) -> None:
        self._sent = sent
        self._late = late
        self._loop = asyncio.get_running_loop()
        self.payload = payload
        self.size = size
        self.keys = keys
        self.result: asyncio.Future[Any] = self._loop.create_future()
        self.accepted: Sent | None = None
        self.attempts = 0
        self.watches = 0

    def acknowledge(self, accepted: Sent) -> None:
        """The service has it. From any thread, like the others."""
        self.accepted = accepted
        self.payload = {}  # up to megabytes, which the SDK's future would keep alive
        self._tell(self._sent)

    def finish(self, result: Any) -> None:
        """The worker has returned."""
        self._tell(self._settle, result)

    def fail(self, error: ParcelError) -> None:
        """It will bring no result."""
        self._tell(self._give_up, error)

    def _tell(self, function: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits
            self._loop.call_soon_threadsafe(function, *args)

    def _settle(self, result: Any) -> None:
        if self.result.done():
            self._late()
        else:
            self.result.set_result(result)

    def _give_up(self, error: ParcelError) -> None:
        if not self.result.done():
            self.result.set_exception(error)


class Submitter:
    """Gathers bundles and submits them, keeping to the service's limits.

    Args:
        connect: Makes the service, and the id of the function to call; called on the thread.
        trouble: Says what a failed submit or task means.
        quota: When the next request may be made.
        tell: Called with the bundles of a submit that the service has, before anything comes of
            them.
        name: The thread's.

    Attributes:
        submits: Requests made that held bundles.
        ended: When the thread has.
    """

    def __init__(
        self,
        connect: Callable[[], tuple[Service, str]],
        trouble: Trouble,
        quota: Quota,
        tell: Listener,
        name: str,
    ) -> None:
        self._connect = connect
        self._trouble = trouble
        self._quota = quota
        self._tell = tell
        self._jobs: queue.SimpleQueue[Parcel | Callable[[], None] | None] = queue.SimpleQueue()
        self._held: deque[Parcel] = deque()
        self._ended = threading.Event()
        self._connection: tuple[Service, str] | None = None
        self._most_bytes = MOST_BYTES
        self.submits = 0
        self.ended: Future[None] = Future()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    # -- from the loop --------------------------------------------------------------------

    def put(self, parcel: Parcel) -> None:
        """Submit a bundle soon."""
        if self._ended.is_set():
            parcel.fail(self._trouble.closed())
        else:
            self._jobs.put(parcel)

    def ask(self, question: Callable[[Service], T]) -> asyncio.Future[T]:
        """Ask the service something, on the thread."""
        answer: Future[T] = Future()

        def job() -> None:
            if not answer.set_running_or_notify_cancel():
                return  # nobody waits for it any more
            try:
                self._wait_for_turn()
                answer.set_result(question(self._service()[0]))
            except BaseException as error:  # noqa: BLE001 - told to who asked
                answer.set_exception(error)

        if self._ended.is_set():
            answer.set_exception(self._trouble.closed())
        else:
            self._jobs.put(job)
        return asyncio.wrap_future(answer)

    @property
    def executors(self) -> int:
        """How many Executors were needed."""
        return 0 if self._connection is None else self._connection[0].executors

    def close(self) -> None:
        """End the thread; what is still to be submitted never will be."""
        self._ended.set()
        self._jobs.put(None)

    # -- on the thread --------------------------------------------------------------------

    def _service(self) -> tuple[Service, str]:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _run(self) -> None:
        while not self._ended.is_set():
            job = self._held.popleft() if self._held else self._jobs.get()
            if isinstance(job, Parcel):
                self._submit(self._gather(job))
            elif job is not None:
                job()
        self._drain()
        if self._connection is not None:
            self._connection[0].close()
        self.ended.set_result(None)

    def _drain(self) -> None:
        """Whoever still waits for something of this thread is told that it has ended."""
        while (parcel := self._next_parcel()) is not None:
            parcel.fail(self._trouble.closed())

    def _wait_for_turn(self) -> None:
        """Wait until the service takes one more request.

        Raises:
            ParcelError: If the thread is to end.
        """
        self._ended.wait(self._quota.reserve(time.monotonic()))
        if self._ended.is_set():
            raise self._trouble.closed()

    def _gather(self, first: Parcel) -> list[Parcel]:
        """Wait for a turn, and take along what has come until then."""
        self._ended.wait(_GATHER_SECONDS)
        with contextlib.suppress(ParcelError):  # it is put aside then, and told
            self._wait_for_turn()
        group, size = [first], first.size
        while len(group) < _MOST_TASKS and (parcel := self._next_parcel()) is not None:
            if size + parcel.size > self._most_bytes:
                self._held.appendleft(parcel)
                break
            group.append(parcel)
            size += parcel.size
        return group

    def _next_parcel(self) -> Parcel | None:
        if self._held:
            return self._held.popleft()
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._jobs.get_nowait()
                if isinstance(job, Parcel):
                    return job
                if job is not None:
                    job()
        return None

    def _submit(self, group: Sequence[Parcel]) -> None:
        if self._ended.is_set():
            self._held.extend(group)
            return
        group = [parcel for parcel in group if not parcel.result.done()]  # given up meanwhile
        if not group:
            return
        try:
            service, function_id = self._service()
        except Exception as error:  # noqa: BLE001 - told to who waits
            _fail(group, self._trouble.of_connecting(error))
            return
        self.submits += 1
        for parcel in group:
            parcel.attempts += 1
        try:
            submitted = service.submit(function_id, [parcel.payload for parcel in group])
        except Exception as error:  # noqa: BLE001 - the thread must live on, whatever the SDK does
            _fail(group, self._trouble.of_submit(error))
            return
        self._sort(group, submitted)

    def _sort(self, group: Sequence[Parcel], submitted: Sequence[Submitted]) -> None:
        """Wait for those that were acknowledged; send the others again, or fail them."""
        errors = [each.error for each in submitted if each.error is not None]
        now = time.time()
        accepted = [
            _accepted(parcel, each, now) for parcel, each in zip(group, submitted, strict=True)
        ]
        # Not of those that only ask if anybody works.
        if told := [sent for sent in accepted if sent is not None and sent.keys]:
            self._tell(told)
        again: list[Parcel] = []
        for parcel, each, sent in zip(group, submitted, accepted, strict=True):
            if sent is not None and each.future is not None:
                parcel.acknowledge(sent)
                self._expect(parcel, each.future)
            elif each.error is None or self._may_try_again(parcel, each.error, len(group)):
                again.append(parcel)
            else:
                parcel.fail(self._trouble.of_submit(each.error))
        if not again:
            self._most_bytes = min(MOST_BYTES, self._most_bytes + self._most_bytes // 8 + 1)
            return
        if any(self._trouble.is_too_large(error) for error in errors):
            # By bytes it should have been let in: the service counts otherwise than we do.
            self._most_bytes = max(1, sum(parcel.size for parcel in group) // 2)
        else:
            attempts = max(parcel.attempts for parcel in again)
            self._ended.wait(random.uniform(0, min(_BACKOFF_SECONDS, 0.5 * 2.0**attempts)))
        self._held.extendleft(reversed(again))

    def _may_try_again(self, parcel: Parcel, error: BaseException, together: int) -> bool:
        if self._trouble.is_too_large(error):
            return together > 1
        return parcel.attempts < _SUBMITS and self._trouble.may_pass(error)

    def _expect(self, parcel: Parcel, future: Future[Any]) -> None:
        def landed(future: Future[Any]) -> None:
            if future.cancelled():
                parcel.fail(self._trouble.closed())
            elif (error := future.exception()) is None:
                parcel.finish(future.result())
            elif self._trouble.is_of_connection(error) and not self._ended.is_set():
                self._jobs.put(lambda: self._watch(parcel, error))
            else:
                parcel.fail(self._trouble.of_task(error))

        future.add_done_callback(landed)

    def _watch(self, parcel: Parcel, error: BaseException) -> None:
        """The task is well, only its result did not get through: wait for it anew."""
        parcel.watches += 1
        if parcel.result.done():
            return
        if parcel.watches > _WATCHES or parcel.accepted is None:
            parcel.fail(self._trouble.of_task(error))
            return
        try:
            future = self._service()[0].watch(parcel.accepted.task_id)
        except Exception as again:  # noqa: BLE001 - told to who waits
            parcel.fail(self._trouble.of_task(again))
            return
        self._expect(parcel, future)


def _accepted(parcel: Parcel, submitted: Submitted, now: float) -> Sent | None:
    if submitted.task_id is None:
        return None
    return Sent(submitted.task_id, str(submitted.task_group_id), parcel.keys, now)


def _fail(parcels: Sequence[Parcel], error: ParcelError) -> None:
    for parcel in parcels:
        parcel.fail(error)
