"""For users, too: fake and small real servers, virtual time, the endpoint conformance suite.

`FakeFleet`, `FirstFake`, `scripted`, `LocalLLM` and `GlobusStack` resolve when they are first
used: they need packages of their extras.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langgraph_hpc_fanout.testing.first import FirstFake
    from langgraph_hpc_fanout.testing.fleet import FakeFleet, scripted
    from langgraph_hpc_fanout.testing.globus import GlobusStack
    from langgraph_hpc_fanout.testing.local_llm import LocalLLM

_HOMES = {
    "FakeFleet": "fleet",
    "FirstFake": "first",
    "GlobusStack": "globus",
    "LocalLLM": "local_llm",
    "scripted": "fleet",
}

__all__ = ["FakeFleet", "FirstFake", "GlobusStack", "LocalLLM", "scripted"]


def __getattr__(name: str) -> Any:
    if (home := _HOMES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
