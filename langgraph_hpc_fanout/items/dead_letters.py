"""Items that failed, from a file of dead letters."""

from __future__ import annotations

from typing import Any

from langgraph_hpc_fanout.items.json_lines import JsonLines
from langgraph_hpc_fanout.items.lines import Lines


class DeadLetters(JsonLines):
    """Items that failed in an earlier run, from the file to which they were exported.

    Each line has the `item`, and beside it how it failed: `index`, `key`, `failure`.

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
