"""What a run needs of whoever works on its items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from langgraph_hpc_fanout.runs.reading import Place, Reader


class Work(Protocol):
    """How some or all variants of a run's items are worked on: asked through a pool, or called."""

    reader: Reader
    """What hands out its places."""
    variants: Sequence[int]
    """Numbers of the variants whose places those are."""

    @property
    def in_flight(self) -> int:
        """How many are under way."""
        ...

    @property
    def waiting_for(self) -> str | None:
        """Why nothing can be under way now, in words, while it waits for somebody to come."""
        ...

    async def start(self) -> None:
        """Begin; nothing is under way before."""
        ...

    def refresh(self) -> None:
        """There are more items."""
        ...

    def look_up(self, place: Place) -> None:
        """Settle a place whose outcome is known, or cannot be asked for; ask nothing."""
        ...

    def pause(self) -> None:
        """Begin nothing more for now; what is under way goes on."""
        ...

    def go_on(self) -> None:
        """End a pause."""
        ...

    def stop(self) -> None:
        """Begin nothing more, cancel what is under way."""
        ...
