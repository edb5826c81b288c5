"""Lines every few seconds: in the log, or on stderr where a program has no log."""

from __future__ import annotations

import logging
import sys

from langgraph_hpc_fanout.watch.display.figures import line, waiting
from langgraph_hpc_fanout.watch.display.protocol import Event

logger = logging.getLogger("langgraph_hpc_fanout")

_LINE_SECONDS = 5.0
_WAITING_SECONDS = 60.0
"""Between lines that say that the run still waits for the same, which it may do for hours."""


class _Pace:
    """When the next line is due."""

    def __init__(self) -> None:
        self._last = 0.0
        self._waiting = ""

    def is_due(self, event: Event) -> bool:
        """Whether this is to be written; if it is, it counts as written."""
        words = waiting(event)
        still_waits = bool(words) and words == self._waiting
        if event["seconds"] < self._last + (_WAITING_SECONDS if still_waits else _LINE_SECONDS):
            return False
        self._last, self._waiting = event["seconds"], words
        return True


class LogLines:
    """Lines in the log, and one at the end. Which of them are seen is up to `logging`."""

    def __init__(self) -> None:
        self._pace = _Pace()

    def show(self, event: Event) -> None:
        """Log a line if it is time for one."""
        if self._pace.is_due(event):
            logger.info("%s", line(event))

    def close(self, event: Event) -> None:
        """Log the last line."""
        logger.info("%s", line(event))


class StderrLines:
    """The same lines on stderr while the program has configured no logging.

    Python then drops what is below WARNING, and hours of a batch job would pass in silence.
    Runs of less than five seconds write nothing.
    """

    def __init__(self) -> None:
        self._pace = _Pace()

    def show(self, event: Event) -> None:
        """Write a line if it is time for one."""
        if self._pace.is_due(event):
            self._write(event)

    def close(self, event: Event) -> None:
        """Write the last line of a long run."""
        if event["seconds"] >= _LINE_SECONDS:
            self._write(event)

    def _write(self, event: Event) -> None:
        if not logger.hasHandlers() and sys.stderr is not None:
            sys.stderr.write(f"{line(event)}\n")
            sys.stderr.flush()
