"""Progress events for displays."""

from __future__ import annotations


def event(**fields):
    """The event of a run that is half done; fields replace its own."""
    return {
        "type": "hpc_fanout.progress",
        "v": 1,
        "node": "screen",
        "run": "run-1",
        "total": 10,
        "done": 5,
        "ok": 4,
        "failed": {"timeout": 1},
        "cached": 1,
        "in_flight": 2,
        "seconds": 8.0,
        "remaining_seconds": 10.0,
        "tokens": {"prompt": 40, "completion": 120},
        "endpoints": {"a": 3, "b": 1},
        **fields,
    }


def new_run(**fields):
    """The event of a run that has just begun."""
    nothing = {"done": 0, "ok": 0, "failed": {}, "cached": 0, "endpoints": {}, "seconds": 0.0}
    none_spent = {"tokens": {"prompt": 0, "completion": 0}, "remaining_seconds": None}
    return event(**nothing, **none_spent, **fields)
