"""A user's function called for each item of a bundle; never on the dispatch loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from langgraph_hpc_fanout.dispatch.loop import dispatch_loop, task_loop
from langgraph_hpc_fanout.dispatch.reasons import NoEndpointError
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.endpoints.chat import failure_of
from langgraph_hpc_fanout.records import FailureKind
from langgraph_hpc_fanout.remote.bundle import (
    Bundle,
    is_retryable,
    refusal,
    reply_of_body,
    unasked,
)
from langgraph_hpc_fanout.remote.clients import Help
from langgraph_hpc_fanout.remote.functions import Function
from langgraph_hpc_fanout.remote.node import node_of
from langgraph_hpc_fanout.remote.values import to_json

_GRACE = 1.0
"""Seconds after the deadline in which what is under way is let go of."""
_LOST = {"openai": "APIConnectionError", "httpx": "TransportError", "aiohttp": "ClientError"}
"""How HTTP clients say that a server could not be reached, where that is no OSError."""

Replies = list[dict[str, Any] | None]


def call_all(bundle: Bundle, function: Function) -> list[dict[str, Any]]:
    """The reply to each item of a bundle. Blocks; not to be called on a loop.

    Raises:
        BundleError: If the function needs servers and there are none.
    """
    ends = time.monotonic() + bundle.deadline
    replies: Replies = [None] * len(bundle.requests)
    if bundle.deadline > 0:
        helping = None
        try:
            if function.needs or (function.wants and bundle.servers):
                helping = _wait_for_help(bundle)
        except NoEndpointError as error:
            return [refusal(error.kind, str(error)) for _ in replies]
        calling = Calling(bundle, function, helping, replies)
        calling.work_off(ends - time.monotonic())
        if calling.lost and helping is not None:
            dispatch_loop().submit(_servers_died(bundle))
    return [reply or unasked(bundle.deadline) for reply in replies]


def _wait_for_help(bundle: Bundle) -> Help:
    asked = dispatch_loop().submit(_help(bundle))
    try:
        return asked.result()
    except BaseException:
        asked.cancel()
        raise


async def _help(bundle: Bundle) -> Help:
    """Servers and a model, once there are some. Runs on the dispatch loop."""
    node = node_of(bundle)
    now = node.loop.time()
    until, ends = now + bundle.patience, now + bundle.deadline
    async with node.serving(bundle.model, until, ends) as (servers, model):
        return Help(node.settings, servers.urls_of(model), model, bundle.timeout)


async def _servers_died(bundle: Bundle) -> None:
    node_of(bundle).servers_died()


class Calling:
    """Calls a function for all items, so many at once, each as often as it may be tried.

    Coroutines run on the task loop. A sync call has a thread of its own, because one that hangs
    must not keep the next from beginning.

    Args:
        bundle: The items, and how hard to try.
        function: What to call.
        helping: What it is handed in besides an item, if anything.
        replies: Where replies go.
    """

    def __init__(
        self, bundle: Bundle, function: Function, helping: Help | None, replies: Replies
    ) -> None:
        self.lost = False
        self._bundle = bundle
        self._function = function
        self._helping = helping
        self._replies = replies
        self._open = True
        self._tries = [0] * len(replies)
        self._retry = Retry(attempts=bundle.attempts, timeout=bundle.timeout)
        self._rng = random.Random()

    def work_off(self, seconds: float) -> None:
        """Wait until every item has its reply, or time is up.

        The time is kept here, too: a coroutine function that blocks holds up the task loop.
        """
        asked = task_loop().submit(self._work(max(0.0, seconds)))
        try:
            asked.result(max(0.0, seconds) + 2 * _GRACE)
        except TimeoutError:
            asked.cancel()
        except BaseException:
            asked.cancel()
            raise
        finally:
            self._open = False
        for place, reply in enumerate(self._replies):
            if reply is None and self._tries[place]:
                late = f"Not answered within the {self._bundle.deadline:g} s that its bundle had."
                self._replies[place] = refusal("timeout", late, tries=self._tries[place])

    async def _work(self, seconds: float) -> None:
        window = asyncio.Semaphore(self._bundle.window)
        loop = asyncio.get_running_loop()
        tasks = [
            # A fresh context: items must not see what others leave in theirs.
            loop.create_task(self._item(place, window), context=contextvars.Context())
            for place in range(len(self._replies))
        ]
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_GRACE)

    async def _item(self, place: int, window: asyncio.Semaphore) -> None:
        """Try one item until it has a reply; while it backs off, others have its place."""
        while True:
            async with window:
                self._tries[place] += 1
                tries = self._tries[place]
                began = time.monotonic()
                ended = await self._try(self._bundle.requests[place])
                seconds = time.monotonic() - began
            if isinstance(ended, Mapping):
                self._keep(place, reply_of_body(ended, seconds, tries))
                return
            kind, message = ended
            reply = refusal(kind, message, seconds=seconds, tries=tries)
            if not is_retryable(kind) or tries >= self._bundle.attempts:
                self._keep(place, reply)
                return
            await asyncio.sleep(self._retry.backoff(tries, self._rng))

    async def _try(self, item: Any) -> Mapping[str, Any] | tuple[FailureKind, str]:
        """The body of an answer, or kind and message of a failure."""
        path = self._function.path
        scope = asyncio.timeout(self._bundle.timeout)
        try:
            async with scope:
                value = await self._call(item)
            try:
                return {"value": to_json(value)}
            except TypeError as error:
                return "invalid_output", f"{path} returned what is no JSON data: {error}."
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return self._failed(error)
        except BaseException as error:  # noqa: BLE001 - even a SystemExit is the item's own failure
            if scope.expired() and isinstance(error, TimeoutError):
                return "timeout", f"{path} did not return within {self._bundle.timeout:g} s."
            return self._failed(error)

    async def _call(self, item: Any) -> Any:
        handed = {} if self._helping is None else self._helping.for_one(self._function)
        call = self._function.call
        if self._function.is_async:
            return await call(item, **handed)
        value = await in_thread(lambda: call(item, **handed))
        return await value if inspect.isawaitable(value) else value

    def _failed(self, error: BaseException) -> tuple[FailureKind, str]:
        kind = _kind_of(error)
        self.lost = self.lost or (kind == "transient" and not isinstance(error, OSError))
        said = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        where = _where(error, self._function.file)
        message = f"{self._function.path} raised {said}{where}"
        if self._helping is not None and (key := self._helping.settings.secret()):
            message = message.replace(key, "***")
        return kind, message

    def _keep(self, place: int, reply: dict[str, Any]) -> None:
        if self._open:  # else the result is on its way
            self._replies[place] = reply


async def in_thread(call: Callable[[], Any]) -> Any:
    """What a call in a thread of its own returns or raises."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

    def tell(value: Any, error: BaseException | None) -> None:
        if not ended.done():
            ended.set_result((value, error))

    def work() -> None:
        value, error = None, None
        try:
            value = contextvars.Context().run(call)
        except BaseException as raised:  # noqa: BLE001 - it is raised where it is waited for
            error = raised
        with contextlib.suppress(RuntimeError):  # the process is ending, and so is the loop
            loop.call_soon_threadsafe(tell, value, error)

    threading.Thread(target=work, name="hpc-fanout-function", daemon=True).start()
    value, error = await ended
    if error is not None:
        raise error
    return value


def _kind_of(error: BaseException) -> FailureKind:
    """Whether trying again may help."""
    if isinstance(error, OSError):
        return "transient"
    for module, name in _LOST.items():
        if module in sys.modules and isinstance(error, getattr(sys.modules[module], name)):
            return "transient"
    status = getattr(error, "status_code", None)
    if isinstance(status, int):  # of an HTTP answer, as openai's errors have it
        failure = failure_of(status, b"", "")
        return failure.kind if failure.retryable else "permanent"
    return "permanent"


def _where(error: BaseException, file: str | None) -> str:
    """The line that raised: the last of the function's own file, if there is one."""
    raised = traceback.extract_tb(error.__traceback__)
    frames = [each for each in raised if each.filename != __file__]
    own = [each for each in frames if each.filename == file] or frames
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
