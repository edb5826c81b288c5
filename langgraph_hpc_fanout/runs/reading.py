"""Reads the items of a run a little ahead of need, so that neither memory nor the loop suffers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from langgraph_hpc_fanout.items.source import BadRow, SourceError
from langgraph_hpc_fanout.runs.shard import Shard

_AHEAD = 1024
"""Rows in memory below which more are read."""
_ROWS = 512
"""Rows read in a row."""


class Place(NamedTuple):
    """One thing to ask: an item, and which of its variants and samples.

    Attributes:
        shard: The shard of the item.
        offset: The place in the shard.
        item: The item, or a `BadRow`.
        key: The key that the user's code made of the item, or what it raised; None where the key
            is for the task to make.
        asked: Hash of the item, where the key says nothing of it and the task makes none.
    """

    shard: Shard
    offset: int
    item: Any
    key: str | Exception | None
    asked: str | None


class _Row(NamedTuple):
    """An item that was read."""

    shard: Shard
    first: int
    item: Any
    key: str | Exception | None
    asked: str | None


Identify = Callable[[Any], tuple[str, str | None]]
"""Makes a key of an item with the user's code, and a hash of the item where it is to have one."""


class Reader:
    """Hands out the places of shards, item after item. Lives on the dispatch loop.

    Files are read, and the user's code for keys runs, in a worker thread, so `take` never blocks;
    it has nothing to give while a thread is at it.

    Args:
        steps: The places of each item that are wanted here, counted from the item's first.
        identify: Makes keys with the user's code; None where the task makes them.
        more: Called when there are rows again.
        failed: Called with a sentence when a source cannot be read.
    """

    def __init__(
        self,
        steps: Sequence[int],
        identify: Identify | None,
        more: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self._steps = steps
        self._identify = identify
        self._more = more
        self._failed = failed
        self._shards: deque[Shard] = deque()
        self._stream: Iterator[_Row] | None = None
        self._rows: deque[_Row] = deque()
        self._row: _Row | None = None
        self._step = 0
        self._untaken = 0
        self._may_block = identify is not None
        self._reading: asyncio.Task[None] | None = None

    @property
    def untaken(self) -> int:
        """How many places are still to be handed out."""
        return self._untaken

    def add(self, shard: Shard) -> None:
        """There is one more shard to read."""
        self._may_block = self._may_block or not shard.source.ready
        self._shards.append(shard)
        self._untaken += shard.count * len(self._steps)

    def take(self) -> Place | None:
        """The next place, or None when there is none right now."""
        if self._row is None:
            if len(self._rows) < _AHEAD:
                self._read_on()
            if not self._rows:
                return None
            self._row = self._rows.popleft()
        shard, first, item, key, asked = self._row
        offset = first + self._steps[self._step]
        self._step += 1
        if self._step == len(self._steps):
            self._row, self._step = None, 0
        self._untaken -= 1
        return Place(shard, offset, item, key, asked)

    def stop(self) -> None:
        """Hand out nothing more."""
        if self._reading is not None:
            self._reading.cancel()
        self._shards.clear()
        self._stream = None
        self._rows.clear()
        self._row = None
        self._untaken = 0

    def _read_on(self) -> None:
        if self._reading is not None or not (self._shards or self._stream):
            return
        if self._may_block:
            self._reading = asyncio.get_running_loop().create_task(self._read_in_thread())
        else:
            self._rows.extend(self._next_rows())

    async def _read_in_thread(self) -> None:
        try:
            rows = await asyncio.to_thread(self._next_rows)
        except Exception as error:  # noqa: BLE001 - a source may raise anything
            self._reading = None
            self._failed(_why(error))
            self._more()
            return
        self._reading = None
        self._rows.extend(rows)
        self._more()

    def _next_rows(self) -> list[_Row]:
        if self._stream is None:
            self._stream = self._read()
        rows = list(islice(self._stream, _ROWS))
        if len(rows) < _ROWS:
            self._stream = None
        return rows

    def _read(self) -> Iterator[_Row]:
        while self._shards:
            shard = self._shards.popleft()
            number = -1
            for number, item in enumerate(shard.source.read(shard.start, shard.stop)):
                yield _Row(shard, number * shard.per_item, item, *self._identity(item))
            if number + 1 != shard.count:
                raise SourceError(
                    f"{shard.source.name} ended before item {shard.start + number + 1}, "
                    f"though {shard.stop} were counted"
                )

    def _identity(self, item: Any) -> tuple[str | Exception | None, str | None]:
        """The item's key, or why it has none, which will be its failure."""
        if self._identify is None or isinstance(item, BadRow):
            return None, None
        try:
            key, asked = self._identify(item)
            if isinstance(key, str):
                key.encode()  # what cannot be written down cannot be a key
        except Exception as error:  # noqa: BLE001 - the item's fault, whatever it is
            return error, None
        if not isinstance(key, str) or not key:
            return TypeError(f"key= gave {key!r}, not a text"), None
        return key, asked


def _why(error: Exception) -> str:
    said = str(error) if isinstance(error, SourceError) else f"Its items cannot be read: {error!r}"
    return f"{said.rstrip('.')}."
