"""Python's garbage collector, asked to look less often while runs are live.

A run makes hundreds of short-lived objects an item and next to no cycles. With the default
thresholds the collector goes over all of LangGraph's heap again and again and finds nothing:
nearly half of the CPU time of a run over HTTP (benchmarks/cases/overhead.py).
"""

from __future__ import annotations

import gc
import os
import threading

_RELAXED = (50_000, 20, 100)

_lock = threading.Lock()
_live = 0
_before: tuple[int, int, int] | None = None


def relax() -> None:
    """A run begins. Thresholds that are higher already, or a disabled collector, stay."""
    global _live, _before
    with _lock:
        _live += 1
        current = gc.get_threshold()
        if _live == 1 and gc.isenabled() and 0 < current[0] < _RELAXED[0]:
            _before = current
            gc.set_threshold(*_RELAXED)


def restore() -> None:
    """A run has ended; after the last, thresholds are as before, unless somebody set others."""
    global _live, _before
    with _lock:
        _live -= 1
        if _live == 0 and _before is not None:
            if gc.get_threshold() == _RELAXED:
                gc.set_threshold(*_before)
            _before = None


def _after_fork() -> None:
    """The parent's runs are not the child's."""
    global _lock, _live
    _lock = threading.Lock()
    if _live:
        _live = 1
        restore()


os.register_at_fork(after_in_child=_after_fork)
