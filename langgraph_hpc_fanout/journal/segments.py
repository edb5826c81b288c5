"""The segments of a journal: files of lines that only grow, each written by one session."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from langgraph_hpc_fanout import atomic

DIRECTORY = "segments"
_BLOCK = 8 << 20
_PIECE = 8192
_MOST_OPEN = 64


def path_of(directory: Path, segment: int) -> Path:
    """Where a segment of the journal in a directory is."""
    return directory / DIRECTORY / f"{segment:06d}.jsonl"


def sizes(directory: Path) -> dict[int, int]:
    """The segments of a journal, oldest first, and their bytes."""
    try:
        with os.scandir(directory / DIRECTORY) as entries:
            found = {
                int(entry.name.partition(".")[0]): entry.stat().st_size
                for entry in entries
                if entry.name.endswith(".jsonl") and entry.name.partition(".")[0].isdecimal()
            }
    except FileNotFoundError:
        return {}
    return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines of a segment.

    Attributes:
        start: Offset of the first, in bytes.
        data: All of them, up to and with the last newline.
    """

    start: int
    data: bytes


def blocks(path: Path, start: int) -> Iterator[Block]:
    """The whole lines of a segment from an offset on, some megabytes at a time."""
    rest, wanted = b"", _BLOCK
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while piece := file.read(wanted):
            rest += piece
            end = rest.rfind(b"\n") + 1
            if end:
                yield Block(start, rest[:end])
                start, rest, wanted = start + end, rest[end:], _BLOCK
            else:
                wanted *= 2  # a line longer than a block: look at it a few times, not often


class SegmentFile:
    """A segment that this session writes.

    Args:
        path: Where; must not be there yet.

    Raises:
        FileExistsError: If it is.
        OSError: If it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self.close = weakref.finalize(self, os.close, self._descriptor)
        self.close.atexit = False  # what is left is written at exit, maybe after finalizers
        atomic.sync_directory(path.parent)
        atomic.sync_directory(path.parent.parent)

    def write(self, offset: int, data: bytes | bytearray) -> None:
        """Put data at an offset, safely on disk.

        After an error, do the same again: what was written in part is written over. That holds
        for a failed fsync too, after which the system may have dropped what it did not write.

        Raises:
            OSError: If the disk does not take it.
        """
        with memoryview(data) as rest:
            done = 0
            while done < len(rest):
                done += os.pwrite(self._descriptor, rest[done:], offset + done)
        os.fsync(self._descriptor)


class _Reader:
    """A segment that is open for reading, for as long as anybody uses it."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def line(self, offset: int) -> bytes | None:
        line = b""
        while piece := os.pread(self._descriptor, _PIECE, offset + len(line)):
            end = piece.find(b"\n")
            if end >= 0:
                return line + piece[:end]
            line += piece
        return None


class Readers:
    """The segments of a journal, open for reading: few at a time. For any number of threads.

    Args:
        directory: Of the journal.
    """

    def __init__(self, directory: Path) -> None:
        self._reader = lru_cache(_MOST_OPEN)(lambda number: _Reader(path_of(directory, number)))

    def line(self, segment: int, offset: int) -> bytes | None:
        """The line at an offset, without the newline; None if it has no end.

        Raises:
            OSError: If it cannot be read.
        """
        return self._reader(segment).line(offset)
