"""Taking note of segments: what others wrote, and whether it is still the same journal."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from langgraph_hpc_fanout.journal import line, manifest, segments
from langgraph_hpc_fanout.journal.catalog import Catalog

if TYPE_CHECKING:
    from langgraph_hpc_fanout.journal.scan import Heads

logger = logging.getLogger("langgraph_hpc_fanout")

_LINES_AT_ONCE = 1 << 20
"""So many lines are taken note of together: more at once is quicker, and takes more memory."""


class Intake:
    """Reads the segments of a journal into a catalog. For one thread at a time.

    Args:
        directory: Of the journal.
        memory: Held while the catalog is changed.

    Attributes:
        catalog: What is known; another one after `forget`.
        readers: Its segments, open for reading.
    """

    catalog: Catalog
    readers: segments.Readers

    def __init__(self, directory: Path, memory: threading.Lock) -> None:
        self._directory = directory
        self._memory = memory
        self._id: str | None = None
        self._ends: dict[int, int] = {}
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        with self._memory:
            self.catalog = Catalog()
            self.readers = segments.Readers(self._directory)
            self._ends = {}
            self._id = None

    def forget_what_is_gone(self) -> None:
        """Begin anew where the journal was deleted, or is another one now.

        Raises:
            JournalError: If the journal is of an unknown format.
            OSError: If it cannot be read.
        """
        found = manifest.read(self._directory)
        name = None if found is None else found.id
        sizes = segments.sizes(self._directory)
        shrunk = any(sizes.get(number, -1) < end for number, end in self._ends.items())
        if shrunk or self._id not in (None, name):
            self.forget()
        self._id = name

    def refresh(self, is_known: Callable[[int], bool]) -> None:
        """Take note of lines that were added to segments, but for those that are known anyway.

        A last line without an end may be one that is being written, and is left alone; a
        damaged line is passed over.

        Raises:
            OSError: If a segment cannot be read.
        """
        damaged: list[tuple[int, int]] = []
        for number, size in segments.sizes(self._directory).items():
            if size > self._ends.get(number, 0) and not is_known(number):
                damaged += [(number, offset) for offset in self._read(number)]
        self._warn("damaged lines", damaged)

    def add(self, ends: Mapping[int, int]) -> None:
        """Segments were written from here, so many bytes of each."""
        self._ends.update(ends)

    def settle(self) -> int:
        """Warn of last lines that nobody will end; returns the number of the last segment."""
        sizes = segments.sizes(self._directory)
        ends = [(number, self._ends.get(number, 0)) for number in sizes]
        self._warn("torn last lines", [each for each in ends if each[1] < sizes[each[0]]])
        return max(sizes, default=0)

    def _read(self, segment: int) -> list[int]:
        """Take note of a segment's new lines; returns the offsets of damaged ones."""
        from langgraph_hpc_fanout.journal import scan  # noqa: PLC0415 - numpy is slow

        damaged: list[int] = []
        gathered: list[Heads] = []
        path, end = segments.path_of(self._directory, segment), self._ends.get(segment, 0)
        for block in segments.blocks(path, end):
            heads = scan.heads_of(block)
            self._note_beginnings(segment, block, heads)
            damaged += heads.damaged.tolist()
            gathered.append(heads)
            if sum(map(len, gathered)) >= _LINES_AT_ONCE:
                self._note(segment, scan.joined(gathered))
                gathered.clear()
            end = block.start + len(block.data)
        if gathered:
            self._note(segment, scan.joined(gathered))
        self._ends[segment] = end
        return damaged

    def _note_beginnings(self, segment: int, block: segments.Block, heads: Heads) -> None:
        for offset in heads.offsets[heads.kinds == ord(line.BEGIN[0])].tolist():
            start = offset - block.start
            begun = line.decode(block.data[start : block.data.index(b"\n", start)])
            assert begun is not None  # noqa: S101 - its checksum was right
            with self._memory:
                self.catalog.begin(segment, begun.run, begun.data["id"], begun.data["about"])

    def _note(self, segment: int, heads: Heads) -> None:
        with self._memory:
            self.catalog.put_all(segment, heads)

    def _warn(self, what: str, where: list[tuple[int, int]]) -> None:
        if where:
            segment, offset = where[0]
            logger.warning(
                "The journal %s has %d %s, the first in segment %d at byte %d; what was there is "
                "asked again.",
                self._directory,
                len(where),
                what,
                segment,
                offset,
            )
