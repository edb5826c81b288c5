"""Who is told of a run's progress: the stream of one live branch, the log, and people."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from langgraph_hpc_fanout.watch.display.choice import choose
from langgraph_hpc_fanout.watch.display.lines import LogLines
from langgraph_hpc_fanout.watch.display.protocol import Display
from langgraph_hpc_fanout.watch.progress import Progress

logger = logging.getLogger("langgraph_hpc_fanout")

Writer = Callable[[Mapping[str, Any]], None]


class Reporter:
    """Shows progress through whichever writer is there, and on displays.

    LangGraph drops what is written after a branch has ended, so events go through the writer of
    a branch that still waits.

    Args:
        progress: The counts.
        in_flight: How many requests are under way.
    """

    def __init__(self, progress: Progress, in_flight: Callable[[], int]) -> None:
        self._progress = progress
        self._in_flight = in_flight
        self._lock = threading.Lock()
        self._writers: dict[int, Writer] = {}
        self._displays: list[Display] = [LogLines()]
        self._has_chosen = False
        self._streamed: tuple[int, int, str | None] | None = None
        self._closed: tuple[int, int] | None = None

    def join(self, number: int, writer: Writer) -> None:
        """A branch waits and can be written through; called in it, on any thread."""
        self._writers[number] = writer
        with self._lock:
            if not self._has_chosen:
                self._has_chosen = True
                _safely(self._choose)

    def leave(self, number: int) -> None:
        """The branch has ended. Safe from any thread."""
        self._writers.pop(number, None)

    def show(self, *, final: bool = False) -> None:
        """Write an event if anything has changed, and show it."""
        event = self._progress.event(self._in_flight())
        self._display(event, final=final)
        self._stream(event, final=final)

    def _choose(self) -> None:
        if (display := choose()) is not None:
            self._displays.append(display)

    def _stream(self, event: Mapping[str, Any], *, final: bool) -> None:
        standing = (event["done"], event["in_flight"], event.get("waiting"))
        writer = next(iter(self._writers.copy().values()), None)
        if writer is None or (standing == self._streamed and not final):
            return
        self._streamed = standing
        _safely(writer, event)

    def _display(self, event: Mapping[str, Any], *, final: bool) -> None:
        standing = (event["done"], event["total"])
        if standing == self._closed:
            return  # a complete run may wait for its journal, and a resumed one may go on
        self._closed = standing if final else None
        for display in self._displays:
            _safely(display.close if final else display.show, event)


def _safely(function: Callable[..., None], *args: Any) -> None:
    """Whoever looks on must not disturb the run."""
    try:
        function(*args)
    except Exception:
        logger.debug("Progress was not shown", exc_info=True)
