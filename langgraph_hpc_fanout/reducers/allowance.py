"""How much a reducer may put into graph state, which every checkpoint writes whole."""

from __future__ import annotations

from typing import Any

import orjson

STATE_BYTES = 16 * 1024 * 1024
"""Most that one reducer puts into graph state, in bytes of JSON."""


class Allowance:
    """Counts what goes into graph state, and refuses what is too much.

    Args:
        what: What is counted, for the error: `answers`.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._left = STATE_BYTES

    def take(self, value: Any) -> None:
        """Count a value.

        Raises:
            ValueError: If there are now more than 16 MB.
        """
        self._left -= _bytes_of(value)
        if self._left < 0:
            raise ValueError(
                f"The {self._what} are more than {STATE_BYTES // 2**20} MB, too much for graph "
                "state; use reducers.reference with a journal and read them with Results.open, "
                "or reducers.table."
            )

    def give_back(self, value: Any) -> None:
        """Count a value no longer."""
        self._left += _bytes_of(value)


def _bytes_of(value: Any) -> int:
    if isinstance(value, str) and value.isascii():
        return len(value)
    return len(orjson.dumps(value, default=repr))
