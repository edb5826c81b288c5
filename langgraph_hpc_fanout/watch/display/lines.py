"""Lines every few seconds: in the log, or on stderr where a program has no log."""

from __future__ import annotations

import logging
import sys

from langgraph_hpc_fanout.watch.display.figures import line
from langgraph_hpc_fanout.watch.display.protocol import Event

logger = logging.getLogger("langgraph_hpc_fanout")

_LINE_SECONDS = 5.0


class LogLines:
    """Lines in the log, and one at the end. Which of them are seen is up to `logging`."""

    def __init__(self) -> None:
        self._next = _LINE_SECONDS

    def show(self, event: Event) -> None:
        """Log a line if it is time for one."""
        if event["seconds"] >= self._next:
            self._next = event["seconds"] + _LINE_SECONDS
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
        self._next = _LINE_SECONDS

    def show(self, event: Event) -> None:
        """Write a line if it is time for one."""
        if event["seconds"] >= self._next:
            self._next = event["seconds"] + _LINE_SECONDS
            self._write(event)

    def close(self, event: Event) -> None:
        """Write the last line of a long run."""
        if event["seconds"] >= _LINE_SECONDS:
            self._write(event)

    def _write(self, event: Event) -> None:
        if not logger.hasHandlers() and sys.stderr is not None:
            sys.stderr.write(f"{line(event)}\n")
            sys.stderr.flush()
