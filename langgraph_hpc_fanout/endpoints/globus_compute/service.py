"""The web service, through the SDK. Needs the SDK; blocks, so it is never used on an event loop."""

from __future__ import annotations

import contextlib
import copy
import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from globus_compute_sdk import Client, Executor
from globus_compute_sdk.errors import TaskExecutionFailed
from globus_compute_sdk.sdk import executor as sdk
from globus_compute_sdk.sdk.asynchronous.compute_future import ComputeFuture
from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect

_BURST_CALLS, _BURST_SECONDS = 8, 1
"""The loosest that the SDK's own limiter can be: it knows nothing of other Executors, and waits
for seconds after a few small submits. `Quota` keeps the service's limit instead."""
_POLL = 0.01
_ACKNOWLEDGED_WITHIN = 300.0
"""Seconds after which a submit is taken to have failed; the SDK's own tries take some 20 s."""
_DEAD_WITHIN = 1.0
"""Seconds that an Executor which has stopped may take to tell its futures."""
_ENDED_WITHIN = 15.0
_CLOSED_WITHIN = 2.0
"""Seconds for the connection to the broker to be closed in order; it looks twice a second."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of one task that was to be submitted.

    Attributes:
        task_id: Its id, when the service acknowledged it.
        task_group_id: The group that its result will come to.
        future: Of its result, when it was acknowledged.
        error: Why it was not; None too for one that only stood behind one that failed.
    """

    task_id: str | None = None
    task_group_id: UUID | None = None
    future: Future[Any] | None = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Landed:
    """What became of a task that has ended.

    Attributes:
        result: What its function returned.
        error: Why there is no result.
        size: Bytes of the result as it came.
    """

    result: Any = None
    error: BaseException | None = None
    size: int = 0


