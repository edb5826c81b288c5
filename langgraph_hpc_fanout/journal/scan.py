"""Reading heads: a block of whole lines becomes arrays, without a look at the JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from langgraph_hpc_fanout.journal import line
from langgraph_hpc_fanout.journal.segments import Block

_PREFIX = np.frombuffer(line.PREFIX, np.uint8)
_NO_DIGIT = 255
_DIGITS = np.full(256, _NO_DIGIT, np.uint8)
_DIGITS[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


@dataclass(frozen=True, slots=True)
class Heads:
    """The sound lines of a part of a segment, and where the others begin.

    Attributes:
        offsets: Where each line begins in the segment, in bytes.
        kinds: The first letter of its kind.
        runs: Number of its run within the segment.
        places: Its place in the run.
        fingerprints: The first 64 bits of its digest, never 0.
        damaged: Where unreadable lines begin in the segment, in bytes.
    """

    offsets: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    runs: NDArray[np.int64]
    places: NDArray[np.int64]
    fingerprints: NDArray[np.uint64]
    damaged: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets)


def joined(parts: Sequence[Heads]) -> Heads:
    """The heads of several blocks together."""
    return Heads(
        *(np.concatenate([getattr(each, field.name) for each in parts]) for field in fields(Heads))
    )


def heads_of(block: Block) -> Heads:
    """The heads of the lines in a block."""
    data = np.frombuffer(block.data, np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    starts = np.concatenate(([0], ends[:-1] + 1))
    sound = np.flatnonzero(ends - starts > line.HEAD_BYTES)
    heads = _first_bytes(data, starts[sound])
    told = _DIGITS[heads[:, line.CRC : line.COVERED]]
    matches = _hexadecimal(told) == _crcs(block.data, starts[sound], ends[sound])
    matches &= (told != _NO_DIGIT).all(axis=1) & (heads[:, : line.CRC] == _PREFIX).all(axis=1)
    heads, sound = heads[matches], sound[matches]
    fingerprints = _hexadecimal(_DIGITS[heads[:, line.DIGEST : line.DIGEST + 16]])
    return Heads(
        starts[sound] + block.start,
        heads[:, line.KIND],
        _decimal(heads[:, line.RUN : line.RUN + 8]),
        _decimal(heads[:, line.PLACE : line.PLACE + 12]),
        np.maximum(fingerprints, np.uint64(1)),
        np.delete(starts, sound) + block.start,
    )


def _first_bytes(data: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The heads that begin there, one a row."""
    if not len(starts):
        return np.empty((0, line.HEAD_BYTES), np.uint8)
    return np.lib.stride_tricks.sliding_window_view(data, line.HEAD_BYTES)[starts]


def _crcs(block: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    view = memoryview(block)
    spans = zip((starts + line.COVERED).tolist(), ends.tolist(), strict=True)
    return np.fromiter((crc32(view[start:end]) for start, end in spans), np.uint64, len(starts))


def _hexadecimal(digits: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Numbers from rows of the values of 8 or 16 hexadecimal digits."""
    octets = np.ascontiguousarray(digits[:, ::2] << 4 | digits[:, 1::2])
    return octets.view(f">u{octets.shape[1]}").ravel().astype(np.uint64)


def _decimal(characters: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Numbers from rows of decimal digits."""
    powers = 10 ** np.arange(characters.shape[1] - 1, -1, -1, dtype=np.int64)
    numbers: NDArray[np.int64] = (characters - np.uint8(ord("0"))).astype(np.int64) @ powers
    return numbers
