"""What goes wrong with a journal as a whole."""

from __future__ import annotations

from langgraph_hpc_fanout.records import FanOutError


class JournalError(FanOutError):
    """A journal that is busy, of an unknown format, damaged where it is read, or not writable."""