class Service:
    """Submits tasks to one endpoint, with arguments and results as JSON.

    A failed submit ends an Executor for good (globus_compute_sdk/sdk/executor.py,
    `_task_submitter_impl`), so each is replaced when it has failed. All share a task group of
    their own, so results of tasks that an earlier one submitted still arrive. It is not the group
    of an earlier process, whose results would come along, see `recall`.

    Args:
        endpoint_id: The Globus Compute endpoint.
        client: Who we are; it is not changed.
        settings: Further settings of the Executor.
        owned: Whether the client is ours to close.

    Attributes:
        executors: How many Executors were made.
    """

    def __init__(
        self, endpoint_id: UUID, client: Client, settings: Mapping[str, Any], *, owned: bool
    ) -> None:
        # Its serializer is ours to choose, the client is the user's.
        self._client = copy.copy(client)
        # With an app, the client would log in anew, and ask a person, when the service wants more.
        self._client.app = None
        self._client.fx_serializer = _json_only()
        self._endpoint_id = endpoint_id
        self._settings = settings
        self._owned = owned
        self._executor: Executor | None = None
        self._group: UUID | None = None
        self.executors = 0
        _close_at_exit(self)

    def register(self, source: str, name: str) -> str:
        """Register a function by its source text; returns its id."""
        return str(self._client.register_source_code(source, name))

    def is_online(self) -> bool:
        """Whether the endpoint has reported lately that it is well."""
        status = self._client.get_endpoint_status(self._endpoint_id)
        return bool(status.get("status") == "online")

    def submit(self, function_id: str, arguments: Sequence[Mapping[str, Any]]) -> list[Submitted]:
        """Submit one task for each argument, in one request; waits for the acknowledgement."""
        executor = self._living()
        executor.batch_size = len(arguments)
        try:
            futures = [
                executor.submit_to_registered_function(function_id, args=(argument,))
                for argument in arguments
            ]
        except RuntimeError as error:  # it died since its last submit
            self._executor = None
            return [Submitted(error=error) for _ in arguments]
        self._await_acknowledgement(executor, futures)
        submitted = [_submitted(future, executor.task_group_id) for future in futures]
        if Executor._default_task_group_id == executor.task_group_id:  # noqa: SLF001
            # Else the next Executor that the user makes would share our group, and its results
            # would be read as ours.
            Executor._default_task_group_id = None  # noqa: SLF001
        if any(each.task_id is None for each in submitted):
            self._discard(executor)
        else:
            self._group = executor.task_group_id
        return submitted

    def find(self, task_ids: Sequence[str]) -> dict[str, Landed]:
        """Ask what became of tasks, in one request; those that have not ended are left out.

        Not by the SDK's `reload_tasks`, which asks for a whole group of tasks, and of a task
        that the service has forgotten waits for ever: it has no time of completion
        (globus_compute_sdk/sdk/executor.py, `_load_tasks_status`).
        """
        web = self._client._compute_web_client.v2  # noqa: SLF001 - public names read it otherwise
        told = web.get_task_batch(task_ids)["results"]
        return {
            task_id: self._landed(status)
            for task_id, status in told.items()
            if str(status.get("status")).lower() in ("success", "failed")
        }

    def watch(self, task_id: str) -> Future[Any]:
        """Wait for a task's result anew, after the connection that would have brought it ended."""
        executor = self._living()
        watcher = executor._get_result_watcher()  # noqa: SLF001 - no public name, as below
        if watcher._closed or watcher._time_to_stop or watcher._cancellation_reason:  # noqa: SLF001
            # It is about to end, and would forget what it is given now.
            watcher.join(_ENDED_WITHIN)
            watcher = executor._get_result_watcher()  # noqa: SLF001
        future = ComputeFuture(task_id)
        watcher.watch_for_task_results(executor, [future])
        return future

    def close(self) -> None:
        """Wait for nothing more: open futures are cancelled, threads end by themselves."""
        executor, self._executor = self._executor, None
        group = self._group
        if executor is not None:
            group = group or executor.task_group_id
            _shut_down(executor)
        # The watcher's thread is no daemon, and would hold up the interpreter's exit for as
        # long as a single result is missing.
        watcher = None if group is None else sdk._RESULT_WATCHERS.get(group)  # noqa: SLF001
        if watcher is not None:
            connection = watcher._connection  # noqa: SLF001 - the SDK never closes its loop
            _shut_down(watcher)
            watcher.join(_CLOSED_WITHIN)
            if connection is not None and not watcher.is_alive():
                connection.ioloop.close()
        if self._owned:
            self._client._compute_web_client.v2.close()  # noqa: SLF001 - no public way
            self._client._compute_web_client.v3.close()  # noqa: SLF001

    def _landed(self, status: Mapping[str, Any]) -> Landed:
        packed = status.get("result")
        if packed is None:
            why = status.get("exception") or status.get("reason") or "it was not said why"
            return Landed(error=TaskExecutionFailed(str(why), status.get("completion_t")))
        try:
            return Landed(self._client.fx_serializer.deserialize(packed), size=len(packed))
        except Exception as cause:  # noqa: BLE001 - whatever it is, it is no result
            error = ValueError("a result that cannot be read")
            error.__cause__ = cause
            return Landed(error=error, size=len(packed))

    def _living(self) -> Executor:
        if _exiting.is_set():
            raise RuntimeError("the interpreter is ending")
        if self._executor is None or self._executor._stopped:  # noqa: SLF001 - no public name
            self.executors += 1
            self._executor = Executor(
                endpoint_id=self._endpoint_id,
                client=self._client,
                api_burst_limit=_BURST_CALLS,
                api_burst_window_s=_BURST_SECONDS,
                result_serializers=[JSONData],
                **self._settings,
            )
            # By default all Executors of a process share the group that was last seen.
            self._executor.task_group_id = self._group
        return self._executor

    def _discard(self, executor: Executor) -> None:
        self._executor = None
        _shut_down(executor)
        sdk._REGISTERED_EXECUTORS.pop(id(executor), None)  # noqa: SLF001 - a dead one stays there

    @staticmethod
    def _await_acknowledgement(executor: Executor, futures: Sequence[ComputeFuture]) -> None:
        """The SDK tells of it nowhere but in the futures, and not there if it dies of a bug."""
        end = time.monotonic() + _ACKNOWLEDGED_WITHIN
        for future in futures:
            while future.task_id is None and not future.done() and time.monotonic() < end:
                time.sleep(_POLL)
                if executor._stopped:  # noqa: SLF001 - no public name
                    end = min(end, time.monotonic() + _DEAD_WITHIN)


def _submitted(future: ComputeFuture, group: UUID | None) -> Submitted:
    if future.task_id is not None:
        return Submitted(future.task_id, group, future)
    if not future.done():
        return Submitted(error=TimeoutError("the service did not acknowledge a submit"))
    return Submitted(error=None if future.cancelled() else future.exception())


def _shut_down(part: Any) -> None:
    """End an Executor or a result watcher without waiting for anything."""
    part.shutdown(wait=False, cancel_futures=True)


def _json_only() -> ComputeSerializer:
    """Results are data from another machine; other serializers than JSON would run code of it."""
    return ComputeSerializer(
        strategy_code=PureSourceTextInspect,
        strategy_data=JSONData,
        allowed_deserializer_types=[PureSourceTextInspect, JSONData],
    )


_open: weakref.WeakSet[Service] = weakref.WeakSet()
_lock = threading.Lock()
_closer: threading.Thread | None = None
_exiting = threading.Event()


def _close_at_exit(service: Service) -> None:
    global _closer
    with _lock:
        _open.add(service)
        if _closer is None or not _closer.is_alive():  # none is, in a forked process
            # Exit handlers run only after all threads that are no daemons have ended, and the
            # SDK's wait for results. A thread that waits for the main thread comes before.
            _closer = threading.Thread(target=_close_all, name="hpc-fanout-globus-exit")
            _closer.start()


def _close_all() -> None:
    threading.main_thread().join()
    _exiting.set()
    for service in list(_open):
        with contextlib.suppress(Exception):  # the others are to be closed all the same
            service.close()


def _after_fork() -> None:
    """A forked child has its parent's services, whose connections are not its own."""
    global _lock
    _lock = threading.Lock()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork)
