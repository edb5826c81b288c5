"""Items from Parquet, row group by row group."""

from __future__ import annotations

import glob
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph_hpc_fanout.items.files import (
    Stamp,
    check_unchanged,
    pyarrow_for,
    reason_of,
    stamp_of,
    stamp_of_all,
)
from langgraph_hpc_fanout.items.sliced import Sliced
from langgraph_hpc_fanout.items.source import BadRow, SourceError

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import ParquetFile

_BATCH_BYTES = 4 * 2**20
_MOST_BATCH_ROWS = 2048
_READ_BYTES = 2**20
_NO_OBJECT = (ValueError, OverflowError)
"""What a value raises that Python has no object for: texts that are not UTF-8, times too late."""


@dataclass(frozen=True, slots=True)
class _File:
    """One Parquet file.

    Attributes:
        name: What people know it by.
        path: Where it is.
        stamp: Of when it was looked through.
        fields: Its columns.
        edges: Number of each row group's first row, among the rows of all files, and of the row
            that would follow the last.
    """

    name: str
    path: Path
    stamp: Stamp
    fields: tuple[str, ...]
    edges: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Survey:
    """What the files hold.

    Attributes:
        stamp: Of all files.
        count: How many rows they have.
        files: Each of them, in order.
    """

    stamp: Stamp
    count: int
    files: tuple[_File, ...]


class Parquet(Sliced[_Survey]):
    """Items from the rows of Parquet files: dicts of Python objects. Needs pyarrow.

    Rows are read in batches of some thousands, however large the row groups are. Where a page
    is damaged, the rest of its row group fails, item by item; the next row group is read. Times in
    nanoseconds need pandas.

    Args:
        path: A file; or several: a directory with `*.parquet` in it or a pattern such as
            `papers/part-*.parquet`, read one after another in the order of their names.
        columns: The columns to read; by default all.

    Raises:
        ValueError: If `columns` is empty.

    Example:
        ```python
        screen = FanOutNode(Parquet("papers.parquet", ["id", "text"]), prompt, pool=pool)
        ```
    """

    kind = "parquet"

    def __init__(
        self, path: str | os.PathLike[str], columns: str | Sequence[str] | None = None
    ) -> None:
        if isinstance(columns, str):
            columns = [columns]
        chosen = None if columns is None else list(columns)
        if chosen == []:
            raise ValueError("Parquet(columns=[]) reads nothing; name columns, or leave it out.")
        super().__init__(path, columns=chosen)
        self._columns = chosen

    def fields(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(self._columns or self.survey.files[0].fields)

    def _look(self) -> _Survey:
        files: list[_File] = []
        count = 0
        for path in self._paths():
            files.append(self._look_at(path, count))
            count = files[-1].edges[-1]
        if len(files) == 1:
            return _Survey(files[0].stamp, count, tuple(files))
        stamp = stamp_of_all((each.name, each.stamp.size, each.stamp.changed) for each in files)
        return _Survey(stamp, count, tuple(files))

    def _paths(self) -> list[Path]:
        if self.path.is_dir():
            pattern = self.path / "*.parquet"
        elif glob.has_magic(str(self.path)) and not self.path.exists():
            pattern = self.path
        else:
            return [self.path]
        root = Path(pattern.anchor)
        if paths := sorted(root.glob(str(pattern.relative_to(root)))):
            return paths
        raise SourceError(f"{self.name} holds no Parquet files: nothing matches {pattern}.")

    def _look_at(self, path: Path, first: int) -> _File:
        name = self.name if path == self.path else str(path)
        stamp = stamp_of(name, path)
        with self._opened(name, path) as parquet:
            names = tuple(parquet.schema_arrow.names)
            metadata = parquet.metadata
            sizes = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
        if absent := sorted(set(self._columns or ()) - set(names)):
            raise SourceError(f"{name} has no column {absent[0]!r}; it has {', '.join(names)}.")
        if len(set(names)) < len(names):
            raise SourceError(f"{name} has two columns of the same name; rename one.")
        return _File(name, path, stamp, names, tuple(accumulate(sizes, initial=first)))

    @contextmanager
    def _opened(self, name: str, path: Path) -> Iterator[ParquetFile]:
        arrow = pyarrow_for(name)
        try:
            file = arrow.parquet.ParquetFile(
                path, buffer_size=_READ_BYTES, page_checksum_verification=True
            )
        except (OSError, arrow.ArrowException) as error:
            raise SourceError(
                f"{name} cannot be read as Parquet ({reason_of(error)}); is it cut off? Write or "
                "fetch it again."
            ) from error
        with file:
            yield file

    def _check(self, start: int, stop: int) -> None:
        for each in self.survey.files:
            if each.edges[0] < stop and each.edges[-1] > start:
                check_unchanged(each.name, each.stamp, stamp_of(each.name, each.path))

    def _read_from(self, start: int) -> Iterator[Any]:
        for file in self.survey.files:
            if file.edges[-1] > start:
                with self._opened(file.name, file.path) as parquet:
                    first = max(0, bisect_right(file.edges, start) - 1)
                    for group in range(first, len(file.edges) - 1):
                        yield from self._read_group(file, parquet, group, start)

    def _read_group(
        self, file: _File, parquet: ParquetFile, group: int, start: int
    ) -> Iterator[Any]:
        """The rows of a row group from `start` on."""
        at, stop = file.edges[group : group + 2]
        arrow = pyarrow_for(file.name)
        batches = parquet.iter_batches(
            _batch_rows(parquet, group), [group], self._columns, use_threads=False
        )
        try:
            for batch in batches:
                if (skipped := max(0, start - at)) < len(batch):
                    yield from self._items(file, batch.slice(skipped), at + skipped)
                at += len(batch)
        except (OSError, arrow.ArrowException) as error:
            self._check(at, stop)
            where = f"{file.name}, row group {group}, rows from {at - file.edges[0]}"
            reason = f"{where}: damaged ({reason_of(error)})"
            yield from repeat(BadRow(reason), stop - max(at, start))

    def _items(self, file: _File, batch: RecordBatch, first: int) -> list[Any]:
        try:
            items: list[Any] = batch.to_pylist()
        except _NO_OBJECT:
            number = first - file.edges[0]
            return [_item(file.name, batch, at, number + at) for at in range(len(batch))]
        return items


def _batch_rows(parquet: ParquetFile, group: int) -> int:
    """How many rows of a row group to hold as Python objects at once."""
    metadata = parquet.metadata.row_group(group)
    row_bytes: int = metadata.total_byte_size // max(1, metadata.num_rows)
    return max(1, min(_MOST_BATCH_ROWS, _BATCH_BYTES // max(1, row_bytes)))


def _item(name: str, batch: RecordBatch, at: int, number: int) -> Any:
    """One row of a batch in which not all rows can be read."""
    item = {}
    for field, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            item[field] = column[at].as_py()
        except _NO_OBJECT as error:
            return BadRow(f"{name}, row {number}: {field} cannot be read ({reason_of(error)})")
    return item
