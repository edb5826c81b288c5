"""A journal: where outcomes are kept, so that nothing is asked twice."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from langgraph_hpc_fanout.journal.log import Log, log_at

_KINDS = (str, os.PathLike)


class Journal:
    """A directory that keeps every outcome before it is reported.

    Start the same graph with the same journal again and only what is not answered yet is
    asked. Any number of graphs of one process may share it; of several processes one may write
    at a time, and all may read.

    Args:
        directory: Where; made when a run begins.
        takeover: Whether to write even though another process seems to. That is for owners on
            other hosts which are known to be dead; those on this host are noticed at once, and
            others after a minute without a sign.
        retry_failures: Whether items that failed are asked again; else they keep their failure.
        cache: Directories of other journals, or one, whose answers count too. They are only read.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If the journal is its own cache.

    Example:
        ```python
        screen = FanOutNode("molecules", prompt, pool=pool, journal=Journal("runs/screen"))
        ```
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        takeover: bool = False,
        retry_failures: bool = True,
        cache: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = (),
    ) -> None:
        for name, value in (("takeover", takeover), ("retry_failures", retry_failures)):
            if not isinstance(value, bool):
                raise TypeError(f"Journal: {name} must be True or False, not {value!r}.")
        self.directory = _absolute(directory)
        self.takeover = takeover
        self.retry_failures = retry_failures
        self.cache = tuple(
            _absolute(each) for each in ([cache] if isinstance(cache, _KINDS) else cache)
        )
        if self.directory in self.cache:
            raise ValueError(
                f"Journal: {self.directory} is the journal itself; name others as its cache."
            )
        self._log: Log | None = None

    def __repr__(self) -> str:
        return f"Journal({str(self.directory)!r})"

    @classmethod
    def temporary(cls, run: str) -> Journal:
        """A journal in the system's temporary directory, for a run that outgrew graph state."""
        return cls(Path(tempfile.gettempdir()) / f"langgraph-hpc-fanout-{os.getuid()}" / run)

    @property
    def log(self) -> Log:
        """What the journal holds, shared within this process."""
        if self._log is None:
            self._log = log_at(self.directory)
        return self._log


def _absolute(directory: str | os.PathLike[str]) -> Path:
    if not isinstance(directory, _KINDS):
        raise TypeError(
            f"Journal: a directory is a string or a path, not {type(directory).__name__}."
        )
    # At once: a node may run after a change of directory, and inside servers that forbid asking
    # for it.
    return Path(os.path.realpath(directory))
