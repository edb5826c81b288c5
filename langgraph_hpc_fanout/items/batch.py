"""Items from OpenAI batch input files."""

from __future__ import annotations

from typing import Any

from langgraph_hpc_fanout.items.json_lines import JsonLines
from langgraph_hpc_fanout.items.lines import Lines

_FIELDS = ("custom_id", "method", "url", "body")
_USUAL = {"method": "POST", "url": "/v1/chat/completions"}


class OpenAIBatch(JsonLines):
    """Items from an OpenAI batch input file.

    Items have `custom_id`, `method`, `url` and `body`. A line without a `custom_id` or a `body`
    fails its item alone; `method` and `url` may be left out.

    Args:
        path: The file, JSON Lines, maybe compressed.

    Example:
        ```python
        screen = FanOutNode(OpenAIBatch("batch_input.jsonl"), task, pool=pool, key="custom_id")
        ```
    """

    kind = "openai_batch"

    def fields(self) -> tuple[str, ...]:
        """The fields of a batch request."""
        return _FIELDS

    def _meant(self, value: Any, lines: Lines) -> Any:
        if not isinstance(value, dict):
            kind = type(value).__name__
            return self._bad(lines, f"no batch request (a {kind}, where an object is needed)")
        if not isinstance(value.get("custom_id"), str):
            return self._bad(lines, "no batch request (custom_id is missing, or no text)")
        if not isinstance(value.get("body"), dict):
            return self._bad(lines, "no batch request (body is missing, or no object)")
        return {**_USUAL, **value}
