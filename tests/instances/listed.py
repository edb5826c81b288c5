"""Readings of lists, for tests."""

from __future__ import annotations

from langgraph_hpc_fanout.instances.instance import Instance, Reading


def of(*names, tags=(), **rest):
    """A reading that lists these."""
    listed = tuple(Instance(name, f"http://{name}/v1", frozenset(tags)) for name in names)
    return Reading(listed, **rest)
