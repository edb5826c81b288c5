"""What workers are asked to do by the benchmarks of Globus Compute."""

from __future__ import annotations

from typing import Any


def nothing(_: Any) -> str:
    """The least that can be done for an item."""
    return "done"
