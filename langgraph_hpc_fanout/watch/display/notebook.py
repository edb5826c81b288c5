"""A view in a notebook that is updated in place and stays in the saved file."""

from __future__ import annotations

import contextvars
import importlib
from typing import Any

from langgraph_hpc_fanout.watch.display.figures import line
from langgraph_hpc_fanout.watch.display.markup import markup
from langgraph_hpc_fanout.watch.display.protocol import QUIET_SECONDS, Event


class NotebookView:
    """HTML below the cell that runs a graph, with a line of text for readers without HTML.

    It must be made in a branch: the kernel tells by the context which cell an output belongs to.
    """

    def __init__(self) -> None:
        self._context = contextvars.copy_context()
        self._shown: Any = None

    def show(self, event: Event) -> None:
        """Show where the run stands."""
        self._draw(event, ended=False)

    def close(self, event: Event) -> None:
        """Show where the run has ended."""
        self._draw(event, ended=True)

    def _draw(self, event: Event, *, ended: bool) -> None:
        if event["seconds"] < QUIET_SECONDS:
            return
        formats = {"text/html": markup(event, ended=ended), "text/plain": line(event)}
        self._context.run(self._publish, formats)

    def _publish(self, formats: dict[str, str]) -> None:
        if self._shown is not None:
            self._shown.update(formats, raw=True)
            return
        ipython = importlib.import_module("IPython.display")  # there is one where a kernel runs
        self._shown = ipython.display(formats, raw=True, display_id=True)
