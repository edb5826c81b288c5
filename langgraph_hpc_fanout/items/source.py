"""What a source of items is: it knows how many there are, and reads any slice of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable


class SourceError(ValueError):
    """A source that cannot be read as a whole; the message names it and says what to do."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """Stands for a row that cannot be read: its item fails, the others go on.

    Attributes:
        reason: Where and why, for example `papers.jsonl, line 17: no JSON (unexpected end)`.
    """

    reason: str


class Readable(Protocol):
    """Items in an order that stays, read in slices. Its methods may block, unless it is `ready`.

    Attributes:
        name: What people know it by, such as a file's name.
        ready: Whether its items are in memory, so that reading them never blocks.
    """

    name: str
    ready: bool

    def __len__(self) -> int:
        """How many items there are; may look through a file, once.

        Raises:
            SourceError: If that cannot be told: the file is not there, or is none of its kind.
        """
        ...

    def read(self, start: int, stop: int) -> Iterator[Any]:
        """The items from `start` up to `stop`, lazily, a `BadRow` for each that cannot be read.

        Raises:
            SourceError: If nothing can be read any more, or the file has changed since it was
                counted, or since the `reference` was made that it was reopened from.
        """
        ...


@runtime_checkable
class Source(Readable, Protocol):
    """What can be read, here or by another process that is told where it is."""

    def fields(self) -> tuple[str, ...] | None:
        """The fields that items have, where that is known without reading them."""
        ...

    def anew(self) -> Self:
        """The same for one more run, before which its files may have changed."""
        ...

    def reference(self, start: int, stop: int) -> dict[str, Any]:
        """Plain data from which another process can read these items, see `items.opening.reopen`.

        It has a `kind`. Of files it holds the absolute path, their size and time of writing, and
        is small; only items that are nowhere else are in it themselves. What is reopened knows
        its length, and reads these items at the places that they have here.
        """
        ...
