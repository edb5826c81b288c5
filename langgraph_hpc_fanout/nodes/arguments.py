"""Arguments of nodes, refused in one sentence where they are none."""

from __future__ import annotations

from typing import Any


def check(what: str, value: Any, kind: type, words: str, of: str = "FanOutNode") -> None:
    """Refuse a value of another kind.

    Raises:
        TypeError: If it is one; the message says what is wanted.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{of}({what}=...) takes {words}, not {type(value).__name__}.")
