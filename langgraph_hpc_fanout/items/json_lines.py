"""Items from JSON Lines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import orjson

from langgraph_hpc_fanout.items.files import MOST_BYTES
from langgraph_hpc_fanout.items.lines import LineFile, Lines
from langgraph_hpc_fanout.items.source import BadRow


class JsonLines(LineFile):
    """Items from a file with one JSON value a line.

    Blank lines are no items. A line that is no JSON, `NaN` included, or not UTF-8, fails its item
    alone and is named.

    Args:
        path: The file: `.jsonl` or `.ndjson`, maybe compressed: `.gz`, `.zst` (needs pyarrow).

    Example:
        ```python
        screen = FanOutNode(JsonLines("papers.jsonl.gz"), prompt, pool=pool)
        ```
    """

    kind = "json_lines"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)

    def _rows(self, lines: Lines) -> Iterator[bytes]:
        for line in lines:
            if line and not line.isspace():
                yield line

    def _item(self, row: bytes, lines: Lines) -> Any:
        if len(row) >= MOST_BYTES:
            size = MOST_BYTES // 2**20
            return self._bad(lines, f"longer than {size} MB; JSON Lines have one value a line")
        try:
            value = orjson.loads(row)
        except orjson.JSONDecodeError as error:
            return self._bad(lines, _fault(row, error))
        return self._meant(value, lines)

    def _meant(self, value: Any, lines: Lines) -> Any:
        """The item that a value stands for; here itself."""
        return value

    def _bad(self, lines: Lines, why: str) -> BadRow:
        return BadRow(f"{self.name}, line {lines.line}: {why}")


def _fault(row: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        row.decode()
    except UnicodeDecodeError as undecodable:
        return f"not UTF-8 (byte {undecodable.start + 1})"
    column = min(error.pos, len(row.rstrip())) + 1
    return f"no JSON ({error.msg}, column {column})"
