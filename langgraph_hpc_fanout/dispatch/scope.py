"""What is asked for the sake of a call that cannot itself be stopped, and ends with it.

A thread that a run has given up goes on with what it is at. So that it asks for nothing more, and
does not wait for what nobody wants, a chat model asks within the scope of the call it is part of.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from langgraph_hpc_fanout.dispatch.loop import dispatch_loop
from langgraph_hpc_fanout.records import ChatError, Failure

T = TypeVar("T")

_CANCELLED = Failure("cancelled", "The run that this call was part of has ended.")


class Scope:
    """Requests of one call. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: set[Future[Any]] = set()
        self._cancelled = False

    def wait_for(self, asking: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the dispatch loop and wait for it.

        Raises:
            ChatError: If the scope was cancelled, before or meanwhile.
        """
        with self._lock:
            if self._cancelled:
                asking.close()
                raise ChatError(_CANCELLED)
            asked = dispatch_loop().submit(asking)
            self._asked.add(asked)
        try:
            return asked.result()
        except BaseException as error:
            asked.cancel()  # after Ctrl-C nobody waits for it
            if self._cancelled:
                raise ChatError(_CANCELLED) from error
            raise
        finally:
            self._asked.discard(asked)

    def cancel(self) -> None:
        """Ask for nothing more, and let go who waits."""
        with self._lock:
            self._cancelled = True
            asked = tuple(self._asked)
        for future in asked:
            future.cancel()


_current: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("scope", default=None)


def current_scope() -> Scope:
    """The scope of the call that is running here; outside of any, one of its own."""
    return _current.get() or Scope()


def context_of(scope: Scope) -> contextvars.Context:
    """A fresh context in which a scope is the current one."""
    context = contextvars.Context()
    context.run(_current.set, scope)
    return context
