"""Servers on an event loop of their own, in a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import uvloop

PATIENCE = 30.0
"""Seconds that a thread may take to start, to stop, or to do what it is asked."""
_MOST_FILES = 65_536

_T = TypeVar("_T")
_Ready = TypeVar("_Ready")


class ServerThread(ABC, Generic[_Ready]):
    """Serves in a thread, until it is told to stop.

    Args:
        name: The thread's.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event

    def start(self) -> _Ready:
        """Start to serve; returns what `_serve` is ready with."""
        allow_many_files()
        ready: Future[_Ready] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name=self._name, daemon=True
        )
        self._thread.start()
        try:
            return ready.result(PATIENCE)
        except BaseException:
            self._thread.join(PATIENCE)
            raise

    def stop(self) -> None:
        """Stop and leave nothing behind."""
        if self._thread is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(PATIENCE)
            self._thread = None

    @abstractmethod
    async def _serve(self, ready: Future[_Ready]) -> None:
        """Serve until `_stopping` is set; `ready` is told where, or why it cannot be."""

    def _call(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Do something on the servers' loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(PATIENCE)

    def _run(self, ready: Future[_Ready]) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._begin(ready))

    async def _begin(self, ready: Future[_Ready]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        await self._serve(ready)


def allow_many_files() -> None:
    """Let this process hold 10,000 connections: raise the soft limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
