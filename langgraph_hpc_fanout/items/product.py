"""The product of several sources, made row by row."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Self

from langgraph_hpc_fanout.items.opening import reopen, source_of
from langgraph_hpc_fanout.items.parking import Parking
from langgraph_hpc_fanout.items.rows import Rows
from langgraph_hpc_fanout.items.source import BadRow, Source

Factor = Source | str | os.PathLike[str] | Sequence[Any]

_MOST_HELD = 1024
_PIECE = 1024


class Product:
    """Every combination of the items of several sources; the last source varies fastest.

    Rows have a field for each source. The first source is read once, in slices. Another one is
    read again for each combination of the items before it; up to 1024 items, it is held in memory.
    So put the largest first. A bad row makes bad rows of all its combinations.

    Args:
        factors: Sources, paths or lists of items, by the name of the field that they fill.

    Raises:
        ValueError: If there are none.
        TypeError: If one is something else.
        SourceError: If a path is of no known kind.

    Example:
        ```python
        pairs = Product({"paper": JsonLines("papers.jsonl"), "question": ["Who?", "Why?"]})
        ```
    """

    kind = "product"

    def __init__(self, factors: Mapping[str, Factor]) -> None:
        if not factors:
            raise ValueError("Product({}) has nothing to combine; name at least one source.")
        self._names = tuple(factors)
        self._factors = [_source(name, each) for name, each in factors.items()]
        self.name = " x ".join(self._names)
        self.ready = all(each.ready for each in self._factors)
        self._held: list[Source] | None = None
        self._parking = Parking()

    def __repr__(self) -> str:
        return f"Product({dict(zip(self._names, self._factors, strict=True))!r})"

    def __len__(self) -> int:
        return math.prod(map(len, self._factors))

    def fields(self) -> tuple[str, ...]:
        """The names of the sources."""
        return self._names

    def read(self, start: int, stop: int) -> Iterator[Any]:
        """The combinations from `start` up to `stop`."""
        stop = min(stop, len(self))
        if start >= stop:
            return
        rows = self._parking.take(start) or self._read_from(start)
        yield from islice(rows, stop - start)
        if stop < len(self):
            self._parking.leave(stop, rows)

    def _read_from(self, start: int) -> Iterator[Any]:
        for values in _combinations(self._sources(), start, len(self)):
            bad = next((each for each in values if isinstance(each, BadRow)), None)
            yield bad or dict(zip(self._names, values, strict=True))

    def _sources(self) -> Sequence[Source]:
        """The factors, those in memory that are small and read again and again."""
        if self._held is None:
            first, *others = self._factors
            self._held = [first, *map(_held, others)]
        return self._held

    def anew(self) -> Self:
        """The same, over sources that are looked through once more."""
        factors = [each.anew() for each in self._factors]
        return type(self)(dict(zip(self._names, factors, strict=True)))

    def reference(self, start: int, stop: int) -> dict[str, Any]:
        """References to what these combinations are made of: a slice of the first, all others."""
        first, *others = self._factors
        inner = max(1, math.prod(map(len, others)))
        references = [
            first.reference(start // inner, -(-stop // inner)),
            *(each.reference(0, len(each)) for each in others),
        ]
        return {"kind": self.kind, "names": list(self._names), "factors": references}

    @classmethod
    def reopened(cls, reference: Mapping[str, Any]) -> Self:
        """The product of a reference.

        Raises:
            SourceError: If one of the sources is not there any more, or has changed.
        """
        return cls(dict(zip(reference["names"], map(reopen, reference["factors"]), strict=True)))


def _source(name: str, factor: Factor) -> Source:
    if isinstance(factor, Source):
        return factor
    if isinstance(factor, str | os.PathLike):
        return source_of(factor)
    if isinstance(factor, Sequence) and not isinstance(factor, bytes | bytearray):
        return Rows(factor, name)
    raise TypeError(
        f"Product({name}=...) is a {type(factor).__name__}; it takes sources, paths and lists."
    )


def _held(source: Source) -> Source:
    small = not source.ready and len(source) <= _MOST_HELD
    return Rows(list(source.read(0, len(source))), source.name) if small else source


def _combinations(sources: Sequence[Source], start: int, stop: int) -> Iterator[tuple[Any, ...]]:
    first, *others = sources
    if not others:
        yield from zip(first.read(start, stop))
        return
    inner = math.prod(map(len, others))
    begin, end = start // inner, -(-stop // inner)
    for at, value in enumerate(_in_pieces(first, begin, end), begin):
        rest = _combinations(others, max(0, start - at * inner), min(inner, stop - at * inner))
        for values in rest:
            yield (value, *values)


def _in_pieces(source: Source, start: int, stop: int) -> Iterator[Any]:
    """The items of a source, which may stay open for long: it looks for changes at each piece."""
    for at in range(start, stop, _PIECE):
        yield from source.read(at, min(at + _PIECE, stop))
