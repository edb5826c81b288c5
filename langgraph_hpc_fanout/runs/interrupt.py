"""Ctrl-C in sync `invoke`.

LangGraph waits for all branches before it raises KeyboardInterrupt, so the run itself must be
cancelled by the signal. The handler is set by the router, which runs on the main thread, and
taken back when the run is over; it hands the signal on to the handler that was there before.
In `ainvoke` nothing is needed: asyncio cancels the branches.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from langgraph_hpc_fanout.runs.registry import registry

_previous: Any = None
_installed = False


def cancel_on_ctrl_c() -> None:
    """Cancel live runs on SIGINT, if this is the main thread and SIGINT is not ignored."""
    global _previous, _installed
    if threading.current_thread() is not threading.main_thread():
        return
    current = signal.getsignal(signal.SIGINT)
    if current is _handle or current is signal.SIG_IGN or current is None:
        return
    _previous, _installed = current, True
    signal.signal(signal.SIGINT, _handle)


def restore() -> None:
    """Put the previous handler back, if this is the main thread and ours is in place."""
    global _previous, _installed
    if not _installed or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is _handle:
        signal.signal(signal.SIGINT, _previous)
    _previous, _installed = None, False


def _handle(number: int, frame: FrameType | None) -> None:
    previous = _previous
    restore()
    registry.cancel_all("Interrupted (Ctrl-C).")
    if callable(previous):
        previous(number, frame)
    else:
        signal.raise_signal(number)
