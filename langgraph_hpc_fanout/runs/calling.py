"""Calls a Runnable or a function for each item of a run, where LangGraph called the node.

In `ainvoke` that is the caller's event loop: a task may hold locks and sessions of it. In `invoke`
it is a thread for each call, or the task loop for coroutine functions. Plain functions get a
thread in both, because they may block. Each call has a fresh `contextvars.Context`, with the
public part of the branch's config only: with LangGraph's own, graphs as tasks would share
checkpoints and swap answers on resume.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import (
    BaseCallbackManager,
    Callbacks,
    UsageMetadataCallbackHandler,
)
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp, GraphInterrupt

from langgraph_hpc_fanout.dispatch.loop import dispatch_loop, task_loop
from langgraph_hpc_fanout.dispatch.scope import Scope, context_of
from langgraph_hpc_fanout.items.source import BadRow
from langgraph_hpc_fanout.records import NOTHING, ChatError, Failure, Outcome, Usage
from langgraph_hpc_fanout.runs.answers import ASKED
from langgraph_hpc_fanout.tasks.runnable import RunnableTask
from langgraph_hpc_fanout.tasks.values import to_json

if TYPE_CHECKING:
    from langgraph_hpc_fanout.runs.reading import Place
    from langgraph_hpc_fanout.runs.run import Run
    from langgraph_hpc_fanout.runs.shard import Shard

logger = logging.getLogger("langgraph_hpc_fanout")

TASK_CONCURRENCY = 64
_LOOKED_AT = 512
"""Most items looked at in a row when the journal answers them all, before others may run."""
_SPARE_THREADS = 4
"""Threads for each one wanted that may be stuck in calls whose time was up."""
_LANGGRAPHS = {"thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map", "run_id"}
"""LangGraph's own configurable keys, besides those that begin with two underscores."""
_INTERRUPT = (
    "it interrupted, and a fan-out cannot wait for a person; interrupt before or after the fan-out"
)


@dataclass(frozen=True, slots=True)
class Call:
    """One place that is to be filled by a call."""

    shard: Shard
    offset: int
    key: str
    asked: str | None
    input: Any
    config: RunnableConfig


