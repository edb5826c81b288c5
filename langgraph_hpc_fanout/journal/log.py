"""The file of a journal: one JSON line an outcome, appended; an index built when opened.

A line is `{"run": id, "scope": text, "place": n, "outcome": {...}}`, or, for an answer that an
earlier run paid for, `{"run": id, "place": n, "at": offset}`, where `at` is where that line begins.
Places number the outcomes of a run: all samples of the first item, then of the second, and so on.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import orjson

from langgraph_hpc_fanout.records import Outcome

logger = logging.getLogger("langgraph_hpc_fanout")

FILE = "outcomes.jsonl"
_PIECE = 8192


class Log:
    """Outcomes on disk, shared by everything in this process that names their directory.

    All methods are safe to call from any thread, and may block on the disk.

    Args:
        directory: Absolute path; made when the first outcome is written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / FILE
        self._lock = threading.RLock()
        self._opening = threading.Lock()
        self._buffer = bytearray()
        self._end = 0
        self._answers: dict[str, int] = {}
        self._runs: dict[str, array[int]] = {}
        self._inode: int | None = None
        self._descriptor: int | None = None

    # -- writing ------------------------------------------------------------------------

    def append(self, run: str, scope: str, place: int, outcome: Outcome) -> None:
        """Remember an outcome; `flush` writes it."""
        self._remember({"run": run, "scope": scope, "place": place, "outcome": outcome})

    def reuse(self, run: str, place: int, at: int) -> None:
        """Remember that a place of a run has the answer that stands at an offset."""
        self._remember({"run": run, "place": place, "at": at})

    def _remember(self, entry: dict[str, Any]) -> None:
        # One buffer, not a list of lines: orjson's results hold on to 4 kB each.
        self._buffer += orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)

    def flush(self) -> None:
        """Write what was remembered and index it; a torn last line is cut first.

        Raises:
            OSError: If the disk does not take it; nothing is forgotten then.
        """
        with self._lock:
            if not (lines := bytes(self._buffer)):
                return
            self.directory.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                self.refresh()
                if file.tell() > self._end:
                    file.truncate(self._end)
                file.write(lines)
            del self._buffer[: len(lines)]
            self.refresh()

    def forget_unwritten(self) -> None:
        """Drop what was remembered and not written, and locks that others may hold."""
        self._buffer = bytearray()
        self._lock = threading.RLock()
        self._opening = threading.Lock()

    # -- reading ------------------------------------------------------------------------

    def refresh(self) -> None:
        """Index what was appended since the last look, by us or by another process.

        A last line without an end may be one that is being written, and is left alone; a line
        that cannot be read is passed over.
        """
        with self._lock:
            if not self._path.exists():
                self._forget()
                return
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._end:
                    self._forget()
                    self._inode = status.st_ino
                if status.st_size == self._end:
                    return
                file.seek(self._end)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._index(line)
                    self._end += len(line)

    def _forget(self) -> None:
        """Begin anew: the file was deleted, or is another one now."""
        self._end = 0
        self._inode = None
        self._answers.clear()
        self._runs.clear()
        self._descriptor = None

    def find(self, scope: str, key: str) -> tuple[int, Outcome] | None:
        """Where the accepted answer to a key stands, and the answer."""
        at = self._answers.get(_answer_key(scope, key))
        return None if at is None else (at, Outcome.from_dict(self._read(at)["outcome"]))

    def outcomes(
        self, run: str, start: int = 0, stop: int | None = None, samples: int = 1
    ) -> Iterator[Outcome]:
        """The outcomes of a run in input order; places without one are passed over."""
        offsets = self._runs.get(run, array("q"))
        for place in range(start, len(offsets) if stop is None else min(stop, len(offsets))):
            if offsets[place] >= 0:
                entry = self._read(offsets[place])
                outcome = Outcome.from_dict(entry["outcome"])
                paid_here = entry["run"] == run and entry["place"] == place
                yield outcome if paid_here else _reused(outcome, *divmod(place, samples))

    def count(self, run: str, start: int, stop: int) -> int:
        """How many places of a run, from `start` up to `stop`, have an outcome."""
        offsets = self._runs.get(run, array("q"))
        return sum(offset >= 0 for offset in offsets[start:stop])

    def _read(self, at: int) -> dict[str, Any]:
        line = b""
        while not line.endswith(b"\n"):
            piece = os.pread(self._reader(), _PIECE, at + len(line))
            line += piece[: piece.index(b"\n") + 1] if b"\n" in piece else piece
            if not piece:
                raise OSError(f"{self._path} ends in the middle of an outcome.")
        entry: dict[str, Any] = orjson.loads(line)
        return entry

    def _reader(self) -> int:
        with self._opening:  # not the lock that is held while the disk is at work
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDONLY)
                weakref.finalize(self, os.close, self._descriptor)
            return self._descriptor

    def _index(self, line: bytes) -> None:
        """Take note of a line at `_end`."""
        try:
            entry = orjson.loads(line)
            if (outcome := entry.get("outcome")) is None:
                self._put(entry["run"], entry["place"], entry["at"])
                return
            if outcome["ok"]:
                self._answers[_answer_key(entry["scope"], outcome["key"])] = self._end
            self._put(entry["run"], entry["place"], self._end)
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
            logger.warning("%s has an unreadable line at byte %d.", self._path, self._end)

    def _put(self, run: str, place: int, at: int) -> None:
        offsets = self._runs.setdefault(run, array("q"))
        if place >= len(offsets):
            offsets.extend([-1] * max(place + 1 - len(offsets), len(offsets)))
        offsets[place] = at


def _answer_key(scope: str, key: str) -> str:
    return f"{scope}/{key}"


def _reused(outcome: Outcome, index: int, sample: int) -> Outcome:
    """The answer of another item, or of an earlier run, as this item's."""
    meta = {**outcome.meta, "cached": True}
    return replace(outcome, index=index, sample=sample, attempts=0, meta=meta)


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
    """A forked child must not write again what its parent has yet to write."""
    global _logs_lock
    _logs_lock = threading.Lock()
    for log in list(_logs.values()):
        log.forget_unwritten()


os.register_at_fork(after_in_child=_after_fork)
