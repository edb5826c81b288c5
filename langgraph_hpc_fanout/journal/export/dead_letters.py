"""The items of which something failed, as a file that can be asked about again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import Any

import orjson

from langgraph_hpc_fanout.items.opening import reopen
from langgraph_hpc_fanout.items.sliced import Sliced
from langgraph_hpc_fanout.items.source import BadRow, Source
from langgraph_hpc_fanout.journal.export.files import PathLike, write_lines
from langgraph_hpc_fanout.journal.results import Results
from langgraph_hpc_fanout.records import SWEEP, Outcome

_SKIP = 1_000
"""Most items that are read and dropped on the way to the next one, rather than begin a new read."""


def to_dead_letters(
    results: Iterable[Outcome], path: PathLike, items: Sequence[Any] | Source | None = None
) -> int:
    """Write the items of which something failed, one a line: `{"item", "index", "failures"}`.

    `failures` has one entry for each sample and variant of a sweep that failed: `{"key", "sample",
    "sweep", "kind", "message", "status", "retryable", "endpoint"}`, without `sweep` where there is
    none. Of a row that could not be read there is no `item`; its failures say where it is.

    Args:
        results: The outcomes, in input order.
        path: File to write, compressed when it ends in `.gz`.
        items: What the run was about: the list, or the source. May be left out where the journal
            of the `Results` knows the source.

    Returns:
        Number of lines.

    Raises:
        TypeError: If `items` is a path, or is left out and nobody knows them.
        SourceError: If the source is a file that has changed since the run began, or is gone.
        ValueError: If there are fewer items than outcomes speak of, or an item has no JSON form.
        OSError: If the file cannot be written.
    """
    reader = _Reader(_items_of(results, items))
    failed = (outcome for outcome in results if not outcome.ok)
    by_item = groupby(failed, key=lambda outcome: outcome.index)
    letters = (_letter(reader.item(index), index, failures) for index, failures in by_item)
    return write_lines(path, letters)


def _items_of(
    results: Iterable[Outcome], items: Sequence[Any] | Source | None
) -> Sequence[Any] | Source:
    """What the run was about.

    Raises:
        TypeError: If that is not known.
        SourceError: If it is not what it was.
    """
    if isinstance(items, str | os.PathLike):
        raise TypeError(
            f"to_dead_letters(items={os.fspath(items)!r}) takes the items themselves: give the "
            'source that the run read, such as JsonLines("papers.jsonl").'
        )
    source = results.about.get("source") if isinstance(results, Results) else None
    if items is None:
        if source is None:
            raise TypeError(
                f"to_dead_letters(items=...) is missing: {_why_unknown(results)}; give the list, "
                "or the source, that the run was about."
            )
        return reopen(source)
    if source is not None and _is_same(source, items):
        reopen(source)  # which refuses files that have changed
    return items


def _why_unknown(results: Iterable[Outcome]) -> str:
    if not isinstance(results, Results):
        return "only the Results of a run with a journal tell where its items are"
    if results.journal is None:
        return f"run {results.run} has no journal, which could tell where its items are"
    return f"the journal {results.journal} does not tell where the items of run {results.run} are"


def _is_same(source: Mapping[str, Any], items: Sequence[Any] | Source) -> bool:
    """Whether items are read from the files that a reference names, changed or not."""
    return isinstance(items, Sliced) and (items.kind, str(items.path)) == (
        source.get("kind"),
        source.get("path"),
    )


def _letter(item: Any, index: int, failed: Iterable[Outcome]) -> bytes:
    letter = {
        **({} if isinstance(item, BadRow) else {"item": item}),
        "index": index,
        "failures": [_failure(outcome) for outcome in failed],
    }
    try:
        return orjson.dumps(letter, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError as error:
        raise ValueError(
            f"Item {index} ({type(item).__name__}) cannot be written as JSON: {error}. "
            "Give items that are dicts, lists and scalars."
        ) from None


def _failure(outcome: Outcome) -> dict[str, Any]:
    coordinates = outcome.meta.get(SWEEP)
    return {
        "key": outcome.key,
        "sample": outcome.sample,
        **({SWEEP: coordinates} if coordinates else {}),
        **({} if outcome.error is None else outcome.error.to_dict()),
    }


class _Reader:
    """Items by index, asked for in input order: one read goes on while they are close together."""

    def __init__(self, items: Sequence[Any] | Source) -> None:
        self._items = items
        self._rows: Iterator[Any] = iter(())
        self._next = 0

    def item(self, index: int) -> Any:
        if index >= len(self._items):
            raise ValueError(
                f"There are {len(self._items)} items and an outcome of item {index}: give the "
                "items that the run was about."
            )
        if not isinstance(self._items, Source):
            return self._items[index]
        return self._read(self._items, index)

    def _read(self, source: Source, index: int) -> Any:
        if self._next == 0 or not 0 <= index - self._next <= _SKIP:
            self._rows, self._next = source.read(index, len(source)), index
        row = next(islice(self._rows, index - self._next, None))
        self._next = index + 1
        return row
