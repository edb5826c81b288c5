"""Ctrl-C in sync `invoke` and `stream`, and streams that are closed early.

LangGraph waits for all branches before it lets a KeyboardInterrupt out, so somebody has to tell
the run, or it would be finished, and paid for, first. No node of ours runs on the main thread
then, and only that thread may set signal handlers. But any thread may look at which exception the
main thread is busy with: a run looks four times a second. In `ainvoke` nothing is needed, because
asyncio cancels the branches.

Where Ctrl-C hits the caller's code between two steps of a graph, or the caller leaves a stream
before its end, the graph itself only sees its generator being closed.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = "Interrupted (Ctrl-C, or its stream was closed)."


class InterruptWatch:
    """Notices that the main thread is leaving the graph, and waits for its branches to end.

    A KeyboardInterrupt that the main thread was handling before, such as when a program resumes
    a graph in its `except KeyboardInterrupt:` block, does not count; nor does the closing of
    another graph's stream. One that comes later ends the runs of other threads, too: which
    thread Ctrl-C was meant for cannot be told, and a run that goes on costs more.
    """

    __slots__ = ("_earlier", "_stream")

    def __init__(self) -> None:
        self._earlier = _main_threads_exception()
        self._stream = next(filter(_is_generator, _main_threads_graphs()), None)

    def interrupted(self) -> bool:
        """Whether it is leaving now."""
        exception = _main_threads_exception()
        if exception is None or exception is self._earlier:
            return False
        if isinstance(exception, KeyboardInterrupt):
            return any(_main_threads_graphs())
        return (
            isinstance(exception, GeneratorExit)
            and self._stream is not None
            and any(frame is self._stream for frame in _main_threads_graphs())
        )


def _main_threads_exception() -> BaseException | None:
    """The exception that the main thread is handling."""
    found: object
    found = sys._current_exceptions().get(threading.main_thread().ident or 0)  # noqa: SLF001
    if isinstance(found, tuple):  # until Python 3.11: type, value, traceback
        found = found[1]
    return found if isinstance(found, BaseException) else None


def _main_threads_graphs() -> Iterator[FrameType]:
    """LangGraph's frames on the main thread's stack, outermost first."""
    frame: FrameType | None
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001
    frames = []
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith("langgraph."):
            frames.append(frame)
        frame = frame.f_back
    return reversed(frames)


def _is_generator(frame: FrameType) -> bool:
    return bool(frame.f_code.co_flags & inspect.CO_GENERATOR)
