"""The live runs of this process: where router and branches meet."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

from langgraph_hpc_fanout.runs.run import Run
from langgraph_hpc_fanout.runs.shard import Shard, own_copy

_FORGET_SECONDS = 600.0
"""Age at which a run is forgotten whose branches never came."""
_TOMBSTONES = 32


class _Entry:
    """A run, the invocation of the graph that it belongs to, and who has come for it."""

    __slots__ = ("claimed", "invocation", "made", "run", "waiting")

    def __init__(self, run: Run) -> None:
        self.run = run
        self.made = time.monotonic()
        self.invocation: object | None = None
        self.claimed: set[int] = set()
        self.waiting = 0

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for the run and nobody will come for it."""
        if not self.run.closed or self.waiting:
            return False
        return self.run.error is not None or len(self.claimed) == len(self.run.shards)


class Registry:
    """Runs by id. Safe to use from any thread.

    A run that ended badly leaves a tombstone: in sync `invoke`, LangGraph starts every branch of
    a superstep even after an error or Ctrl-C, and those that come late must get the same error.
    Branches of a later invocation, `invoke(None, config)`, begin anew.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._entries: dict[str, _Entry] = {}
        self._tombstones: OrderedDict[str, tuple[object | None, BaseException]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def register(self, run: Run) -> None:
        """The router hands over a whole run, to be started by its first branch."""
        with self._lock:
            self._forget_old()
            self._enter(run)

    def withdraw(self, run: Run) -> None:
        """Forget a run, unless a branch has come for it."""
        with self._lock:
            entry = self._entries.get(run.id)
            if entry is not None and entry.run is run and not entry.claimed:
                del self._entries[run.id]

    def claim(
        self,
        run_id: str,
        number: int,
        invocation: object | None,
        begin: Callable[[], Run],
        shard: Callable[[], Shard],
    ) -> tuple[Run, Shard]:
        """A branch comes for its shard.

        Args:
            run_id: Id of the run, from the branch's arguments.
            number: Number of the shard.
            invocation: What all branches of one invocation of the graph have in common.
            begin: Makes a run when none is live: after a restart, branches bring their own
                shards.
            shard: Makes the shard for such a run.

        Returns:
            The run, not yet started where this is its first branch, and the shard to wait for.

        Raises:
            BaseException: If the run has ended badly in this invocation: its error.
        """
        own: Shard | None = None
        while True:
            with self._lock:
                self._refuse_late(run_id, invocation)
                entry = self._entries.get(run_id)
                found = None if entry is None else entry.run.shards.get(number)
                if entry is not None and found is not None:
                    return self._enlist(entry, found, invocation)
                if own is not None:
                    return self._bring(run_id, own, invocation, begin)
            own = shard()  # it may run the user's code, so others are not kept waiting

    def has(self, branch: object) -> bool:
        """Whether a branch's shard is there already."""
        if not isinstance(branch, Mapping):
            return False
        entry = self._entries.get(branch.get("run", ""))
        return entry is not None and branch.get("shard") in entry.run.shards

    def _bring(
        self, run_id: str, shard: Shard, invocation: object | None, begin: Callable[[], Run]
    ) -> tuple[Run, Shard]:
        """A branch brings its own shard."""
        entry = self._entries.get(run_id) or self._enter(begin())
        if not entry.run.add(shard):
            if entry.run.error is not None:
                raise own_copy(entry.run.error)
            entry = self._enter(begin())
            entry.run.add(shard)
        return self._enlist(entry, shard, invocation)

    @staticmethod
    def _enlist(entry: _Entry, shard: Shard, invocation: object | None) -> tuple[Run, Shard]:
        entry.invocation = invocation
        entry.claimed.add(shard.number)
        entry.waiting += 1
        return entry.run, shard

    def release(self, run: Run) -> None:
        """A branch has ended."""
        with self._lock:
            entry = self._entries.get(run.id)
            if entry is not None and entry.run is run:
                entry.waiting -= 1
                self._bury(entry)

    def _closed(self, run: Run) -> None:
        """A run is over; called on the dispatch loop."""
        with self._lock:
            entry = self._entries.get(run.id)
            if entry is not None and entry.run is run:
                self._bury(entry)

    def _enter(self, run: Run) -> _Entry:
        run.when_closed = self._closed
        entry = self._entries[run.id] = _Entry(run)
        return entry

    def _bury(self, entry: _Entry) -> None:
        if not entry.is_over:
            return
        run = entry.run
        del self._entries[run.id]
        if run.error is not None:
            self._tombstones[run.id] = (entry.invocation, run.error)
            while len(self._tombstones) > _TOMBSTONES:
                self._tombstones.popitem(last=False)

    def _refuse_late(self, run_id: str, invocation: object | None) -> None:
        entry = self._entries.get(run_id)
        if entry is not None and entry.run.error is not None:
            if entry.invocation is invocation:
                raise own_copy(entry.run.error)
            del self._entries[run_id]
        if (tombstone := self._tombstones.get(run_id)) is not None:
            if tombstone[0] is invocation and invocation is not None:
                raise own_copy(tombstone[1])
            del self._tombstones[run_id]

    def _forget_old(self) -> None:
        now = time.monotonic()
        for run_id, entry in list(self._entries.items()):
            idle = not entry.waiting and (entry.run.closed or not entry.claimed)
            if idle and now - entry.made > _FORGET_SECONDS:
                del self._entries[run_id]


registry = Registry()
"""The live runs of this process."""


class Handover:
    """A router on its way to register a run, which may be called off meanwhile."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._is_off = False

    def register(self, run: Run) -> None:
        """Hand over the run."""
        self._run = run
        registry.register(run)
        if self._is_off:
            registry.withdraw(run)

    def call_off(self) -> None:
        """Nobody will come for the run; from another thread."""
        self._is_off = True
        if self._run is not None:
            registry.withdraw(self._run)


def _after_fork() -> None:
    """The parent's runs go on in the parent; its locks may be held by threads that are gone."""
    registry.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_after_fork)
