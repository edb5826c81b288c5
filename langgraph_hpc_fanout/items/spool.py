"""Items that came from a generator or from graph state, written down to be read in slices.

The file: 8 bytes of magic; frames, each some thousand items as LangGraph's checkpoints would hold
them; for each frame where it begins, how many items are in it, and its checksum; at the end where
that table begins, how many frames there are, the table's checksum, and the magic once more.
"""

from __future__ import annotations

import os
import struct
import uuid
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, islice, repeat
from pathlib import Path
from typing import Any, BinaryIO

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_hpc_fanout import atomic
from langgraph_hpc_fanout.items.files import Stamp, stamp_of, unreadable
from langgraph_hpc_fanout.items.sliced import Sliced
from langgraph_hpc_fanout.items.source import BadRow, SourceError

_MAGIC = b"hpcfan-1"
_FRAME = struct.Struct("<QII")
_END = struct.Struct("<QQI8s")
_FIRST_ROWS = 16
_MOST_ROWS = 1024
_FRAME_BYTES = 2**20
_SERDE = JsonPlusSerializer()


@dataclass(frozen=True, slots=True)
class _Survey:
    """What a spool holds.

    Attributes:
        stamp: Of the file.
        count: How many items it has.
        offsets: Where each frame begins, and where the last one ends.
        firsts: Number of each frame's first item, and of the last one's last plus one.
        checksums: Of each frame.
    """

    stamp: Stamp
    count: int
    offsets: tuple[int, ...]
    firsts: tuple[int, ...]
    checksums: tuple[int, ...]


class Spool(Sliced[_Survey]):
    """Items that `spool` wrote.

    Args:
        path: The file.
    """

    kind = "spool"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)

    def _look(self) -> _Survey:
        stamp = stamp_of(self.name, self.path)
        with self._opened() as file:
            try:
                end, table = _read_table(file, stamp.size)
            except (ValueError, struct.error) as error:
                raise SourceError(
                    f"{self.name} is no whole file of items ({error}); start a new run."
                ) from error
        offsets, rows, checksums = zip(*table, strict=True) if table else ((), (), ())
        firsts = tuple(accumulate(rows, initial=0))
        return _Survey(stamp, firsts[-1], (*offsets, end), firsts, checksums)

    def _read_from(self, start: int) -> Iterator[Any]:
        survey = self.survey
        with self._opened() as file:
            frame = bisect_right(survey.firsts, start) - 1
            file.seek(survey.offsets[frame])
            for at in range(frame, len(survey.checksums)):
                rows = self._frame(file, survey, at)
                yield from islice(rows, max(0, start - survey.firsts[at]), None)

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        try:
            with self.path.open("rb") as file:
                yield file
        except OSError as error:
            raise unreadable(self.name, self.path, error) from error

    def _frame(self, file: BinaryIO, survey: _Survey, at: int) -> Iterable[Any]:
        payload = file.read(survey.offsets[at + 1] - survey.offsets[at])
        if zlib.crc32(payload) == survey.checksums[at]:
            rows: list[Any] = _SERDE.loads_typed(("msgpack", payload))
            return rows
        reason = f"{self.name}, byte {survey.offsets[at]}: {len(payload)} bytes are damaged"
        return repeat(BadRow(reason), survey.firsts[at + 1] - survey.firsts[at])


def spool(rows: Iterable[Any], directory: Path, name: str) -> Spool:
    """Write items down, so that they can be read in slices, by other processes, too.

    What a checkpoint can hold comes back as it would from there: messages, pydantic models, dates
    as they were, tuples as lists. The file appears under its name when it is whole; a process that
    is killed before leaves one that ends in `.partial`, and may be deleted.

    Args:
        rows: The items; consumed once, never held together.
        directory: The file is made in `items/` below it.
        name: The file's name, without a suffix.

    Raises:
        SourceError: If there is an item that a checkpoint cannot hold; it is named.
        OSError: If the disk does not take it.
    """
    path = directory / "items" / f"{name}.spool"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{name}.{uuid.uuid4().hex}.partial")
    with atomic.replacing(path, partial) as file:
        _write(file, rows)
    return Spool(path)


def _write(file: BinaryIO, rows: Iterable[Any]) -> None:
    table = []
    at = file.write(_MAGIC)
    for frame, count in _frames(iter(rows)):
        table.append(_FRAME.pack(at, count, zlib.crc32(frame)))
        at += file.write(frame)
    packed = b"".join(table)
    file.write(packed)
    file.write(_END.pack(at, len(table), zlib.crc32(packed), _MAGIC))


def _frames(rows: Iterator[Any]) -> Iterator[tuple[bytes, int]]:
    """Frames of about a megabyte, and how many items are in each."""
    size, done = _FIRST_ROWS, 0
    while chunk := list(islice(rows, size)):
        frame = _encoded(chunk, done)
        yield frame, len(chunk)
        done += len(chunk)
        size = max(1, min(_MOST_ROWS, len(chunk) * _FRAME_BYTES // len(frame)))


def _encoded(chunk: list[Any], first: int) -> bytes:
    try:
        return _SERDE.dumps_typed(chunk)[1]
    except Exception:  # whatever an item's own methods raise
        for number, item in enumerate(chunk, first):
            try:
                _SERDE.dumps_typed([item])
            except Exception as error:
                raise SourceError(
                    f"Item {number} is a {type(item).__name__} that cannot be written down, as no "
                    f"checkpoint could hold it ({error}); make plain data of it."
                ) from error
        raise


def _read_table(file: BinaryIO, size: int) -> tuple[int, list[tuple[int, int, int]]]:
    """Where frames end, and of each its offset, how many items it has, and its checksum."""
    if file.read(len(_MAGIC)) != _MAGIC or size < len(_MAGIC) + _END.size:
        raise ValueError("it does not begin like one")
    file.seek(size - _END.size)
    end, count, checksum, magic = _END.unpack(file.read())
    if magic != _MAGIC or end + count * _FRAME.size + _END.size != size:
        raise ValueError("it does not end like one")
    file.seek(end)
    packed = file.read(count * _FRAME.size)
    if zlib.crc32(packed) != checksum:
        raise ValueError("its table is damaged")
    return end, list(_FRAME.iter_unpack(packed))
