"""The terminal, as shared by the bars of all runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Hashable

from langgraph_hpc_fanout.watch.display.protocol import Event

logger = logging.getLogger("langgraph_hpc_fanout")

_GATHER_SECONDS = 0.1
"""How long news of live runs wait for that of others."""
_PATIENCE_SECONDS = 0.25
"""How long a run's end waits for its bar, so that what the program prints next comes after it."""


class Screen:
    """Draws the bars of live runs below whatever else is written; ended ones stay where they are.

    Terminals may block (Ctrl-S, a slow connection), and so may the import of rich from a busy
    file system. So all drawing is done on a thread of its own, which lives as long as any run.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._live: dict[Hashable, Event] = {}
        self._ended: list[Event] = []
        self._news = False
        self._drawing = False
        self._left = False
        self._thread: threading.Thread | None = None

    def show(self, run: Hashable, event: Event) -> None:
        """Draw where a run stands, soon. Safe from any thread."""
        with self._changed:
            self._live[run] = event
            self._draw()

    def close(self, run: Hashable, event: Event) -> None:
        """Draw where a run has ended, and wait a moment for it. Safe from any thread."""
        with self._changed:
            self._live.pop(run, None)
            self._ended.append(event)
            self._draw()
            self._changed.wait_for(self._is_settled, _PATIENCE_SECONDS)

    def leave(self) -> None:
        """Leave all bars as they are, for good: the interpreter exits."""
        with self._changed:
            if self._thread is not None:
                self._ended += self._live.values()
                self._live.clear()
                self._draw()
            self._left = True
            self._changed.wait_for(self._is_settled, _PATIENCE_SECONDS)

    def abandon(self) -> None:
        """Give the streams back in the child of a fork, where nobody draws."""
        if self._thread is not None:
            from langgraph_hpc_fanout.watch.display import streams  # noqa: PLC0415 - rich is slow

            streams.give_back_after_fork()

    def _draw(self) -> None:
        if self._left:
            return
        self._news = True
        self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="hpc-fanout-bars", daemon=True)
            self._thread.start()

    def _is_settled(self) -> bool:
        idle = not self._news and not self._drawing
        return self._thread is None or (idle and bool(self._live))

    # -- on the drawing thread ------------------------------------------------------------

    def _run(self) -> None:
        try:
            from langgraph_hpc_fanout.watch.display.bars import Bars  # noqa: PLC0415 - rich is slow

            while not self._is_over():
                with Bars() as bars:
                    while (drawable := self._next()) is not None:
                        bars.draw(*drawable)
        except Exception:
            logger.debug("Bars cannot be drawn here", exc_info=True)
            with self._changed:
                self._left = True
                self._end()

    def _next(self) -> tuple[list[Event], list[Event]] | None:
        """The bars of ended and of live runs, when they have changed; None when none is left."""
        with self._changed:
            self._drawing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._news or not self._live)
            if not self._news:
                return None
            self._changed.wait_for(lambda: self._ended, _GATHER_SECONDS)
            self._news, self._drawing = False, True
            ended, self._ended = self._ended, []
            return ended, list(self._live.values())

    def _is_over(self) -> bool:
        with self._changed:
            if not self._news:
                self._end()
            return self._thread is None

    def _end(self) -> None:
        self._thread = None
        self._changed.notify_all()
