"""Outcomes as JSON Lines."""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from langgraph_hpc_fanout.journal.export.files import PathLike, write_lines
from langgraph_hpc_fanout.records import Outcome


def to_json_lines(results: Iterable[Outcome], path: PathLike) -> int:
    """Write every outcome as one line of JSON, with the fields of `Outcome.to_dict`.

    Args:
        results: The outcomes.
        path: File to write, compressed when it ends in `.gz`.

    Returns:
        Number of lines.

    Raises:
        OSError: If the file cannot be written.
    """
    option = orjson.OPT_APPEND_NEWLINE
    return write_lines(path, (orjson.dumps(outcome, option=option) for outcome in results))
