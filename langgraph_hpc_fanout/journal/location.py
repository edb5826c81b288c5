"""Where a line stands: segment and offset in one integer, with a bit that says it is an answer.

Whole numbers compare as journals want it: any answer beats any failure, and of two answers the
newer is greater. So the best line about a question is simply the greatest.
"""

from __future__ import annotations

OK = 1 << 63
_OFFSET_BITS = 40
_OFFSET = (1 << _OFFSET_BITS) - 1
_SEGMENT = (1 << (63 - _OFFSET_BITS)) - 1


def pack(segment: int, offset: int, *, ok: bool = False) -> int:
    """The location of a line; never 0, because segments count from 1."""
    at = segment << _OFFSET_BITS | offset
    return at | OK if ok else at


def unpack(at: int) -> tuple[int, int]:
    """Segment and offset, in bytes."""
    return at >> _OFFSET_BITS & _SEGMENT, at & _OFFSET
