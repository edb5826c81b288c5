"""A bar on the terminal, for each run of the process."""

from __future__ import annotations

import atexit
import os

from langgraph_hpc_fanout.watch.display.protocol import QUIET_SECONDS, Event
from langgraph_hpc_fanout.watch.display.screen import Screen


class TerminalBar:
    """The bar of one run, on a screen that it shares with other runs."""

    def show(self, event: Event) -> None:
        """Show where the run stands."""
        if event["seconds"] >= QUIET_SECONDS:
            _screen.show(self, event)

    def close(self, event: Event) -> None:
        """Leave the bar on the terminal as it is now."""
        if event["seconds"] >= QUIET_SECONDS:
            _screen.close(self, event)


_screen = Screen()


def _at_exit() -> None:
    _screen.leave()


def _after_fork() -> None:
    """The parent's bars are drawn by the parent."""
    global _screen
    _screen.abandon()
    _screen = Screen()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
