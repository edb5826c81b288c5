"""Items that failed, from a file of dead letters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from langgraph_hpc_fanout.items.json_lines import JsonLines
from langgraph_hpc_fanout.items.lines import Lines

_FIELDS = {"item", "index", "failures"}


class DeadLetters(JsonLines):
    """Items that failed in an earlier run, from the file to which they were exported.

    Each line has an `item`, and beside it its `index` and its `failures`.

    Args:
        path: The file, JSON Lines, maybe compressed.

    Example:
        ```python
        again = FanOutNode(DeadLetters("failed.jsonl"), prompt, pool=pool)
        ```
    """

    kind = "dead_letters"

    def _meant(self, value: Any, lines: Lines) -> Any:
        if not isinstance(value, dict) or "item" not in value:
            return self._bad(lines, "no dead letter (it has no item)")
        return value["item"]


def are_letters(rows: Iterable[Any]) -> bool:
    """Whether rows are dead letters themselves, and not the items in them."""
    return any(isinstance(row, Mapping) and row.keys() == _FIELDS for row in rows)
