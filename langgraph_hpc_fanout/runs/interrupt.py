"""Ctrl-C in sync `invoke` and `stream`.

LangGraph waits for all branches before it lets a KeyboardInterrupt out, so somebody has to tell
the run, or it would be finished, and paid for, first. No node of ours runs on the main thread
then, and only that thread may set signal handlers. But any thread may look at which exception the
main thread is busy with: a run looks four times a second. In `ainvoke` nothing is needed, because
asyncio cancels the branches.
"""

from __future__ import annotations

import sys
import threading
from types import FrameType


class InterruptWatch:
    """Notices a KeyboardInterrupt that gets the main thread out of a graph.

    One that the main thread was handling before, such as when a program resumes a graph in its
    `except KeyboardInterrupt:` block, does not count.
    """

    __slots__ = ("_earlier",)

    def __init__(self) -> None:
        self._earlier = _main_threads_exception()

    def interrupted(self) -> bool:
        """Whether such an interrupt is waiting for the branches to end."""
        exception = _main_threads_exception()
        return (
            isinstance(exception, KeyboardInterrupt)
            and exception is not self._earlier
            and _main_thread_is_in_a_graph()
        )


def _main_threads_exception() -> BaseException | None:
    """The exception that the main thread is handling."""
    found: object
    found = sys._current_exceptions().get(threading.main_thread().ident or 0)  # noqa: SLF001
    if isinstance(found, tuple):  # until Python 3.11: type, value, traceback
        found = found[1]
    return found if isinstance(found, BaseException) else None


def _main_thread_is_in_a_graph() -> bool:
    frame: FrameType | None
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith("langgraph."):
            return True
        frame = frame.f_back
    return False
