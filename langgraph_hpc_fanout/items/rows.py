"""Items in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self


class Rows:
    """Items in memory, as a list in graph state is.

    Args:
        rows: The items.
        name: What people know them by.
    """

    kind = "rows"
    ready = True

    def __init__(self, rows: Sequence[Any], name: str = "items") -> None:
        self.name = name
        self._rows = rows
        self._first = 0
        self._count = len(rows)

    def __repr__(self) -> str:
        return f"Rows({self.name!r}, {self._count} items)"

    def __len__(self) -> int:
        return self._count

    def fields(self) -> None:
        """Not known without reading them."""

    def read(self, start: int, stop: int) -> Iterator[Any]:
        """The items from `start` up to `stop`."""
        return iter(self._rows[start - self._first : stop - self._first])

    def anew(self) -> Self:
        """The same: what is in memory is as it is."""
        return self

    def reference(self, start: int, stop: int) -> dict[str, Any]:
        """These items themselves, as they are nowhere else."""
        return {
            "kind": self.kind,
            "name": self.name,
            "first": start,
            "rows": list(self.read(start, stop)),
            "count": self._count,
        }

    @classmethod
    def reopened(cls, reference: Mapping[str, Any]) -> Self:
        """The items that a reference holds, at the places that they had."""
        rows = cls(reference["rows"], reference["name"])
        rows._first = reference["first"]
        rows._count = reference["count"]
        return rows
