"""A reducer that writes a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph_hpc_fanout.journal.export.parquet import ROW_GROUP, check_settings, to_parquet
from langgraph_hpc_fanout.records import Outcome

if TYPE_CHECKING:
    import pyarrow as pa


def table(
    path: str | os.PathLike[str],
    *,
    row_group: int = ROW_GROUP,
    values: pa.DataType | None = None,
) -> Callable[[Iterable[Outcome]], dict[str, Any]]:
    """A reducer that writes the outcomes as a Parquet file, one a row; columns as `to_parquet`.

    The file is there when it is complete; until then an older one stays.

    Args:
        path: File to write; its directory is made when it is not there.
        row_group: Bytes of a row group before it is encoded, about. Larger ones are read faster
            and take more memory to write.
        values: Arrow type of the values, such as `pyarrow.struct([("class", pyarrow.string())])`.
            By default they are texts, and what is no text is written as its JSON.

    Returns:
        A reducer that gives `{"path", "rows", "ok", "failed"}`.

    Raises:
        ImportError: If pyarrow is missing; it comes with the extra `parquet`.
        TypeError: If `values` is no Arrow type.
        ValueError: If `row_group` is less than 1; from the reducer, if a value does not fit.

    Example:
        ```python
        gather = ReduceNode(screen, into="file", reducer=reducers.table("runs/screen.parquet"))
        ```
    """
    check_settings("table", row_group, values)
    # Made absolute here: a node may run after a change of directory.
    target = Path(os.path.realpath(path))

    def reduce(outcomes: Iterable[Outcome]) -> dict[str, Any]:
        ok = 0

        def counted() -> Iterator[Outcome]:
            nonlocal ok
            for outcome in outcomes:
                ok += outcome.ok
                yield outcome

        rows = to_parquet(counted(), target, row_group=row_group, values=values)
        return {"path": str(target), "rows": rows, "ok": ok, "failed": rows - ok}

    return reduce