class Calling:
    """Keeps up to so many calls under way. Lives half on the dispatch loop, half on the host.

    Args:
        run: Whose items they are.
        task: What to call.
        host: The event loop on which LangGraph called the node; None in sync code.
        config: The settings of the branch that came first.
    """

    def __init__(
        self,
        run: Run,
        task: RunnableTask,
        host: asyncio.AbstractEventLoop | None,
        config: RunnableConfig,
    ) -> None:
        plan = run.plan
        self.variants: Sequence[int] = (0,)
        self.reader = run.reader(self.variants, self.refresh)
        self._run = run
        self._task = task
        self._deadline = plan.item_deadline
        self._host = host or task_loop().loop
        wished = TASK_CONCURRENCY if plan.task_concurrency is None else plan.task_concurrency
        self._most = wished if plan.concurrency is None else min(wished, plan.concurrency)
        self._threads: ThreadPoolExecutor | None = None
        if task.in_thread or (host is None and not task.only_async):
            most = self._most * (1 + _SPARE_THREADS)
            self._threads = ThreadPoolExecutor(most, thread_name_prefix=f"{plan.name}-task")
            self._free_threads = most
        self._paused = False  # read by both, and no harm when that is late
        # On the dispatch loop
        self._handed_over = 0
        self._config = config
        # On the host
        self._ahead: deque[Call] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._stopped = False
        # On the way back
        self._done: deque[tuple[Call, Outcome]] = deque()
        self._collecting = False

    @property
    def waiting_for(self) -> str | None:
        """Nobody: what calls wait for is theirs."""
        return None

    @property
    def in_flight(self) -> int:
        """How many calls are under way, or their outcomes on the way back."""
        return len(self._under_way) + len(self._done)

    # -- on the dispatch loop -------------------------------------------------------------

    async def start(self) -> None:
        """Begin."""
        self.refresh()

    def refresh(self) -> None:
        """Hand more calls to the host: enough to keep it busy, few enough to keep in memory."""
        if self._paused:
            return
        calls = []
        for _ in range(_LOOKED_AT):
            if self._handed_over >= 2 * self._most or (place := self.reader.take()) is None:
                break
            if (call := self._run.guard(self._call_for, place)) is not None:
                self._handed_over += 1
                calls.append(call)
        else:
            asyncio.get_running_loop().call_soon(self.refresh)
        if calls:
            self._on_host(self._accept, calls)

    def look_up(self, place: Place) -> None:
        """Settle a place whose outcome is known, or cannot be asked for; call nothing."""
        self._call_for(place)

    def pause(self) -> None:
        """Begin nothing more for now."""
        self._paused = True

    def go_on(self) -> None:
        """Begin again."""
        self._paused = False
        self._on_host(self._begin)
        self.refresh()

    def stop(self) -> None:
        """Begin nothing more, cancel what is under way; threads end when they have answered."""
        self._on_host(self._cancel)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _call_for(self, place: Place) -> Call | None:
        """The call for a place, or None when its outcome comes without one."""
        shard, offset, item, key, asked = place
        if isinstance(item, BadRow):
            self._run.refuse(place, Failure("permanent", item.reason))
            return None
        if isinstance(key, Exception):
            self._run.cannot_ask(place, key)
            return None
        assert key is not None  # noqa: S101 - the plan sees to it
        # Without a journal, equal items of a function that throws dice are thrown for each.
        has_journal = self._run.plan.journal is not None
        if has_journal and self._run.known(place, key, asked, lambda _: True):
            return None
        given = self._task.input(item, self._run.shared)
        # In sync code branches come a few at a time, so some items are called before their own.
        return Call(shard, offset, key, asked, given, shard.config or self._config)

    def _collect(self) -> None:
        self._collecting = False  # before the look, so that nothing that comes later is left
        while self._done:
            call, outcome = self._done.popleft()
            self._handed_over -= 1
            if not self._run.closed:
                self._run.guard(self._run.record, call.shard, call.offset, outcome)
        self.refresh()

    def _on_host(self, function: Callable[..., Any], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the host's loop was closed: nobody waits
            self._host.call_soon_threadsafe(function, *args)

    # -- on the host ----------------------------------------------------------------------

    def _accept(self, calls: list[Call]) -> None:
        self._ahead.extend(calls)
        self._begin()

    def _begin(self) -> None:
        while self._ahead and self._has_room():
            call = self._ahead.popleft()
            task = self._host.create_task(
                self._answer(call), context=contextvars.Context(), name=self._task.name
            )
            self._under_way.add(task)
            task.add_done_callback(self._ended)

    def _has_room(self) -> bool:
        is_held = self._paused or self._stopped or len(self._under_way) >= self._most
        return not is_held and (self._threads is None or self._free_threads > 0)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            why = f"A fault in the fan-out {self._run.plan.name}: {error!r}"
            dispatch_loop().loop.call_soon_threadsafe(self._run.fail, why)
        self._begin()

    def _cancel(self) -> None:
        self._stopped = True
        self._ahead.clear()
        for task in self._under_way:
            task.cancel()

    async def _answer(self, call: Call) -> None:
        """Make a call and send its outcome back."""
        began = time.monotonic()
        tokens = UsageMetadataCallbackHandler()
        config = _detached(call.config, tokens)
        try:
            async with asyncio.timeout(self._deadline) as scope:
                value = _checked(await self._make(call, config))
            fields = {"ok": True, "value": value}
        except GraphInterrupt:
            fields = self._failed(call, Failure("permanent", _INTERRUPT))
        except GraphBubbleUp as error:
            dispatch_loop().loop.call_soon_threadsafe(self._run.bubble, error)
            return
        except asyncio.CancelledError:
            if self._stopped:
                raise
            fields = self._failed(call, Failure("cancelled", "it was cancelled from within"))
        except TimeoutError as error:
            failure = Failure("timeout", _raised(error))
            if scope.expired():
                failure = Failure("timeout", f"it took more than {self._deadline:g} s")
            fields = self._failed(call, failure)
        except BaseException as error:
            if self._is_callers_own(error):
                raise
            # The user's code, which may raise anything: an item's failure is data.
            logger.debug("Item %d", call.shard.index(call.offset), exc_info=True)
            fields = self._failed(call, _failure_of(error))
        model, usage = _usage(tokens)
        outcome = call.shard.outcome(
            call.key,
            call.offset,
            attempts=1,
            latency=time.monotonic() - began,
            model=model,
            usage=usage,
            meta=NOTHING if call.asked is None else {ASKED: call.asked},
            **fields,
        )
        self._send_back(call, outcome)

    def _is_callers_own(self, error: BaseException) -> bool:
        """Whether it is Ctrl-C, or an exit, on the caller's own event loop."""
        is_exit = isinstance(error, KeyboardInterrupt | SystemExit)
        return is_exit and self._threads is None and self._host is not task_loop().loop

    async def _make(self, call: Call, config: RunnableConfig) -> Any:
        if self._threads is None:
            return await self._task.ainvoke(call.input, config)
        scope = Scope()
        work = partial(_caught, self._task.invoke, call.input, config)
        try:
            made = self._threads.submit(context_of(scope).run, work)
        except RuntimeError:  # the interpreter is ending, and starts no thread any more
            self._stopped = True
            why = "The program ended before the run did."
            dispatch_loop().loop.call_soon_threadsafe(self._run.fail, why)
            raise asyncio.CancelledError from None
        self._free_threads -= 1
        made.add_done_callback(lambda _: self._on_host(self._free_thread))
        try:
            value, error = await asyncio.wrap_future(made)
        finally:
            scope.cancel()
        if error is not None:
            raise error
        return value

    def _free_thread(self) -> None:
        self._free_threads += 1
        self._begin()

    def _send_back(self, call: Call, outcome: Outcome) -> None:
        error = outcome.error
        if error is not None and error.kind == "auth":
            dispatch_loop().loop.call_soon_threadsafe(self._run.fail, error.message)
            return
        self._done.append((call, outcome))
        if not self._collecting:
            self._collecting = True
            dispatch_loop().loop.call_soon_threadsafe(self._collect)

    def _failed(self, call: Call, failure: Failure) -> dict[str, Any]:
        index = call.shard.index(call.offset)
        message = f"{self._task.name} failed for item {index}: {failure.message.rstrip('.')}."
        error = Failure(failure.kind, message, failure.status, failure.retryable, failure.endpoint)
        return {"ok": False, "error": error}


def _caught(function: Callable[..., Any], *args: Any) -> tuple[Any, BaseException | None]:
    """What it returns or raises; as data, because no future takes a StopIteration."""
    try:
        return function(*args), None
    except StopIteration as error:
        return None, RuntimeError(f"StopIteration: {error}")
    except BaseException as error:  # noqa: BLE001 - told to who waits
        return None, error


class _NoJsonError(TypeError):
    """A task returned what cannot be kept."""


def _checked(value: Any) -> Any:
    """The value as JSON data.

    Raises:
        GraphInterrupt: If a graph without a checkpointer says that it was interrupted.
        _NoJsonError: If it cannot be kept.
    """
    if isinstance(value, Mapping) and value.get("__interrupt__"):
        raise GraphInterrupt
    if inspect.iscoroutine(value):
        value.close()
        raise _NoJsonError("a coroutine; make the task an async function")
    try:
        return to_json(value)
    except TypeError as error:
        raise _NoJsonError(str(error)) from None


def _failure_of(error: BaseException) -> Failure:
    if isinstance(error, ChatError):
        return error.failure
    if isinstance(error, _NoJsonError):
        message = f"it returned what cannot be kept: {error}; return dicts, lists, texts, numbers"
        return Failure("invalid_output", message)
    return Failure("permanent", _raised(error))


def _raised(error: BaseException) -> str:
    if _is_interrupt(error):
        return _INTERRUPT
    said = f"it raised {type(error).__name__}: {error}".removesuffix(": ")
    return f"{said} ({_where(error)})"


def _where(error: BaseException) -> str:
    """File and line of the innermost frame: what a traceback would end with."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    return f"{Path(frame.f_code.co_filename).name}, line {line}"


def _is_interrupt(error: BaseException) -> bool:
    """Whether it was raised by `interrupt()`, called where there is no graph of its own."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    module, function = frame.f_globals.get("__name__"), frame.f_code.co_name
    return (module, function) == ("langgraph.types", "interrupt")


def _detached(config: RunnableConfig, tokens: UsageMetadataCallbackHandler) -> RunnableConfig:
    """The public part of a branch's config, with a counter of tokens."""
    detached: RunnableConfig = {"callbacks": _with_handler(config.get("callbacks"), tokens)}
    if tags := config.get("tags"):
        detached["tags"] = list(tags)
    if metadata := config.get("metadata"):
        detached["metadata"] = dict(metadata)
    configurable = config.get("configurable") or {}
    users = {name: value for name, value in configurable.items() if not _is_langgraphs(name)}
    if users:
        detached["configurable"] = users
    return detached


def _is_langgraphs(name: str) -> bool:
    return name in _LANGGRAPHS or name.startswith("__")


def _with_handler(callbacks: Callbacks, handler: UsageMetadataCallbackHandler) -> Callbacks:
    if isinstance(callbacks, BaseCallbackManager):
        manager = callbacks.copy()
        manager.add_handler(handler, inherit=True)
        return manager
    return [*(callbacks or ()), handler]


def _usage(tokens: UsageMetadataCallbackHandler) -> tuple[str | None, Usage | None]:
    """The model that was asked, where it was one, and the tokens of all."""
    by_model = tokens.usage_metadata
    if not by_model:
        return None, None
    used = by_model.values()
    usage = Usage(
        sum(each["input_tokens"] for each in used), sum(each["output_tokens"] for each in used)
    )
    return (next(iter(by_model)) if len(by_model) == 1 else None), usage
