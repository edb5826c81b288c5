"""What a contender had a fleet do, by the fleet's own record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from benchmarks.workload import MARK
from langgraph_hpc_fanout.testing.fleet import Served

_ANSWERED = 200
_NEVER_ANSWERED = 0
_IN_VAIN = frozenset({"reset", "hang"})


@dataclass(frozen=True, slots=True)
class Bill:
    """What must be paid for, were it a real model's work. Warm-ups are not on it.

    Attributes:
        answered: Items with an answer that was sent whole.
        worked: Requests that a model would have worked on: those answered, and those whose
            client never got, or never waited for, the answer. Being turned away costs nothing.
        again: Those of them beyond the first for their item: what was paid twice.
        forced: How many had to be paid in vain, whatever the contender did: answers that were
            cut, and that never came.
    """

    answered: int
    worked: int
    again: int
    forced: int

    @classmethod
    def of(cls, requests: Iterable[Served]) -> Self:
        """The bill for the requests of one contender."""
        worked = [
            request
            for request in requests
            if request.status in {_ANSWERED, _NEVER_ANSWERED} and MARK in request.prompt
        ]
        return cls(
            answered=len({each.prompt for each in worked if _whole(each)}),
            worked=len(worked),
            again=len(worked) - len({each.prompt for each in worked}),
            forced=sum(each.fault in _IN_VAIN for each in worked),
        )


def _whole(request: Served) -> bool:
    return request.status == _ANSWERED and request.fault is None and not request.closed_early
