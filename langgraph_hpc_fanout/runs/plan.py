"""What a fan-out has been told to do: everything about a run that its items do not change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from langgraph_hpc_fanout.dispatch.pool import Pool
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.journal.journal import Journal
from langgraph_hpc_fanout.tasks.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of a `FanOutNode`, as its runs see them; see there for their meaning."""

    name: str
    task: Prompt
    pool: Pool
    key: Callable[[Any], str] | None
    journal: Journal | None
    retry: Retry
    item_deadline: float | None
    deadline: float | None
