"""Background threads with an event loop each: one for all pools of a process, one for tasks.

Nodes are called from many threads (sync `invoke`) and from foreign loops (`ainvoke`,
notebooks, servers). Connections, limiters and timers belong to a loop, so they all live on the
dispatch loop, and callers only wait for its results. A user's coroutine functions never run
there; in sync code, where LangGraph has no loop, they run on the task loop.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")

_CLOSING_SECONDS = 2.0


class LoopThread:
    """A daemon thread that runs an event loop until the interpreter exits.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._stopping = False
        self._at_exit: list[Callable[[], Awaitable[None]]] = []
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_current_thread(self) -> bool:
        """Whether the caller runs on this loop's thread."""
        return threading.current_thread() is self._thread

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine on the loop, from any thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def wait_for(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for it.

        Raises:
            RuntimeError: If called on the loop's own thread, where it would wait for itself.
        """
        if self.is_current_thread:
            coroutine.close()
            raise RuntimeError(
                f"Something was called synchronously on the thread {self._thread.name}, where it "
                "would wait for itself for ever; use its async form there."
            )
        return self.submit(coroutine).result()

    def at_exit(self, close: Callable[[], Awaitable[None]]) -> None:
        """Have something closed on the loop before the interpreter exits."""
        self._at_exit.append(close)

    def forget(self, close: Callable[[], Awaitable[None]]) -> None:
        """Take back what `at_exit` was given."""
        if close in self._at_exit:
            self._at_exit.remove(close)

    def stop(self) -> None:
        """Close what was registered, then end the thread."""
        closing = self.submit(self._close_all())
        try:
            closing.result(_CLOSING_SECONDS)
        except TimeoutError:
            closing.cancel()
        self._stopping = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_CLOSING_SECONDS)

    async def _close_all(self) -> None:
        await asyncio.gather(*(close() for close in self._at_exit), return_exceptions=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._stopping:
            # A task that raises SystemExit stops its loop; whoever awaits it is told as well.
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self.loop.run_forever()
        self.loop.close()


_DISPATCH = "hpc-fanout-dispatch"
_TASKS = "hpc-fanout-tasks"

_lock = threading.Lock()
_threads: dict[str, LoopThread] = {}
_inherited: list[LoopThread] = []


def dispatch_loop() -> LoopThread:
    """The process's dispatch loop, started when first wanted."""
    return _thread(_DISPATCH)


def task_loop() -> LoopThread:
    """The loop for users' coroutine functions in sync code, started when first wanted."""
    return _thread(_TASKS)


def is_loop_thread() -> bool:
    """Whether the caller would hold up one of the two loops by waiting."""
    return any(thread.is_current_thread for thread in list(_threads.values()))


def _thread(name: str) -> LoopThread:
    with _lock:
        if (thread := _threads.get(name)) is None:
            thread = _threads[name] = LoopThread(name)
            atexit.register(_stop, thread)
        return thread


def _stop(thread: LoopThread) -> None:
    # A forked child inherits its parent's exit handlers, but not the thread.
    if thread in _threads.values():
        thread.stop()


def _after_fork() -> None:
    """Start afresh in a forked child: the threads are gone, the lock may be held by one."""
    global _lock
    _lock = threading.Lock()
    # Kept for ever: collecting them would close sockets that the parent uses.
    _inherited.extend(_threads.values())
    _threads.clear()


os.register_at_fork(after_in_child=_after_fork)
