"""A session: one process's time as the writer of a journal, and what it writes then."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from langgraph_hpc_fanout.journal import line, segments
from langgraph_hpc_fanout.journal.errors import JournalError
from langgraph_hpc_fanout.journal.owner import Ownership
from langgraph_hpc_fanout.journal.unwritten import Part, Unwritten


class Session:
    """Lines from the moment they are remembered until they are in segments of this session.

    Remembering touches no disk and storing does; the two may happen in different threads, but
    each in one thread at a time, and so may `unwritten` be used.

    Args:
        directory: Of the journal.
        ownership: That it is ours.
        segment: Number of the first segment to write.
    """

    def __init__(self, directory: Path, ownership: Ownership, segment: int) -> None:
        self.ownership = ownership
        self.unwritten = Unwritten(segment)
        self._directory = directory
        self._files: dict[int, segments.SegmentFile] = {}
        self._ends: dict[int, int] = {}
        self._abouts: dict[str, Mapping[str, Any]] = {}
        self._numbers: dict[str, int] = {}

    @property
    def ends(self) -> Mapping[int, int]:
        """The segments that were written, and how many bytes of each."""
        return self._ends

    def knows(self, run: str) -> bool:
        """Whether a run has begun in this session."""
        return run in self._abouts

    def introduce(self, run: str, about: Mapping[str, Any]) -> None:
        """Say what there is to say of a run."""
        self._abouts[run] = about

    def about(self, run: str) -> Mapping[str, Any]:
        """What was said of a run."""
        return self._abouts[run]

    def number_of(self, run: str) -> int | None:
        """The number of a run in the current segment, once it has one."""
        return self._numbers.get(run)

    def begin(self, run: str) -> int:
        """Give a run that was introduced a number in the current segment."""
        body = orjson.dumps({"id": run, "about": self._abouts[run]})
        number = len(self._numbers) + 1
        self.unwritten.add(line.encode(line.BEGIN, number, 0, line.NO_DIGEST, body))
        self._numbers[run] = number
        return number

    def rotate(self) -> None:
        """Go on in another segment, where runs have other numbers."""
        self.unwritten.rotate()
        self._numbers.clear()

    def store(self, part: Part) -> None:
        """Put a part into its segment, safely on disk.

        Raises:
            JournalError: If another process has made that segment.
            OSError: If the disk does not take it; to be stored again.
        """
        if part.segment not in self._files:
            self._open(part.segment)
        self._files[part.segment].write(part.start, part.data)
        self._ends[part.segment] = part.end

    def has_opened(self, segment: int) -> bool:
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
