"""Sources on disk: looked through once, read in slices, refused when they have changed."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from langgraph_hpc_fanout.items.files import Stamp, check_unchanged, stamp_of
from langgraph_hpc_fanout.items.parking import Parking


class Survey(Protocol):
    """What is found by looking through a source's files."""

    @property
    def stamp(self) -> Stamp:
        """Of the files that were looked through."""
        ...

    @property
    def count(self) -> int:
        """How many items there are."""
        ...


S = TypeVar("S", bound=Survey)


class Sliced(ABC, Generic[S]):
    """A source on disk.

    Args:
        path: A file or a directory; made absolute at once.
        options: What else the source is made with, as plain data.
    """

    kind: ClassVar[str]
    ready = False

    def __init__(self, path: str | os.PathLike[str], **options: Any) -> None:
        self.name = os.fsdecode(path)
        # Made absolute here, as a run may outlive the current directory; links are left alone, as
        # only their names may say how a file is compressed.
        self.path = Path(self.name).absolute()
        self._options = options
        self._survey: S | None = None
        self._parking = Parking()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def __len__(self) -> int:
        return self.survey.count

    @property
    def survey(self) -> S:
        """What the files hold; they are looked through the first time."""
        # Without a lock, which a fork might copy held: two threads at once look twice.
        if self._survey is None:
            self._survey = self._look()
        return self._survey

    def fields(self) -> tuple[str, ...] | None:
        """The fields that items have, where that is known without reading them."""
        return None

    def read(self, start: int, stop: int) -> Iterator[Any]:
        """The items from `start` up to `stop`, a `BadRow` for each that cannot be read."""
        stop = min(stop, len(self))
        if start >= stop:
            return
        self._check(start, stop)
        items = self._parking.take(start) or self._read_from(start)
        yield from islice(items, stop - start)
        self._check(start, stop)
        if stop < len(self):
            self._parking.leave(stop, items)

    def anew(self) -> Self:
        """The same, to be looked through once more."""
        source = type(self)(self.path, **self._options)
        source.name = self.name
        return source

    def reference(self, start: int, stop: int) -> dict[str, Any]:
        """Plain data from which another process can read these items."""
        stamp = self.survey.stamp
        return {
            "kind": self.kind,
            "name": self.name,
            "path": str(self.path),
            "options": self._options,
            "count": len(self),
            "stamp": [stamp.size, stamp.changed, stamp.files, stamp.digest],
        }

    @classmethod
    def reopened(cls, reference: Mapping[str, Any]) -> Self:
        """The source of a reference.

        Raises:
            SourceError: If its files are not there any more, or have changed.
        """
        source = cls(reference["path"], **reference["options"])
        source.name = reference["name"]
        source._survey = source._look_again(reference, Stamp(*reference["stamp"]))
        return source

    def _look_again(self, reference: Mapping[str, Any], stamp: Stamp) -> S:
        """The survey of files that should have the stamp of a reference."""
        survey = self._look()
        check_unchanged(self.name, stamp, survey.stamp)
        return survey

    def _check(self, start: int, stop: int) -> None:
        """Raise when what holds these items has changed."""
        check_unchanged(self.name, self.survey.stamp, stamp_of(self.name, self.path))

    @abstractmethod
    def _look(self) -> S:
        """Look through the files."""

    @abstractmethod
    def _read_from(self, start: int) -> Iterator[Any]:
        """All items from `start` on."""
