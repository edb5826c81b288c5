"""Where the outcomes of a run are kept, and found: in graph state while few, else in a journal."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import orjson

from langgraph_hpc_fanout.dispatch.loop import dispatch_loop
from langgraph_hpc_fanout.journal.columns import OUTCOME_BYTES
from langgraph_hpc_fanout.journal.errors import JournalError
from langgraph_hpc_fanout.journal.journal import Journal
from langgraph_hpc_fanout.journal.log import Log, log_at
from langgraph_hpc_fanout.journal.results import Results
from langgraph_hpc_fanout.records import NOTHING, Outcome
from langgraph_hpc_fanout.runs.shard import Shard

logger = logging.getLogger("langgraph_hpc_fanout")

INLINE_BYTES = 16 * 1024 * 1024
"""Outcomes beyond this size do not travel in graph state."""
_UNWRITTEN_BYTES = 4 * 1024 * 1024
"""Outcomes of this size are not left unwritten for the next half second."""


@dataclass(frozen=True, slots=True)
class Known:
    """An outcome that is there already.

    Attributes:
        outcome: It.
        run: The run that paid for it.
        place: Its place in that run.
        at: Where it stands in the run's own journal; None when it is elsewhere.
    """

    outcome: Outcome
    run: str
    place: int | None = None
    at: int | None = None


class Host(Protocol):
    """Whose outcomes a keeper keeps: a run, which is told what becomes of them."""

    def all_shards(self) -> Sequence[Shard]:
        """The run's shards so far."""
        ...

    def reported(self) -> None:
        """Branches have been let go."""
        ...

    def stall(self, why: str) -> None:
        """The disk does not take outcomes. None is lost, and writing is tried again."""
        ...

    def unstall(self) -> None:
        """The disk takes them again."""
        ...

    def lose(self, why: str) -> None:
        """The journal is not ours any more, or cannot be used."""
        ...


