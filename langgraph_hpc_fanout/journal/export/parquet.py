"""Outcomes as a Parquet file, written in row groups while they are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, BinaryIO

from langgraph_hpc_fanout.journal.export.columns import PREFIX, REPETITIVE, Columns
from langgraph_hpc_fanout.journal.export.files import PathLike, replacing
from langgraph_hpc_fanout.records import Outcome

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROW_GROUP = 4 * 1024 * 1024
"""Bytes of a row group before it is encoded: with it, writing takes some 40 MB."""

_BATCH = 256
"""Outcomes that are turned into columns at once."""


def to_parquet(
    results: Iterable[Outcome],
    path: PathLike,
    *,
    row_group: int = ROW_GROUP,
    values: pa.DataType | None = None,
) -> int:
    """Write the outcomes, one a row, as a Parquet file.

    Columns: `index`, `key`, `sample`, `ok`, `value`, `error_kind`, `error_message`, `model`,
    `endpoint`, `prompt_tokens`, `completion_tokens`, `attempts`, `latency` (seconds),
    `finish_reason`, `cost` (dollars), `cached`; of a sweep also `sweep_<name>` for each
    coordinate, numbers as doubles.

    Args:
        results: The outcomes.
        path: File to write.
        row_group: Bytes of a row group before it is encoded, about. Larger ones are read faster
            and take more memory to write.
        values: Arrow type of the values. By default they are texts, and what is no text is
            written as its JSON.

    Returns:
        Number of rows.

    Raises:
        ImportError: If pyarrow is missing; it comes with the extra `parquet`.
        TypeError: If `values` is no Arrow type.
        ValueError: If `row_group` is less than 1, or a value does not fit its type; the message
            names the item.
        OSError: If the file cannot be written.
    """
    check_settings("to_parquet", row_group, values)
    outcomes = iter(results)
    first = list(islice(outcomes, _BATCH))
    columns = Columns(first, values)
    rows = 0
    with (
        replacing(path) as file,
        _writer(file, columns.schema) as writer,
    ):
        for group in _row_groups(columns, chain(first, outcomes), row_group):
            writer.write_table(group, row_group_size=group.num_rows)
            rows += group.num_rows
    return rows


def check_settings(of: str, row_group: int, values: Any) -> None:
    """Refuse at once what would fail after a run of hours; `of` names the caller.

    Raises:
        ImportError: If pyarrow is missing; the message names the extra.
        TypeError: If `values` is no Arrow type.
        ValueError: If `row_group` is less than 1.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            f'{of} needs pyarrow: pip install "langgraph-hpc-fanout[parquet]".', name="pyarrow"
        ) from error
    if row_group < 1:
        raise ValueError(f"{of}(row_group={row_group!r}) must be at least one byte.")
    if values is not None and not isinstance(values, pa.DataType):
        raise TypeError(f"{of}(values={values!r}) is no Arrow type such as pyarrow.string().")


def _writer(file: BinaryIO, schema: pa.Schema) -> pq.ParquetWriter:
    import pyarrow.parquet as pq  # noqa: PLC0415

    # Dictionaries of columns in which no two rows are alike would cost more than they save.
    alike = [name for name in schema.names if name in REPETITIVE or name.startswith(PREFIX)]
    return pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=alike)


def _row_groups(columns: Columns, outcomes: Iterator[Outcome], most: int) -> Iterator[Any]:
    import pyarrow as pa  # noqa: PLC0415

    batches: list[pa.RecordBatch] = []
    size = 0
    while some := list(islice(outcomes, _BATCH)):
        batches.append(columns.batch(some))
        size += batches[-1].nbytes
        if size >= most:
            yield pa.Table.from_batches(batches)
            batches, size = [], 0
    if batches:
        yield pa.Table.from_batches(batches)
