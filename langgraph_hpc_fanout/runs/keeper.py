"""Where the outcomes of a run are kept: in graph state while they are few, else in a journal."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence

import orjson

from langgraph_hpc_fanout.journal.columns import OUTCOME_BYTES
from langgraph_hpc_fanout.journal.journal import Journal
from langgraph_hpc_fanout.journal.results import Results
from langgraph_hpc_fanout.records import Outcome
from langgraph_hpc_fanout.runs.shard import Shard

logger = logging.getLogger("langgraph_hpc_fanout")

INLINE_BYTES = 16 * 1024 * 1024
"""Outcomes beyond this size do not travel in graph state."""


class Keeper:
    """Keeps outcomes, and lets branches go on once theirs are safe. Lives on the dispatch loop.

    Args:
        run: Id of the run.
        name: Name of the fan-out.
        scope: Whose keys its own are.
        journal: Where to keep outcomes; None for graph state.
        shards: Gives the run's shards so far.
        reported: Called when branches have been let go.
        failed: Called with a sentence when the disk does not take it.
    """

    def __init__(
        self,
        run: str,
        name: str,
        scope: str,
        journal: Journal | None,
        shards: Callable[[], Sequence[Shard]],
        reported: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self._run = run
        self._name = name
        self._scope = scope
        self._journal = journal
        self._shards = shards
        self._reported = reported
        self._failed = failed
        self._inline_bytes = 0
        self._unflushed: list[Shard] = []
        self._flushing: asyncio.Task[None] | None = None

    @property
    def directory(self) -> str | None:
        """Directory of the journal, if there is one (by now)."""
        return None if self._journal is None else str(self._journal.directory)

    async def load(self) -> None:
        """Learn what the journal knows already."""
        if self._journal is not None:
            await asyncio.to_thread(self._journal.log.refresh)

    def find(self, key: str) -> tuple[int, Outcome] | None:
        """Where the answer of an earlier run to a key stands, and the answer."""
        return None if self._journal is None else self._journal.log.find(self._scope, key)

    def reuse(self, shard: Shard, offset: int, at: int) -> None:
        """Keep the answer that was found as that of a place."""
        assert self._journal is not None  # noqa: S101 - narrows the type
        self._journal.log.reuse(self._run, shard.place(offset), at)

    def keep(self, shard: Shard, offset: int, outcome: Outcome) -> None:
        """Keep an outcome."""
        if self._journal is not None:
            self._append(self._journal, shard, offset, outcome)
            return
        shard.outcomes[offset] = outcome
        self._inline_bytes += _weight(outcome)
        if self._inline_bytes > INLINE_BYTES:
            self._spill()

    def report(self, shard: Shard) -> None:
        """Let a complete shard's branch go on, once its outcomes are safe."""
        if self._journal is None:
            shard.report(None)
            self._reported()
        else:
            self._unflushed.append(shard)
            self.flush_soon()

    def flush_soon(self) -> None:
        """Write what was kept, unless that is under way."""
        if self._journal is not None and self._flushing is None:
            self._flushing = asyncio.get_running_loop().create_task(self._flush(self._journal))

    async def flush_last(self) -> None:
        """Write what can be written of a run that has ended."""
        if self._journal is None:
            return
        try:
            await asyncio.to_thread(self._journal.log.flush)
        except OSError:
            logger.exception("The journal %s cannot be written", self._journal.directory)

    def outcomes(self) -> Iterable[Outcome]:
        """What was kept, in input order."""
        shards = sorted(self._shards(), key=lambda shard: shard.start)
        if (directory := self.directory) is not None:
            return Results(self._run, [shard.receipt(directory) for shard in shards])
        return list(itertools.chain.from_iterable(shard.kept() for shard in shards))

    async def _flush(self, journal: Journal) -> None:
        try:
            while True:
                written, self._unflushed = self._unflushed, []
                await asyncio.to_thread(journal.log.flush)
                for shard in written:
                    shard.report(str(journal.directory))
                if not self._unflushed:
                    break
            self._reported()
        except Exception as error:  # noqa: BLE001 - branches wait: they must be told
            self._unflushed += written
            self._failed(f"The journal {journal.directory} cannot be written: {error}.")
        finally:
            self._flushing = None

    def _spill(self) -> None:
        """Move the outcomes kept so far to a temporary journal."""
        self._journal = journal = Journal.temporary(self._run)
        logger.warning(
            "%s: its outcomes outgrew %d MB of graph state and are kept in %s; "
            "give FanOutNode a journal= to say where.",
            self._name,
            INLINE_BYTES // 2**20,
            journal.directory,
        )
        for shard in self._shards():
            for offset, outcome in enumerate(shard.outcomes):
                if outcome is not None:
                    self._append(journal, shard, offset, outcome)
            shard.outcomes = []

    def _append(self, journal: Journal, shard: Shard, offset: int, outcome: Outcome) -> None:
        journal.log.append(self._run, self._scope, shard.place(offset), outcome)


def _weight(outcome: Outcome) -> int:
    value, raw = outcome.value, outcome.meta.get("raw", "")
    written = len(value) if isinstance(value, str) else len(orjson.dumps(value))
    return OUTCOME_BYTES + written + len(raw)
