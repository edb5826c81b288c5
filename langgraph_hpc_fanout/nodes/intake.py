"""Where a fan-out's items come from: state, files, the user's code; and where they are found again.

Branches carry where their items are, not the items. Of a file that is its path; a long list in
state, and whatever an iterator yields, is written to the journal's directory first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp

from langgraph_hpc_fanout.items.opening import is_path, source_of
from langgraph_hpc_fanout.items.product import Product
from langgraph_hpc_fanout.items.rows import Rows
from langgraph_hpc_fanout.items.source import BadRow, Source, SourceError
from langgraph_hpc_fanout.items.spool import Spool, spool
from langgraph_hpc_fanout.journal.journal import Journal
from langgraph_hpc_fanout.records import FanOutError
from langgraph_hpc_fanout.tasks.template import field_of

Items = (
    str
    | os.PathLike[str]
    | Source
    | Callable[[Any], Any]
    | Sequence[Any]
    | Mapping[str, Any]  # several of these by name: their product
)

HEAD = 100
"""Items of a file that are looked at before anything is sent."""
_INLINE_BYTES = 256 * 1024
"""Lists in state up to this size are in the branches' arguments as well; all branches together."""
_FACTOR_BYTES = 4 * 1024
"""The same for a list that is a factor of a product, which each branch needs whole."""
_WEIGHED = 64
_OURS = (GraphBubbleUp, FanOutError, SourceError)
"""What user code raises that says itself what is wrong, or is LangGraph's."""


@dataclass(frozen=True, slots=True)
class Given:
    """The items of one run.

    Attributes:
        live: What the run reads.
        kept: The same where another process finds it.
        in_state: Whether some of them are in graph state only.
    """

    live: Source
    kept: Source
    in_state: bool = False

    @property
    def whereabouts(self) -> dict[str, Any] | None:
        """What a journal is to say of where the items are; None when some are in state only."""
        return None if self.in_state else self.kept.reference(0, len(self.kept))

    def head(self) -> list[Any]:
        """The first items that can be read."""
        first = self.live.read(0, min(len(self.live), HEAD))
        return [item for item in first if not isinstance(item, BadRow)]

    def examples(self, head: Sequence[Any]) -> Iterable[Any]:
        """Items that show which fields there are: all where they are in memory, else the first."""
        if self.live.ready:
            return self.live.read(0, len(self.live))
        fields = self.live.fields()
        return head if fields is None else [dict.fromkeys(fields, "")]


class Intake:
    """Finds a fan-out's items.

    Args:
        name: Name of the fan-out, for messages.
        items: What the user said.
        journal: In whose directory items are written that are nowhere else.

    Raises:
        TypeError: If these can be no items.
        ValueError: If it is a product of nothing.
    """

    def __init__(self, name: str, items: Items, journal: Journal | None) -> None:
        _check(items)
        self._name = name
        self._items = items
        self._journal = journal

    def state_keys(self) -> list[str] | None:
        """Keys of the state that are read; None when only the user's code knows."""
        given = self._items
        parts = list(given.values()) if isinstance(given, Mapping) else [given]
        if any(_is_function(part) for part in parts):
            return None
        return [part for part in parts if isinstance(part, str) and not is_path(part)]

    def find(self, state: Any, run: str, config: RunnableConfig) -> Given:
        """The items for a run. May read files, and call the user's code.

        Raises:
            FanOutError: If the state has none, or they are no items.
            SourceError: If they cannot be read, or written.
        """
        # Without a thread there is no checkpoint, and nobody who could come back for them.
        comes_back = "thread_id" in (config.get("configurable") or {})
        if not isinstance(self._items, Mapping):
            return self._one(self._items, state, run, _INLINE_BYTES if comes_back else None)
        limit = _FACTOR_BYTES if comes_back else None
        factors = {
            name: self._one(given, state, f"{run}-{number}", limit)
            for number, (name, given) in enumerate(self._items.items())
        }
        return Given(
            Product({name: each.live for name, each in factors.items()}),
            Product({name: each.kept for name, each in factors.items()}),
            in_state=any(each.in_state for each in factors.values()),
        )

    def _one(self, given: Any, state: Any, name: str, limit: int | None) -> Given:
        where = "its items"
        if isinstance(given, str) and not is_path(given):
            where = f"state[{given!r}]"
            given = state_value(state, given, self._name)
            if isinstance(given, str | Source):
                raise self._no_items(given, where)
        elif _is_function(given):
            where = "items(state)"
            given = _called(given, state, where)
        if isinstance(given, Source):
            return _of_source(given.anew())
        if isinstance(given, os.PathLike) or (isinstance(given, str) and is_path(given)):
            return _of_source(source_of(given))
        if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
            raise self._no_items(given, where)
        if isinstance(given, Iterator):
            return _of_source(self._spooled(_told(given, where), name))
        if not isinstance(given, list | tuple):
            given = list(_told(iter(given), where))
        return self._listed(given, name, limit)

    def _listed(self, items: Sequence[Any], name: str, limit: int | None) -> Given:
        rows = Rows(items)
        if limit is None or _weight(items) <= limit:
            return Given(rows, rows, in_state=True)
        try:
            return Given(rows, self._spooled(items, name))
        except SourceError:  # a checkpoint cannot hold them either
            return Given(rows, rows, in_state=True)

    def _spooled(self, items: Iterable[Any], name: str) -> Spool:
        journal = Journal.temporary(name) if self._journal is None else self._journal
        return spool(items, journal.directory, name)

    def _no_items(self, given: Any, where: str) -> FanOutError:
        return FanOutError(
            f"{self._name}: {where} is a {type(given).__name__}; a list of items is needed."
        )


