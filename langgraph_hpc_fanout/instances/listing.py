"""Who is listed now, and who joins and leaves with each look. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from langgraph_hpc_fanout.instances.instance import ListedT, Reading


@dataclass(frozen=True, slots=True)
class Change(Generic[ListedT]):
    """What a look has changed.

    Attributes:
        left: Names of instances that are not listed any more, or not as they were.
        joined: Instances that were not listed before, or not as they are.
    """

    left: tuple[str, ...] = ()
    joined: tuple[ListedT, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.left or self.joined)


class Listing(Generic[ListedT]):
    """Who is listed, over many looks.

    Instances join as soon as they are seen. They leave when a complete list does not have them;
    an empty one is taken for a list that is being rewritten, so nobody leaves with it.
    """

    def __init__(self) -> None:
        self._listed: dict[str, ListedT] = {}

    def __len__(self) -> int:
        return len(self._listed)

    def take(self, reading: Reading[ListedT]) -> Change[ListedT]:
        """Take in what a look has found."""
        found = {instance.name: instance for instance in reading.instances}
        joined = [each for name, each in found.items() if name not in self._listed]
        left: list[str] = []
        if found and reading.is_complete:
            for name, instance in self._listed.items():
                if name not in found:
                    left.append(name)
                elif found[name] != instance:
                    left.append(name)
                    joined.append(found[name])
        for name in left:
            del self._listed[name]
        self._listed.update({each.name: each for each in joined})
        return Change(tuple(left), tuple(joined))
