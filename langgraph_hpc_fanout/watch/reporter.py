"""Who is told of a run's progress: the stream of one live branch, and the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from langgraph_hpc_fanout.watch.progress import Progress

logger = logging.getLogger("langgraph_hpc_fanout")

Writer = Callable[[Mapping[str, Any]], None]


class Reporter:
    """Shows progress through whichever writer is there.

    LangGraph drops what is written after a branch has ended, so events go through the writer of
    a branch that still waits.

    Args:
        progress: The counts.
        in_flight: How many requests are under way.
    """

    def __init__(self, progress: Progress, in_flight: Callable[[], int]) -> None:
        self._progress = progress
        self._in_flight = in_flight
        self._writers: dict[int, Writer] = {}
        self._shown: tuple[int, int] | None = None

    def join(self, number: int, writer: Writer) -> None:
        """A branch waits and can be written through. Safe from any thread."""
        self._writers[number] = writer

    def leave(self, number: int) -> None:
        """The branch has ended. Safe from any thread."""
        self._writers.pop(number, None)

    def show(self, *, final: bool = False) -> None:
        """Write an event if anything has changed, and a log line if it is time for one."""
        in_flight = self._in_flight()
        self._progress.log_line(in_flight, final=final)
        state = (self._progress.done, in_flight)
        writer = next(iter(self._writers.copy().values()), None)
        if writer is None or (state == self._shown and not final):
            return
        self._shown = state
        try:
            writer(self._progress.event(in_flight))
        except Exception:
            logger.debug("A progress event was not delivered", exc_info=True)
