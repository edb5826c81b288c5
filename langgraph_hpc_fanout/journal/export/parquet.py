"""Outcomes as a Parquet file, written in row groups while they are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from langgraph_hpc_fanout.journal.export.columns import Columns, require_pyarrow
from langgraph_hpc_fanout.journal.export.files import PathLike, replacing
from langgraph_hpc_fanout.records import Outcome

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP = 8 * 1024 * 1024
"""Bytes of a row group before it is encoded."""

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
    `finish_reason`, `cached`; of a sweep also `sweep_<name>` for each coordinate, numbers as
    doubles.

    Args:
        results: The outcomes.
        path: File to write.
        row_group: Bytes of a row group before it is encoded, about; as much is held in memory.
        values: Arrow type of the values. By default they are texts, and what is no text is
            written as its JSON.

    Returns:
        Number of rows.

    Raises:
        ImportError: If pyarrow is missing; it comes with the extra `parquet`.
        ValueError: If a value does not fit its type; the message names the item.
        OSError: If the file cannot be written.
    """
    require_pyarrow("to_parquet")
    import pyarrow.parquet as pq  # noqa: PLC0415

    outcomes = iter(results)
    first = list(islice(outcomes, _BATCH))
    columns = Columns(first, values)
    rows = 0
    with (
        replacing(path) as file,
        pq.ParquetWriter(file, columns.schema, compression="zstd") as writer,
    ):
        for group in _row_groups(columns, chain(first, outcomes), row_group):
            writer.write_table(group, row_group_size=group.num_rows)
            rows += group.num_rows
    return rows


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
