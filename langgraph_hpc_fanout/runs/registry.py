"""The live runs of this process: where router and branches meet."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable

from langgraph_hpc_fanout.runs.run import Run
from langgraph_hpc_fanout.runs.shard import Shard

_FORGET_SECONDS = 600.0
"""Age at which a run is forgotten whose branches never came, or came no more."""


class _Entry:
    """A run and who has come for it."""

    __slots__ = ("claimed", "made", "run", "threads")

    def __init__(self, run: Run) -> None:
        self.run = run
        self.made = time.monotonic()
        self.claimed: set[int] = set()
        self.threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()

    def is_stale(self, thread: threading.Thread | None) -> bool:
        """Whether a branch that comes now belongs to a later invocation than the run.

        A run that ended badly must end its late branches too: in sync `invoke`, LangGraph
        starts every branch of the superstep even after Ctrl-C. They come on the threads of the
        same executor, whereas `invoke(None, config)` has new ones and must begin anew. In
        `ainvoke` branches are cancelled, so none is late.
        """
        if self.run.error is None:
            return False
        return thread is None or thread not in self.threads


class Registry:
    """Runs by id. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    def register(self, run: Run) -> None:
        """The router hands over a whole run, to be started by its first branch."""
        with self._lock:
            self._forget_old()
            self._entries[run.id] = _Entry(run)

    def claim(
        self,
        run_id: str,
        number: int,
        thread: threading.Thread | None,
        begin: Callable[[], Run],
        shard: Callable[[], Shard],
    ) -> tuple[Run, Shard]:
        """A branch comes for its shard.

        Args:
            run_id: Id of the run, from the branch's arguments.
            number: Number of the shard.
            thread: The branch's thread when it is sync, None when it is async.
            begin: Makes a run when none is live: after a restart, branches bring their own
                shards.
            shard: Makes the shard for such a run.

        Returns:
            The run, started, and the shard to wait for.
        """
        with self._lock:
            entry = self._entries.get(run_id)
            if entry is None or entry.is_stale(thread):
                entry = self._entries[run_id] = _Entry(begin())
            found = entry.run.shards.get(number)
            if found is None:
                found = shard()
                if not entry.run.add(found):
                    entry = self._entries[run_id] = _Entry(begin())
                    entry.run.add(found)
            entry.claimed.add(number)
            if thread is not None:
                entry.threads.add(thread)
                entry.run.heed_ctrl_c = True
        entry.run.start()
        return entry.run, found

    def release(self, run: Run) -> None:
        """A branch has ended: forget the run when it was the last."""
        with self._lock:
            entry = self._entries.get(run.id)
            if entry is not None and entry.run is run and self._is_over(entry):
                del self._entries[run.id]

    @staticmethod
    def _is_over(entry: _Entry) -> bool:
        return entry.run.closed and len(entry.claimed) == len(entry.run.shards)

    def _forget_old(self) -> None:
        now = time.monotonic()
        for run_id, entry in list(self._entries.items()):
            idle = entry.run.closed or not entry.claimed
            if idle and now - entry.made > _FORGET_SECONDS:
                del self._entries[run_id]


registry = Registry()
"""The live runs of this process."""
