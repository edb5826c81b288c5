"""The benchmarks, one a module: its docstring says what is compared and why, `run` measures it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType

from benchmarks.cases import (
    balancing,
    checkpoints,
    choosing,
    fleet,
    globus,
    imports,
    in_flight,
    journal,
    million,
    orders,
    overhead,
    peers,
    scaling,
    scheduler,
    tasks,
    ten_million,
    width,
)
from benchmarks.findings import Findings, Scale

_MODULES: tuple[ModuleType, ...] = (
    overhead,
    peers,
    tasks,
    scaling,
    million,
    ten_million,
    checkpoints,
    journal,
    width,
    in_flight,
    scheduler,
    balancing,
    choosing,
    orders,
    imports,
    globus,
    fleet,
)

CASES: Mapping[str, Callable[[Scale], Findings]] = {
    module.__name__.rpartition(".")[2]: module.run for module in _MODULES
}
"""What to run, by name, in the order of the report."""

ON_REQUEST = ("ten_million",)
"""What takes too long to be run unless it is named."""

TEXTS: Mapping[str, str] = {
    module.__name__.rpartition(".")[2]: module.__doc__ or "" for module in _MODULES
}
"""What is compared and why, by name: a title, an empty line, and paragraphs."""
