"""Files of lines: where rows begin, found while counting, and read from there."""

from __future__ import annotations

import os
from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self

from langgraph_hpc_fanout.items.files import (
    MOST_BYTES,
    UNREADABLE,
    Stamp,
    check_unchanged,
    open_file,
    reason_of,
    stamp_of,
)
from langgraph_hpc_fanout.items.sliced import Sliced
from langgraph_hpc_fanout.items.source import SourceError

_BOM = b"\xef\xbb\xbf"
_MARK_EVERY = 1024
_PIECE = 2**20


class Mark(NamedTuple):
    """Where a row begins.

    Attributes:
        row: Its number, from 0.
        line: How many lines are before it.
        offset: How many bytes, decompressed.
    """

    row: int = 0
    line: int = 0
    offset: int = 0


class Marks:
    """Where some of the rows begin: 24 bytes for each thousand."""

    def __init__(self, *marks: Mark) -> None:
        self._rows, self._lines, self._offsets = array("q"), array("q"), array("q")
        for mark in marks:
            self.add(mark)

    def add(self, mark: Mark) -> None:
        """Add one that is behind all others."""
        self._rows.append(mark.row)
        self._lines.append(mark.line)
        self._offsets.append(mark.offset)

    def before(self, row: int) -> Mark:
        """The last mark that is not behind a row."""
        at = bisect_right(self._rows, row) - 1
        return Mark(self._rows[at], self._lines[at], self._offsets[at])


@dataclass(frozen=True, slots=True)
class LineSurvey:
    """What a file of lines holds.

    Attributes:
        stamp: Of the file that was counted.
        count: How many rows it has.
        marks: Where some of them begin.
    """

    stamp: Stamp
    count: int
    marks: Marks


class Lines:
    """The lines of a file from a mark on, and how far they were read. Closes with `with`.

    A byte order mark is dropped. Of a line longer than `MOST_BYTES` only so much is yielded.

    Args:
        name: The file's name, for errors.
        path: Where it is.
        mark: Where to begin.

    Attributes:
        line: How many lines were read.
        offset: How many bytes, decompressed.

    Raises:
        SourceError: If the file cannot be opened.
    """

    def __init__(self, name: str, path: Path, mark: Mark) -> None:
        self.line, self.offset = mark.line, mark.offset
        self._name = name
        self._start = mark.offset
        self._again: deque[bytes] = deque()
        self._file = open_file(name, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[bytes]:
        """The lines that are left, with their ends.

        Raises:
            SourceError: If the file cannot be read on: it is cut off, damaged or gone.
        """
        try:
            self._go_to_start()
            readline = self._file.readline
            while line := self._again.popleft() if self._again else readline(MOST_BYTES):
                self.line += 1
                self.offset += len(line)
                if self.line == 1:
                    line = line.removeprefix(_BOM)
                if len(line) >= MOST_BYTES:
                    self._pass_over_rest(line)
                yield line
        except UNREADABLE as error:
            raise SourceError(
                f"{self._name} cannot be read after line {self.line} ({reason_of(error)}); is it "
                "cut off or damaged? Fetch or write it again."
            ) from error

    def again(self, lines: Sequence[bytes]) -> None:
        """Give back the last lines that were read: they come once more."""
        self._again.extendleft(reversed(lines))
        self.line -= len(lines)
        self.offset -= sum(map(len, lines))

    def _go_to_start(self) -> None:
        if self._file.seekable():
            self._file.seek(self._start, os.SEEK_CUR)
            self._start = 0
        while self._start:
            self._start -= len(self._file.read(min(self._start, _PIECE))) or self._start

    def _pass_over_rest(self, line: bytes) -> None:
        while line and not line.endswith(b"\n"):
            line = self._file.readline(MOST_BYTES)
            self.offset += len(line)


class LineFile(Sliced[LineSurvey]):
    """A source that is a file of lines; subclasses say what a row is."""

    @abstractmethod
    def _rows(self, lines: Lines) -> Iterator[Any]:
        """The rows that begin in these lines, as little read as it takes to tell them apart."""

    @abstractmethod
    def _item(self, row: Any, lines: Lines) -> Any:
        """The item of the row that was read last, or a `BadRow`."""

    def _look(self) -> LineSurvey:
        stamp = stamp_of(self.name, self.path)
        marks = Marks(Mark())
        count = 0
        with Lines(self.name, self.path, Mark()) as lines:
            for count, _ in enumerate(self._rows(lines), 1):
                if not count % _MARK_EVERY:
                    marks.add(Mark(count, lines.line, lines.offset))
        check_unchanged(self.name, stamp, stamp_of(self.name, self.path))
        return LineSurvey(stamp, count, marks)

    def _read_from(self, start: int) -> Iterator[Any]:
        mark = self.survey.marks.before(start)
        with Lines(self.name, self.path, mark) as lines:
            for row in islice(self._rows(lines), start - mark.row, None):
                yield self._item(row, lines)

    def reference(self, start: int, stop: int) -> dict[str, Any]:
        """Plain data from which another process can read these items, without counting."""
        return {
            **super().reference(start, stop),
            "near": list(self.survey.marks.before(start)),
        }

    def _look_again(self, reference: Mapping[str, Any], stamp: Stamp) -> LineSurvey:
        check_unchanged(self.name, stamp, stamp_of(self.name, self.path))
        return LineSurvey(stamp, reference["count"], Marks(Mark(), Mark(*reference["near"])))
