"""Summaries of summaries, asked of the model itself, level by level."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import orjson

from langgraph_hpc_fanout.items.source import BadRow
from langgraph_hpc_fanout.journal.results import Results
from langgraph_hpc_fanout.pool import Pool
from langgraph_hpc_fanout.records import FanOutError, Outcome
from langgraph_hpc_fanout.runs.levels import Levels
from langgraph_hpc_fanout.tasks.prompt import Prompt

_FIELDS = ("summaries", "level", "members")


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


class Tree:
    """What `tree` returns; a `ReduceNode` gives it the means to ask."""

    def __init__(self, prompt: Prompt, fan_in: int, pool: Pool | None) -> None:
        _check(fan_in)
        if prompt.samples > 1:
            raise ValueError("tree asks once for each group; leave samples= out of its prompt.")
        if absent := prompt.missing_fields([dict.fromkeys(_FIELDS, "")], {}):
            raise ValueError(
                f"tree's prompt wants {', '.join(map(repr, absent))}; it has "
                f"{', '.join(_FIELDS)} to ask with."
            )
        if "summaries" not in prompt.missing_fields([dict.fromkeys(_FIELDS[1:], "")], {}):
            raise ValueError("tree's prompt has no {summaries}, so it would merge nothing.")
        self.prompt = prompt
        self.fan_in = fan_in
        self.pool = pool

    def __call__(self, outcomes: Iterable[Outcome]) -> Any:
        """Not without a fan-out.

        Raises:
            TypeError: Always.
        """
        raise TypeError("tree asks the model, so it works as the reducer of a ReduceNode only.")

    def reduce(self, results: Results, levels: Levels, name: str) -> Any:
        """The last summary; None when no item has an answer. Blocks.

        Args:
            results: The summaries to begin with.
            levels: Asks.
            name: Name of the reduce node; runs are called after it.

        Raises:
            FanOutError: If a group has no summary after all tries. With a journal, those that
                have one are not asked again.
        """
        for number, _ in enumerate(level_sizes(len(results), self.fan_in), 1):
            groups = Groups(results, self.fan_in, number)
            results = levels.ask(groups, self.prompt, f"{name}_level_{number}", self.pool)
            lost = _lost(groups, results)
            if (first := next(lost, None)) is not None:
                raise FanOutError(
                    f"{name}: {1 + sum(1 for _ in lost)} of {len(results)} groups of level "
                    f"{number} have no summary, so the whole would lack them; the first: {first}",
                    outcomes=results,
                    journal=results.journal,
                )
        return next((each.value for each in results if each.ok), None)


def tree(prompt: Prompt | str, fan_in: int = 8, *, pool: Pool | None = None) -> Tree:
    r"""A reducer that summarises summaries with the model, level by level, down to a single one.

    Each level is a run of its own, with the pool, the journal and the retries of the fan-out; with
    a journal, a level that was answered is not asked again. Items that failed are left out. A
    single summary is returned as it is.

    Args:
        prompt: What to ask of each group. Fields: `{summaries}`, its texts, numbered, with blank
            lines between them; `{level}`, from 1; `{members}`, its first and last place.
        fan_in: Most summaries a group, at least 2.
        pool: Where to ask, if not where the fan-out did.

    Raises:
        ValueError: If `fan_in` is less than 2, or the prompt wants other fields, or no summaries.

    Example:
        ```python
        overview = reducers.tree("Merge these summaries into one:\n\n{summaries}", fan_in=10)
        gather = ReduceNode(papers, into="overview", reducer=overview)
        ```
    """
    return Tree(Prompt(prompt) if isinstance(prompt, str) else prompt, fan_in, pool)


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

    def read(self, start: int, stop: int) -> Iterator[Any]:
        """The groups from `start` up to `stop`, lazily."""
        bounds = [self._bound(group) for group in range(start, stop + 1)]
        texts = self._texts(bounds[0], bounds[-1])
        for first, end in pairwise(bounds):
            yield self._group(first, end, list(islice(texts, end - first)))

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


def _lost(groups: Groups, results: Results) -> Iterator[str]:
    """Why groups have no summary; those of failures only have none to lose."""
    if not results.failed:
        return
    for outcome, group in zip(results, groups.read(0, len(groups)), strict=True):
        if outcome.error is not None and not isinstance(group, BadRow):
            yield outcome.error.message


def _check(fan_in: int) -> None:
    if fan_in < 2:
        raise ValueError(f"fan_in={fan_in!r}: a group has at least two summaries.")


def _groups(summaries: int, fan_in: int) -> int:
    return -(-summaries // fan_in)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
