"""The log of a journal: what was appended is found again, by question and by place.

`append` and its kin only remember; `flush` writes. A line has its location from the beginning, so
it is found and used again before it is on disk. How lines look tells `line`, where they are kept
`segments`, what is known of them `catalog`, and who may write them `owner`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import orjson

from langgraph_hpc_fanout.journal import line, manifest, segments
from langgraph_hpc_fanout.journal.catalog import Catalog, RunRecord
from langgraph_hpc_fanout.journal.errors import JournalError
from langgraph_hpc_fanout.journal.intake import Intake
from langgraph_hpc_fanout.journal.line import Line
from langgraph_hpc_fanout.journal.location import OK, pack, unpack
from langgraph_hpc_fanout.journal.owner import Clock, Ownership
from langgraph_hpc_fanout.journal.session import Session
from langgraph_hpc_fanout.records import Outcome


@dataclass(frozen=True, slots=True)
class Found:
    """What a journal knows about a question.

    Attributes:
        at: Where it stands.
        run: Id of the run that asked; empty where that is not known any more.
        place: Its place in that run.
        outcome: The newest answer, else the newest failure.
    """

    at: int
    run: str
    place: int
    outcome: Outcome


class Log:
    """The lines of a journal, shared by everything in this process that names its directory.

    All methods are safe to call from any thread. `acquire`, `release`, `flush` and `refresh`
    may block on the disk for long, reading for as long as a line takes, and the rest never.

    Args:
        directory: Absolute path; made when it is acquired.
        clock: Seconds since the epoch.
    """

    def __init__(self, directory: Path, clock: Clock = time.time) -> None:
        self.directory = directory
        self._clock = clock
        self._disk = threading.RLock()  # held while files are read or written
        self._memory = threading.Lock()  # held for moments
        self._session: Session | None = None
        self._holders = 0
        self._intake = Intake(directory, self._memory)

    @property
    def _catalog(self) -> Catalog:
        return self._intake.catalog

    # -- owning ----------------------------------------------------------------------------

    def acquire(self, *, takeover: bool = False) -> None:
        """Become or stay the writer, and read in what others wrote; `release` as often.

        Args:
            takeover: Whether to become it in the place of a process that may be alive.

        Raises:
            JournalError: If another process is the writer, the format is unknown, or the
                directory cannot be written.
        """
        with self._disk:
            if self._session is not None and (lost := self._session.ownership.lost()):
                if self._holders:
                    raise lost
                self._end_session()
            if self._session is None:
                try:
                    self._begin_session(takeover=takeover)
                except OSError as error:
                    raise JournalError(
                        f"The journal {self.directory} cannot be written: {error}. "
                        "Name a directory that can.",
                        journal=str(self.directory),
                    ) from error
            self._holders += 1

    def release(self) -> None:
        """Write what is left and, at the last call, let other processes write.

        Raises:
            JournalError: If another process has become the writer.
            OSError: If the disk does not take it. The journal stays ours then, and what is left
                is written by the next `flush` or `release` after another `acquire`.
        """
        with self._disk:
            self._holders = max(0, self._holders - 1)
            if self._session is None or self._holders:
                return
            try:
                self.flush()
            except JournalError:
                self._end_session()
                raise
            self._session.ownership.give_up()  # else it stays ours, for the next to release
            self._end_session()

    def _begin_session(self, *, takeover: bool) -> None:
        # The index needs it when it grows: imported here, no event loop waits for that.
        import numpy  # noqa: F401, PLC0415

        self.directory.mkdir(parents=True, exist_ok=True)
        manifest.ensure(self.directory)
        ownership = Ownership.claim(self.directory, takeover=takeover, clock=self._clock)
        try:
            self.refresh()
            last = self._intake.settle()
        except BaseException:
            ownership.give_up()
            raise
        self._session = Session(self.directory, ownership, last + 1, self._catalog.begin)

    def _end_session(self) -> None:
        session = self._session
        assert session is not None  # noqa: S101 - narrows the type
        with self._memory:
            self._session = None
        self._intake.add(session.ends)
        if len(session.unwritten):
            self._intake.forget()  # it is not where we thought it would be
        session.close()

    # -- writing ---------------------------------------------------------------------------

    def begin(self, run: str, about: Mapping[str, Any]) -> None:
        """Remember what there is to say of a run, once in the time that the journal is ours.

        Args:
            run: Its id.
            about: JSON data.
        """
        with self._memory:
            self._writing().begin(run, about)

    def append(self, run: str, scope: str, place: int, outcome: Outcome) -> int:
        """Remember an outcome; it can be found and read at once.

        Args:
            run: Id of a run that has begun.
            scope: Whose keys these are; empty where a key is a hash of what was asked.
            place: Place in the run: all samples of the first item, then of the second.
            outcome: What to remember.

        Returns:
            Where it stands.
        """
        digest = line.digest_of(scope, outcome.key)
        body = line.body_of(outcome, scope, digest)
        kind = line.VALUE if outcome.ok else line.ERROR
        with self._memory:
            at = self._writing().add(kind, run, place, digest, body, ok=outcome.ok)
            self._catalog.put(run, place, at)
            self._catalog.index.put(line.fingerprint_of(digest), at)
        return at

    def reuse(self, run: str, place: int, at: int, meta: Mapping[str, Any] | None = None) -> None:
        """Remember that a place of a run has the outcome that stands elsewhere.

        Nothing is remembered where it stands at that place already and there is no meta.

        Args:
            run: Id of a run that has begun.
            place: Place in the run.
            at: Where the outcome stands.
            meta: What the outcome's own meta gets in addition, for this place.
        """
        segment, offset = unpack(at)
        fields: dict[str, Any] = {"at": {"segment": segment, "offset": offset}}
        if meta:
            fields["meta"] = meta
        body, ok = orjson.dumps(fields), bool(at & OK)
        kind = line.AGAIN if ok else line.STILL
        with self._memory:
            if not meta and self._catalog.at_place(run, place) == at:
                return
            here = self._writing().add(kind, run, place, line.NO_DIGEST, body, ok=ok)
            self._catalog.put(run, place, here)

    def note(self, kind: str, data: Mapping[str, Any]) -> None:
        """Remember anything else.

        Args:
            kind: What sort of thing it is.
            data: JSON data.
        """
        body = orjson.dumps({"note": kind, "data": data})
        with self._memory:
            self._catalog.note(self._writing().add(line.NOTED, None, 0, line.NO_DIGEST, body))

    @property
    def unwritten(self) -> int:
        """Bytes that are remembered and not yet on disk."""
        with self._memory:
            return 0 if self._session is None else len(self._session.unwritten)

    def flush(self) -> None:
        """Write what was remembered, and give others a sign that we are here.

        Raises:
            JournalError: If another process has become the writer, or the journal was deleted.
            OSError: If the disk does not take it. Nothing is forgotten; flush again.
        """
        with self._disk:
            if (session := self._session) is None:
                return
            if (lost := session.ownership.lost()) is None:
                session.ownership.beat()  # also when the disk is full: it needs no room
            with self._memory:
                parts = session.unwritten.take()
            for part in parts:
                # A journal that was lost still takes lines in the segments we have made in it.
                if lost is None or session.has_made(part.segment):
                    session.store(part)
                    with self._memory:
                        session.unwritten.written(part)
            if lost is not None:
                raise lost

    def _writing(self) -> Session:
        if self._session is None:
            raise JournalError(
                f"The journal {self.directory} is not held by this process; acquire it first.",
                journal=str(self.directory),
            )
        return self._session

    # -- reading ---------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether the directory holds a journal."""
        return (self.directory / manifest.FILE).exists()

    def refresh(self) -> None:
        """Take note of what others have appended since the last look.

        A last line without an end may be one that is being written, and is left alone; a
        damaged line is passed over.

        Raises:
            JournalError: If the journal is of an unknown format.
            OSError: If it cannot be read.
        """
        with self._disk:
            session = self._session
            if session is None:
                self._intake.forget_what_is_gone()
            self._intake.refresh(lambda number: session is not None and session.has_made(number))

    def find(self, scope: str, key: str) -> Found | None:
        """The newest answer to a question, else the newest failure.

        Args:
            scope: Whose key it is.
            key: Of the question.
        """
        digest = line.digest_of(scope, key)
        with self._memory:
            at = self._catalog.best(digest)
        found = self._line(at) if at else None
        if found is None or found.digest != digest:
            return None
        run = self._catalog.run_of(unpack(at)[0], found.run)
        return Found(at, run, found.place, line.outcome_of(found))

    def is_answered(self, scope: str, key: str) -> bool:
        """Whether there is an answer to a question; from memory, so a million may be looked up.

        Args:
            scope: Whose key it is.
            key: Of the question.
        """
        digest = line.digest_of(scope, key)
        with self._memory:
            return bool(self._catalog.best(digest) & OK)

    def read(self, at: int) -> Outcome:
        """The outcome that stands at a location, as it was appended.

        Raises:
            JournalError: If it is damaged, or gone.
        """
        return line.outcome_of(self._sound_line(at))

    def outcomes(
        self,
        run: str,
        start: int = 0,
        stop: int | None = None,
        *,
        per_item: int = 1,
        samples: int = 1,
    ) -> Iterator[Outcome]:
        """The outcomes of a run in input order; places without one are passed over.

        Args:
            run: Its id.
            start: First place.
            stop: Place after the last; None for all there are by now.
            per_item: How many places an item has.
            samples: How many of these in a row differ in the sample only.

        Raises:
            JournalError: If one is damaged, or gone.
        """
        places = self._catalog.places(run)
        for place in range(start, len(places) if stop is None else min(stop, len(places))):
            if at := places[place]:
                yield self._outcome(at, run, place, place // per_item, place % samples)

    def length(self, run: str) -> int:
        """How many places of a run are known, those without an outcome among them included."""
        return len(self._catalog.places(run))

    def count(self, run: str, start: int, stop: int) -> int:
        """How many places of a run, from `start` up to `stop`, have an outcome."""
        places = self._catalog.places(run)[start:stop]
        return len(places) - places.count(0)

    def about(self, run: str) -> Mapping[str, Any]:
        """What was said of a run; empty where nothing is known."""
        with self._memory:
            return self._catalog.about(run)

    def runs(self) -> list[RunRecord]:
        """All runs, oldest first."""
        with self._memory:
            return self._catalog.runs()

    def notes(self, kind: str) -> Iterator[dict[str, Any]]:
        """What was noted of a kind, oldest first.

        Raises:
            JournalError: If a note is damaged, or gone.
        """
        for at in self._catalog.notes():
            data = self._sound_line(at).data
            if data["note"] == kind:
                yield data["data"]

    def _outcome(self, at: int, run: str, place: int, index: int, sample: int) -> Outcome:
        told = self._sound_line(at)
        if told.kind not in (line.AGAIN, line.STILL):
            return line.outcome_of(told)
        elsewhere = pack(told.data["at"]["segment"], told.data["at"]["offset"])
        origin = self._sound_line(elsewhere)
        outcome = line.outcome_of(origin)
        meta = {**outcome.meta, **told.data.get("meta", {})}
        if origin.place == place and self._catalog.run_of(unpack(elsewhere)[0], origin.run) == run:
            return replace(outcome, meta=meta)
        meta["cached"] = True
        return replace(outcome, index=index, sample=sample, attempts=0, meta=meta)

    def _line(self, at: int) -> Line | None:
        """The line at a location; None if it is damaged, or gone."""
        segment, offset = unpack(at)
        with self._memory:
            session, readers = self._session, self._intake.readers
            raw = None if session is None else session.unwritten.read(segment, offset)
        if raw is None:
            try:
                raw = readers.line(segment, offset)
            except FileNotFoundError:
                return None
        return None if raw is None else line.decode(raw)

    def _sound_line(self, at: int) -> Line:
        if (found := self._line(at)) is None:
            segment, offset = unpack(at)
            raise JournalError(
                f"{segments.path_of(self.directory, segment)} is damaged at byte {offset}, or "
                "gone. Run the graph again to ask what is missing.",
                journal=str(self.directory),
            )
        return found

    def after_fork(self) -> None:
        """A forked child owns nothing, and waits for no thread of its parent's."""
        self._disk = threading.RLock()
        self._memory = threading.Lock()
        self._session = None
        self._holders = 0
        self._intake = Intake(self.directory, self._memory)


_logs: WeakValueDictionary[Path, Log] = WeakValueDictionary()
_logs_lock = threading.Lock()


def log_at(directory: Path) -> Log:
    """The one log of a directory in this process."""
    with _logs_lock:
        log = _logs.get(directory)
        if log is None:
            log = _logs[directory] = Log(directory)
        return log


def _after_fork() -> None:
    global _logs_lock
    _logs_lock = threading.Lock()
    for log in list(_logs.values()):
        log.after_fork()


os.register_at_fork(after_in_child=_after_fork)
