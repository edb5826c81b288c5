"""The items that failed, as a file that can be asked about again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import orjson

from langgraph_hpc_fanout.items.source import BadRow, Source
from langgraph_hpc_fanout.journal.export.files import PathLike, write_lines
from langgraph_hpc_fanout.records import Outcome

_SKIP = 1_000
"""Most items that are read and dropped on the way to the next one, rather than begin a new read."""


def to_dead_letters(
    results: Iterable[Outcome], path: PathLike, items: Sequence[Any] | Source
) -> int:
    """Write the items that failed, one a line: `{"item", "index", "key", "sample", "failure"}`.

    Of a row that could not be read there is no `item`; its `failure` says where it is.

    Args:
        results: The outcomes, in input order.
        path: File to write, compressed when it ends in `.gz`.
        items: What the run was about: the list, or the source.

    Returns:
        Number of lines.

    Raises:
        TypeError: If `items` is a path.
        ValueError: If there are fewer items than outcomes speak of, or an item has no JSON form.
        OSError: If the file cannot be written.
    """
    if isinstance(items, str | os.PathLike):
        raise TypeError(
            f"to_dead_letters(items={os.fspath(items)!r}) takes the items themselves: give the "
            'source that the run read, such as JsonLines("papers.jsonl").'
        )
    reader = _Reader(items)
    failed = (outcome for outcome in results if not outcome.ok)
    return write_lines(path, (_letter(reader.item(each.index), each) for each in failed))


def _letter(item: Any, outcome: Outcome) -> bytes:
    letter = {
        **({} if isinstance(item, BadRow) else {"item": item}),
        "index": outcome.index,
        "key": outcome.key,
        "sample": outcome.sample,
        "failure": outcome.error,
    }
    try:
        return orjson.dumps(letter, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError as error:
        raise ValueError(
            f"Item {outcome.index} ({type(item).__name__}) cannot be written as JSON: {error}. "
            "Give items that are dicts, lists and scalars."
        ) from None


class _Reader:
    """Items by index, asked for in input order: one read goes on while they are close together."""

    def __init__(self, items: Sequence[Any] | Source) -> None:
        self._items = items
        self._rows: Iterator[Any] = iter(())
        self._next = 0
        self._last: tuple[int, Any] | None = None

    def item(self, index: int) -> Any:
        if index >= len(self._items):
            raise ValueError(
                f"There are {len(self._items)} items and an outcome of item {index}: give the "
                "items that the run was about."
            )
        if not isinstance(self._items, Source):
            return self._items[index]
        if self._last is None or self._last[0] != index:
            self._last = index, self._read(self._items, index)
        return self._last[1]

    def _read(self, source: Source, index: int) -> Any:
        if self._next == 0 or not 0 <= index - self._next <= _SKIP:
            self._rows, self._next = source.read(index, len(source)), index
        row = next(islice(self._rows, index - self._next, None))
        self._next = index + 1
        return row
