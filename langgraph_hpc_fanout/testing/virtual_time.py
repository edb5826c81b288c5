"""Virtual time: an event loop that never waits, so that hours pass in seconds.

When nothing is left to do until the next timer, the loop's clock jumps there. What runs on it
is the very code that runs in production, and it takes the same course every time.

```python
async def nap() -> float:
    await asyncio.sleep(3600)
    return asyncio.get_running_loop().time()

assert run(nap) == 3600.0
```

Real time and virtual time do not mix: a socket, a process or a thread would take no time at
all, or all the time there is. The loop refuses them rather than guess; `asyncio.sleep`, locks,
events, queues, timeouts and tasks are what it is for.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import selectors
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, Never, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_TICK = 1e-6
"""Least seconds that a timer takes. Code that sleeps away a rounding error (a rate limiter
that lacks 1e-17 of a request) would otherwise find the clock where it was, for ever."""
_DUE = 1e-9
"""Seconds ahead of which asyncio takes a timer for due: its clock's resolution."""
_SHOWN = 8


class DeadlockError(RuntimeError):
    """Every task waits for another, and no timer is set: a real loop would hang for ever."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time starts at 0 and passes only while everything sleeps.

    A timer costs about 10 µs, whatever its length. Timers ring in the order of their times.

    Raises:
        DeadlockError: While running, when nothing is ready and no timer is set.
        RuntimeError: When asked for threads, or for I/O with a file descriptor.
    """

    def __init__(self) -> None:
        self._clock = _Clock(self)
        self._owner = threading.get_ident()
        super().__init__(self._clock)
        self._clock.sealed = True

    def __repr__(self) -> str:
        return f"<VirtualTimeLoop at {self.time():.6f} s>"

    def time(self) -> float:
        """Seconds of virtual time since the loop was made."""
        return self._clock.now

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back at a time, at least a microsecond from now."""
        when = max(when, self._clock.now + _TICK)
        return super().call_at(when, callback, *args, context=context)

    def call_soon_threadsafe(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """`call_soon`, on the loop's own thread; no other has a place in its time."""
        if threading.get_ident() != self._owner:
            _refuse("Another thread calls into the loop")
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Refuse: the loop's clock would run away while the thread works."""
        _refuse("Something is to run in a thread")

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Never:
        """Refuse, as for threads."""
        _refuse("A process is to be started")

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Never:
        """Refuse, as for threads."""
        _refuse("A process is to be started")


class _Clock(selectors.SelectSelector):
    """A selector that lets time pass instead of waiting."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self.now = 0.0
        self.sealed = False
        self._loop = loop

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Take in the loop's own pipe, and nothing after it."""
        if self.sealed:
            _refuse(f"File descriptor {fileobj} is to be watched")
        return super().register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Nothing, after `timeout` seconds of virtual time."""
        if timeout is None:
            raise DeadlockError(_deadlock(self._loop))
        if timeout > 0:
            self.now += timeout
            if self.now + _DUE == self.now:  # after half a year a float is too coarse for it
                self.now = math.nextafter(self.now, math.inf)
        return []


def run(work: Coroutine[Any, Any, T] | Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end in virtual time, on a loop of its own.

    Tasks that it leaves behind are cancelled, and the loop is closed.

    Args:
        work: A coroutine, or a function that makes one.

    Raises:
        DeadlockError: If it would never end because everything waits.
        RuntimeError: If an event loop is running already, as in an async test.
    """
    if _in_a_loop():
        raise RuntimeError("A loop is running already; call run() from a plain function or test.")
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work() if callable(work) else work)


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _refuse(what: str) -> Never:
    raise RuntimeError(f"{what}, but virtual time has neither threads nor I/O: run this for real.")


def _deadlock(loop: asyncio.AbstractEventLoop) -> str:
    waiting = sorted(_place(task) for task in asyncio.all_tasks(loop))
    shown = waiting[:_SHOWN]
    if len(waiting) > _SHOWN:
        shown.append(f"and {len(waiting) - _SHOWN} more")
    return "\n  ".join(
        [f"At {loop.time():.6f} s of virtual time every task waits and no timer is set:", *shown]
    )


def _place(task: asyncio.Task[Any]) -> str:
    stack = task.get_stack(limit=1)
    if not stack:
        return task.get_name()
    code = stack[0].f_code
    return f"{task.get_name()}: {code.co_qualname}, {code.co_filename}:{stack[0].f_lineno}"
