"""Lines that have their place on disk and are not there yet.

Places are given out when a line is remembered, so that it can be found and referred to at once;
it is written there later, together with others.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SEGMENT_BYTES = 1 << 30
"""A segment that has grown beyond this gets no more lines."""


@dataclass(slots=True, eq=False)
class Part:
    """Consecutive lines of a segment.

    Attributes:
        segment: Number of the segment.
        start: Offset of the first, in bytes.
        data: All of them.
    """

    segment: int
    start: int
    data: bytearray = field(default_factory=bytearray)

    @property
    def end(self) -> int:
        """Offset after the last, in bytes."""
        return self.start + len(self.data)


class Unwritten:
    """What a session has yet to write, in order. Not safe for several threads.

    Args:
        segment: Number of the first segment, of which nothing is written.
    """

    def __init__(self, segment: int) -> None:
        self._parts = [Part(segment, 0)]

    def __len__(self) -> int:
        return sum(len(part.data) for part in self._parts)

    @property
    def segment(self) -> int:
        """Number of the segment in which the next line stands."""
        return self._parts[-1].segment

    @property
    def is_full(self) -> bool:
        """Whether it is time for another segment."""
        return self._parts[-1].end >= SEGMENT_BYTES

    def rotate(self) -> None:
        """Begin another segment."""
        following = Part(self.segment + 1, 0)
        self._parts = [*(part for part in self._parts if part.data), following]

    def add(self, line: bytes) -> int:
        """Remember a line; returns its offset in the segment, in bytes."""
        part = self._parts[-1]
        offset = part.end
        part.data += line
        return offset

    def take(self) -> list[Part]:
        """All parts there are; they change no more, and stay until they are `written`."""
        last = self._parts[-1]
        taken = [part for part in self._parts if part.data]
        if last.data:
            self._parts.append(Part(last.segment, last.end))
        return taken

    def written(self, part: Part) -> None:
        """Forget a part that is safe now."""
        self._parts.remove(part)

    def read(self, segment: int, offset: int) -> bytes | None:
        """The line at an offset, without the newline; None if it is not here."""
        for part in self._parts:
            if part.segment == segment and part.start <= offset < part.end:
                start = offset - part.start
                return bytes(part.data[start : part.data.index(b"\n", start)])
        return None
