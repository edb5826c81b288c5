"""What every display can do, and when it begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

Event = Mapping[str, Any]
"""A progress event; its fields are documented in docs/progress.md."""

QUIET_SECONDS = 0.5
"""Runs that are shorter are not drawn."""


class Display(Protocol):
    """Shows one run. It is called on the dispatch thread, so it must not block."""

    def show(self, event: Event) -> None:
        """The run stands there; called a few times a second."""

    def close(self, event: Event) -> None:
        """The run has ended there."""
