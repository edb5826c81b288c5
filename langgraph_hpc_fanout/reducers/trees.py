"""Summaries of summaries: how many levels there are, and the groups of one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import orjson

from langgraph_hpc_fanout.items.source import BadRow
from langgraph_hpc_fanout.journal.results import Results


def level_sizes(summaries: int, fan_in: int) -> list[int]:
    """How many groups each level has, from so many summaries down to the last one.

    Args:
        summaries: How many there are to begin with. One, or none, needs no level.
        fan_in: Most summaries a group.

    Raises:
        ValueError: If `fan_in` is less than 2: there would be no end of levels.
    """
    _check(fan_in)
    sizes = []
    while summaries > 1:
        summaries = _groups(summaries, fan_in)
        sizes.append(summaries)
    return sizes


class Groups:
    """A source of groups of summaries, each to be summarised once more.

    An item is `{"summaries", "level", "members"}`: the texts, numbered from 1, with blank lines
    between them; the level; and the first and the last place it covers. Sizes of groups differ
    by one at most. Outcomes that failed are left out; a group of nothing else is a `BadRow`.

    Args:
        of: The summaries of the level below: the results of its run, when it is complete, or
            texts.
        fan_in: Most summaries a group, at least 2.
        level: Number of the level, from 1.

    Raises:
        ValueError: If `fan_in` is less than 2.
    """

    def __init__(self, of: Results | Sequence[str], fan_in: int, level: int = 1) -> None:
        _check(fan_in)
        self.name = f"level {level}"
        self.ready = not isinstance(of, Results)
        self._of = of
        self._fan_in = fan_in
        self._level = level

    def __len__(self) -> int:
        return _groups(len(self._of), self._fan_in)

    def fields(self) -> tuple[str, ...]:
        """The fields of every item."""
        return ("summaries", "level", "members")

    def read(self, start: int, stop: int) -> Iterator[Any]:
        """The groups from `start` up to `stop`, lazily."""
        bounds = [self._bound(group) for group in range(start, stop + 1)]
        texts = self._texts(bounds[0], bounds[-1])
        for first, end in pairwise(bounds):
            yield self._group(first, end, list(islice(texts, end - first)))

    def reference(self, start: int, stop: int) -> dict[str, Any]:
        """Where the summaries of these groups are; those that are nowhere else are in it."""
        first, end = self._bound(start), self._bound(stop)
        of = (
            {"results": self._of.reference()}
            if isinstance(self._of, Results)
            else {"texts": list(self._of[first:end])}
        )
        return {
            "kind": "groups",
            "level": self._level,
            "fan_in": self._fan_in,
            "start": start,
            "stop": stop,
            **of,
        }

    def _bound(self, group: int) -> int:
        """The first place of a group: groups are as even as can be."""
        return group * len(self._of) // max(1, len(self))

    def _texts(self, first: int, end: int) -> Iterator[str | None]:
        """The summary at each place, None where there is none."""
        if isinstance(self._of, Results):
            outcomes = self._of.slice(first, end)
            return (_text(each.value) if each.ok else None for each in outcomes)
        return iter(self._of[first:end])

    def _group(self, first: int, end: int, texts: list[str | None]) -> Any:
        there = [text for text in texts if text is not None]
        if not there:
            return BadRow(f"{self.name}: none of the summaries {first} to {end - 1} is there")
        numbered = (f"{number}. {text}" for number, text in enumerate(there, 1))
        return {
            "summaries": "\n\n".join(numbered),
            "level": self._level,
            "members": [first, end - 1],
        }


def _check(fan_in: int) -> None:
    if fan_in < 2:
        raise ValueError(f"fan_in={fan_in!r}: a group has at least two summaries.")


def _groups(summaries: int, fan_in: int) -> int:
    return -(-summaries // fan_in)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
