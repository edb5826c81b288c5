"""Outcomes for tests of what is done with them."""

from __future__ import annotations

from langgraph_hpc_fanout import Failure, Outcome


def good(index, value, **more):
    return Outcome(f"k{index}", index, ok=True, value=value, **more)


def bad(index, kind="permanent", **more):
    return Outcome(f"k{index}", index, ok=False, error=Failure(kind, "no"), **more)


MIXED = [good(0, "a"), bad(1), good(2, "c")]