def state_value(state: Any, name: str, node: str) -> Any:
    """A field of the graph's state, whatever class the state has.

    Raises:
        FanOutError: If it has none of this name.
    """
    missing = object()
    value = field_of(state, name, missing)
    if value is missing:
        there = sorted(state) if isinstance(state, Mapping) else sorted(vars(state))
        raise FanOutError(f"{node}: the state has no {name!r}; it has {', '.join(there)}.")
    return value


def _check(items: Any) -> None:
    """Refuse at once what can be no items."""
    if isinstance(items, Mapping) and not items:
        raise ValueError("FanOutNode(items={}) has nothing to combine; name at least one source.")
    for each in items.values() if isinstance(items, Mapping) else [items]:
        if isinstance(each, Iterator):
            raise TypeError(
                "FanOutNode(items=...) is an iterator, which is empty after one run; give a "
                "function of the state that returns it."
            )
        no_list = isinstance(each, bytes | Mapping) or not isinstance(each, Iterable)
        if no_list and not isinstance(each, os.PathLike | Source) and not callable(each):
            raise TypeError(
                "FanOutNode(items=...) takes a state key, a path, a source, a list or a function "
                f"of the state, not {type(each).__name__}."
            )


def _is_function(given: Any) -> bool:
    return callable(given) and not isinstance(given, Source)


def _of_source(source: Source) -> Given:
    return Given(source, source, in_state=source.ready)


def _called(function: Callable[[Any], Any], state: Any, where: str) -> Any:
    try:
        return function(state)
    except _OURS:
        raise
    except Exception as error:
        raise SourceError(f"{where} raised {error!r}; nothing was sent") from error


def _told(items: Iterator[Any], where: str) -> Iterator[Any]:
    """The same items; what their iterator raises tells after how many."""
    number = 0
    try:
        for item in items:
            yield item
            number += 1
    except _OURS:
        raise
    except Exception as error:
        raise SourceError(
            f"{where} raised {error!r} after {number} items; nothing was sent"
        ) from error


def _weight(items: Sequence[Any]) -> float:
    """About how many bytes they are in a checkpoint."""
    if not items:
        return 0
    weighed = items[:: max(1, len(items) // _WEIGHED)]
    return sum(map(_bytes_of, weighed)) / len(weighed) * len(items)


def _bytes_of(item: Any) -> int:
    try:
        return len(orjson.dumps(item, default=repr))
    except (TypeError, ValueError):
        return len(repr(item))
