"""A session: one process's time as the writer of a journal, and what it writes then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from langgraph_hpc_fanout.journal import line, segments
from langgraph_hpc_fanout.journal.errors import JournalError
from langgraph_hpc_fanout.journal.location import pack
from langgraph_hpc_fanout.journal.owner import Ownership
from langgraph_hpc_fanout.journal.unwritten import Part, Unwritten

Begun = Callable[[int, int, str, Mapping[str, Any]], None]
"""Told segment and number in it, id and about of a run."""


class Session:
    """Lines from the moment they are remembered until they are in segments of this session.

    Remembering touches no disk and storing does; the two may happen in different threads, but
    each in one thread at a time, and so may `unwritten` be used.

    Args:
        directory: Of the journal.
        ownership: That it is ours.
        segment: Number of the first segment to write.
        begun: Called when a run gets a number in a segment.
    """

    def __init__(self, directory: Path, ownership: Ownership, segment: int, begun: Begun) -> None:
        self.ownership = ownership
        self.unwritten = Unwritten(segment)
        self.ends: dict[int, int] = {}
        self._directory = directory
        self._begun = begun
        self._files: dict[int, segments.SegmentFile] = {}
        self._abouts: dict[str, Mapping[str, Any]] = {}
        self._numbers: dict[str, int] = {}

    def begin(self, run: str, about: Mapping[str, Any]) -> None:
        """Let a run begin, unless it has."""
        if run not in self._abouts:
            self._give_number(run, about)
            self._abouts[run] = about

    def add(
        self, kind: str, run: str | None, place: int, digest: str, body: bytes, *, ok: bool = False
    ) -> int:
        """Remember a line; returns its location.

        Raises:
            KeyError: If the run has not begun in this session.
        """
        if self.unwritten.is_full:
            self.unwritten.rotate()
            self._numbers.clear()
        number = 0 if run is None else self._number_of(run)
        offset = self.unwritten.add(line.encode(kind, number, place, digest, body))
        return pack(self.unwritten.segment, offset, ok=ok)

    def _number_of(self, run: str) -> int:
        """The number of a run in the segment where the next line stands."""
        number = self._numbers.get(run)
        return self._give_number(run, self._abouts[run]) if number is None else number

    def _give_number(self, run: str, about: Mapping[str, Any]) -> int:
        number = len(self._numbers) + 1
        body = orjson.dumps({"id": run, "about": about})
        self.unwritten.add(line.encode(line.BEGIN, number, 0, line.NO_DIGEST, body))
        self._begun(self.unwritten.segment, number, run, about)
        self._numbers[run] = number
        return number

    def store(self, part: Part) -> None:
        """Put a part into its segment, safely on disk.

        Raises:
            JournalError: If another process has made that segment.
            OSError: If the disk does not take it; to be stored again.
        """
        if part.segment not in self._files:
            self._open(part.segment)
        self._files[part.segment].write(part.start, part.data)
        self.ends[part.segment] = part.end

    def has_made(self, segment: int) -> bool:
        """Whether a segment is there, made by this session."""
        return segment in self._files

    def close(self) -> None:
        """Write no more."""
        for file in self._files.values():
            file.close()

    def _open(self, segment: int) -> None:
        path = segments.path_of(self._directory, segment)
        try:
            self._files[segment] = segments.SegmentFile(path)
        except FileExistsError as error:
            raise JournalError(
                f"{path} was made by another process that took this journal for its own; "
                "run the graph again, once that process is done.",
                journal=str(self._directory),
            ) from error
