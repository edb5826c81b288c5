"""One pass over what is read slice by slice."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

_PLACES = 4


class Parking:
    """Readers that wait where a slice ended, for the slice that begins there.

    So a file that is read slice by slice is decompressed once. A few readers may wait, each with
    its file open; the oldest makes room, and closes its file. Safe to use from any thread.
    """

    def __init__(self) -> None:
        self._readers: OrderedDict[tuple[int, int], Iterator[Any]] = OrderedDict()

    def __reduce__(self) -> tuple[type[Parking], tuple[()]]:
        return Parking, ()  # open files stay in their process

    def take(self, row: int) -> Iterator[Any] | None:
        """The reader that waits before a row, if there is one."""
        # By process: a file that was open during a fork has one position for both.
        return self._readers.pop((os.getpid(), row), None)

    def leave(self, row: int, reader: Iterator[Any]) -> None:
        """Let a reader wait before a row."""
        self._readers[os.getpid(), row] = reader
        if len(self._readers) > _PLACES:
            self._readers.popitem(last=False)