class Keeper:
    """Keeps outcomes, and lets branches go on once theirs are safe. Lives on the dispatch loop.

    Args:
        run: Id of the run.
        name: Name of the fan-out.
        scope: Whose keys its own are.
        journal: Where to keep outcomes; None for graph state.
        about: What the journal is to hold of the run besides its outcomes.
        host: The run.
    """

    def __init__(
        self,
        run: str,
        name: str,
        scope: str,
        journal: Journal | None,
        about: Mapping[str, Any],
        host: Host,
    ) -> None:
        self._run = run
        self._name = name
        self._scope = scope
        self._journal = journal
        self._about = about
        self._host = host
        self._log: Log | None = None
        self._caches: list[Log] = []
        self._inline: dict[str, Outcome] = {}
        self._inline_bytes = 0
        self._unflushed: list[Shard] = []
        self._flushing: asyncio.Task[None] | None = None

    @property
    def directory(self) -> str | None:
        """Directory of the journal, if there is one (by now)."""
        return None if self._journal is None else str(self._journal.directory)

    @property
    def log(self) -> Log | None:
        """The journal's log, once it is open."""
        return self._log

    @property
    def retries_failures(self) -> bool:
        """Whether items that failed in earlier runs are asked again."""
        return self._journal is None or self._journal.retry_failures

    async def open(self) -> None:
        """Become the journal's writer, and learn what it knows already.

        Raises:
            JournalError: If another process writes to it, or it cannot be used.
        """
        if self._journal is not None:
            self._log = await asyncio.to_thread(self._acquire, self._journal)
            dispatch_loop().at_exit(self.close)

    # -- what is known --------------------------------------------------------------------

    def find(self, key: str) -> Known | None:
        """What has become of a key so far: here, and in the journals that are its cache."""
        if self._log is None:
            kept = self._inline.get(key)
            return None if kept is None else Known(kept, self._run)
        if (found := self._log.find(self._scope, key)) is not None and found.outcome.ok:
            return Known(found.outcome, found.run, found.place, found.at)
        for cache in self._caches:
            elsewhere = cache.find(self._scope, key)
            if elsewhere is not None and elsewhere.outcome.ok:
                return Known(elsewhere.outcome, elsewhere.run)
        return None if found is None else Known(found.outcome, found.run, found.place, found.at)

    def reuse(self, shard: Shard, offset: int, known: Known, meta: Mapping[str, Any]) -> Outcome:
        """Keep what is known as the outcome of a place, and return it.

        What the run itself has asked for this place, before it was interrupted, stays as it is.
        """
        outcome, place = known.outcome, shard.place(offset)
        if (known.run, known.place) == (self._run, place):
            meta = NOTHING
        else:
            outcome = replace(
                outcome,
                index=shard.index(offset),
                sample=shard.sample(offset),
                attempts=0,
                meta={**outcome.meta, **meta, "cached": True},
            )
        if self._log is not None and known.at is not None:
            self._log.reuse(self._run, place, known.at, meta or None)
            self._flush_when_much(self._log)
        else:
            self.keep(shard, offset, outcome)
        return outcome

    # -- what is new ----------------------------------------------------------------------

    def keep(self, shard: Shard, offset: int, outcome: Outcome) -> None:
        """Keep an outcome."""
        if self._log is not None:
            self._log.append(self._run, self._scope, shard.place(offset), outcome)
            self._flush_when_much(self._log)
            return
        shard.outcomes[offset] = outcome
        earlier = self._inline.get(outcome.key)
        if outcome.ok or earlier is None or not earlier.ok:
            self._inline[outcome.key] = outcome
        self._inline_bytes += _weight(outcome)
        if self._inline_bytes > INLINE_BYTES:
            self._spill()

    def report(self, shard: Shard) -> None:
        """Let a complete shard's branch go on, once its outcomes are safe."""
        if self._log is None:  # in graph state, or empty, which needs no journal
            shard.report(self.directory)
            self._host.reported()
        else:
            self._unflushed.append(shard)
            self.flush_soon()

    def flush_soon(self) -> None:
        """Write what was kept, unless that is under way."""
        if self._log is not None and self._flushing is None:
            self._flushing = asyncio.get_running_loop().create_task(self._flush(self._log))

    async def close(self) -> None:
        """Write what can be written of a run that has ended, and let others write."""
        if self._flushing is not None:
            await self._flushing
        log, self._log = self._log, None
        if log is None:
            return
        dispatch_loop().forget(self.close)
        try:
            await _in_thread(log.release)
        except JournalError as error:
            logger.error("%s", error)  # noqa: TRY400 - no fault of ours
        except OSError as error:
            logger.error("The journal %s cannot be written: %s", log.directory, error)  # noqa: TRY400
            dispatch_loop().at_exit(partial(_in_thread, log.release))  # there may be room by then

    def outcomes(self) -> Iterable[Outcome]:
        """What was kept, in input order."""
        shards = sorted(self._host.all_shards(), key=lambda shard: shard.start)
        if (directory := self.directory) is not None:
            return Results(self._run, [shard.receipt(directory) for shard in shards])
        return list(itertools.chain.from_iterable(shard.kept() for shard in shards))

    # -- the journal ----------------------------------------------------------------------

    def _acquire(self, journal: Journal) -> Log:
        self._caches = [log_at(directory) for directory in journal.cache]
        for cache in self._caches:
            if not cache.exists():
                raise JournalError(
                    f"There is no journal {cache.directory} to be a cache; correct its path, or "
                    "leave it out."
                )
            cache.refresh()  # before the journal is ours, for it may raise
        log = journal.log
        log.acquire(takeover=journal.takeover)
        log.begin(self._run, self._about)
        return log

    def _flush_when_much(self, log: Log) -> None:
        if log.unwritten > _UNWRITTEN_BYTES:
            self.flush_soon()

    async def _flush(self, log: Log) -> None:
        shards: list[Shard] = []
        try:
            while True:
                shards, self._unflushed = self._unflushed, []
                await _in_thread(log.flush)
                for shard in shards:
                    shard.report(self.directory)
                if not self._unflushed:
                    break
        except JournalError as error:
            self._host.lose(str(error))
        except OSError as error:
            self._unflushed += shards
            self._host.stall(
                f"The journal {log.directory} cannot be written: {error}. Make room and run again; "
                "what could not be written is kept until this process ends."
            )
        except Exception as error:
            logger.exception("The journal %s", log.directory)
            self._host.lose(f"A fault in the journal {log.directory}: {error!r}")
        else:
            self._host.unstall()
            self._host.reported()
        finally:
            self._flushing = None

    def _spill(self) -> None:
        """Move the outcomes kept so far to a temporary journal."""
        journal = Journal.temporary(self._run)
        # On the loop, once: a new directory, in which nobody else writes.
        self._log = self._acquire(journal)
        self._journal = journal
        logger.warning(
            "%s: its outcomes outgrew %d MB of graph state and are kept in %s; "
            "give FanOutNode a journal= to say where.",
            self._name,
            INLINE_BYTES // 2**20,
            journal.directory,
        )
        self._inline.clear()
        for shard in self._host.all_shards():
            for offset, outcome in shard.outcomes.items():
                self.keep(shard, offset, outcome)
            shard.outcomes.clear()


async def _in_thread(function: Callable[[], None]) -> None:
    try:
        done = asyncio.get_running_loop().run_in_executor(None, function)
    except RuntimeError:  # the interpreter is ending, and starts no thread any more
        function()
    else:
        await done


def _weight(outcome: Outcome) -> int:
    value, raw = outcome.value, outcome.meta.get("raw", "")
    written = len(value) if isinstance(value, str) else len(orjson.dumps(value))
    return OUTCOME_BYTES + written + len(raw)
