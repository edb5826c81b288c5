"""A journal: where outcomes are kept, so that nothing is asked twice."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from langgraph_hpc_fanout.journal.log import Log, log_at


class Journal:
    """A directory that keeps every outcome before it is reported.

    Start the same graph with the same journal again and only what is not answered yet is
    asked; items that failed are asked again. Any number of graphs of one process may share it.

    Args:
        directory: Where; made when the first outcome is written.

    Example:
        ```python
        screen = FanOutNode("molecules", prompt, pool=pool, journal=Journal("runs/screen"))
        ```
    """

    def __init__(self, directory: str | os.PathLike[str], *, takeover=False, retry_failures=True, cache=()) -> None:
        self.takeover=takeover; self.retry_failures=retry_failures; self.cache=tuple(Path(c) for c in cache)
        # Made absolute here: a node may run after a change of directory, and inside servers
        # that forbid asking for it.
        self.directory = Path(os.path.realpath(directory))
        self._log: Log | None = None

    def __repr__(self) -> str:
        return f"Journal({str(self.directory)!r})"

    @classmethod
    def temporary(cls, run: str) -> Journal:
        """A journal in the system's temporary directory, for a run that outgrew graph state."""
        return cls(Path(tempfile.gettempdir()) / "langgraph-hpc-fanout" / run)

    @property
    def log(self) -> Log:
        """The journal's file, shared within this process."""
        if self._log is None:
            self._log = log_at(self.directory)
        return self._log
