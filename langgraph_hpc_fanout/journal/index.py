"""The index of a journal: from the fingerprint of a question to the best line about it.

Ten million entries have to fit beside the work of a run, so they are two packed arrays instead
of a dict: open addressing with linear probing, where the home of a fingerprint is proportional
to it. Laid out in the order of their fingerprints, entries are then in the order of their homes,
and where all of them stand is a running maximum, which numpy finds at once. The table is made of
sections that grow one at a time, so no single look-up waits for the growth of a large table.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SECTIONS = 256
_SECTION_SHIFT = 56
_HOME_SHIFT = 24
_HOME_BITS = 32
_FULLEST = 0.75
"""The load at which a section grows: searches get long beyond it."""
_GROWTH = 1.4
"""16 bytes a slot / 0.75 * 1.4 are 30 bytes an entry right after a growth, the worst there is."""
_LEAST = 16
_SPARE = 4
_FEW = 4096
_FEW_OF = 16
"""Fewer entries, or a smaller part of the table, are quicker put one by one than laid out anew."""


class Index:
    """Fingerprints and the greatest value that was put for each. Not safe for several threads."""

    def __init__(self) -> None:
        self._sections = [_Section() for _ in range(_SECTIONS)]

    def __len__(self) -> int:
        return sum(section.used for section in self._sections)

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return sum(16 * len(section.keys) for section in self._sections)

    def get(self, fingerprint: int) -> int:
        """The value of a fingerprint, or 0."""
        section = self._sections[fingerprint >> _SECTION_SHIFT]
        return section.values[section.slot_of(fingerprint)]

    def put(self, fingerprint: int, value: int) -> None:
        """Keep a value, unless a greater one is there. Neither may be 0."""
        self._sections[fingerprint >> _SECTION_SHIFT].put(fingerprint, value)

    def put_all(self, fingerprints: NDArray[np.uint64], values: NDArray[np.uint64]) -> None:
        """Keep many values at once."""
        if len(fingerprints) < max(_FEW, len(self) // _FEW_OF):
            for fingerprint, value in zip(fingerprints.tolist(), values.tolist(), strict=True):
                self.put(fingerprint, value)
            return
        import numpy as np  # noqa: PLC0415 - slow, and here long since

        order = np.argsort(fingerprints)
        fingerprints, values = fingerprints[order], values[order]
        borders = np.arange(_SECTIONS, dtype=np.uint64) << np.uint64(_SECTION_SHIFT)
        starts = [*np.searchsorted(fingerprints, borders).tolist(), len(fingerprints)]
        for number, section in enumerate(self._sections):
            part = slice(starts[number], starts[number + 1])
            section.merge(fingerprints[part], values[part])


class _Section:
    """The entries whose fingerprints begin with the same byte.

    The last slot is always empty, so that a search ends without looking for the end.
    """

    __slots__ = ("_capacity", "keys", "used", "values")

    def __init__(self) -> None:
        self.keys = array("Q", [0])
        self.values = array("Q", [0])
        self.used = 0
        self._capacity = 0

    def slot_of(self, fingerprint: int) -> int:
        """Where a fingerprint is, or would go."""
        keys = self.keys
        slot = (fingerprint >> _HOME_SHIFT & 0xFFFFFFFF) * self._capacity >> _HOME_BITS
        while (found := keys[slot]) and found != fingerprint:
            slot += 1
        return slot

    def put(self, fingerprint: int, value: int) -> None:
        """Keep a value, unless a greater one is there."""
        slot = self.slot_of(fingerprint)
        if self.keys[slot]:
            if value > self.values[slot]:
                self.values[slot] = value
        elif self.used >= self._capacity * _FULLEST or slot == len(self.keys) - 1:
            import numpy as np  # noqa: PLC0415 - slow

            self.merge(np.array([fingerprint], np.uint64), np.array([value], np.uint64))
        else:
            self.keys[slot] = fingerprint
            self.values[slot] = value
            self.used += 1

    def merge(self, keys: NDArray[np.uint64], values: NDArray[np.uint64]) -> None:
        """Lay out the entries anew together with others."""
        import numpy as np  # noqa: PLC0415 - slow

        table = np.frombuffer(self.keys, np.uint64)
        taken = table != 0
        keys = np.concatenate((table[taken], keys))
        values = np.concatenate((np.frombuffer(self.values, np.uint64)[taken], values))
        if not len(keys):
            return
        order = np.argsort(keys)
        keys, values = keys[order], values[order]
        first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        keys, values = keys[first], np.maximum.reduceat(values, first)

        self.used = len(keys)
        if self.used > self._capacity * _FULLEST:
            self._capacity = max(_LEAST, int(self.used * _GROWTH / _FULLEST))
        homes = (keys >> np.uint64(_HOME_SHIFT) & np.uint64(0xFFFFFFFF)) * np.uint64(self._capacity)
        slots = np.arange(self.used)
        slots += np.maximum.accumulate((homes >> np.uint64(_HOME_BITS)).astype(np.int64) - slots)
        size = max(self._capacity, int(slots[-1]) + 1) + _SPARE
        self.keys, self.values = array("Q", [0]) * size, array("Q", [0]) * size
        np.frombuffer(self.keys, np.uint64)[slots] = keys
        np.frombuffer(self.values, np.uint64)[slots] = values
