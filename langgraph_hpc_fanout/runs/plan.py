"""What a fan-out has been told to do: everything about a run that its items do not change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.journal.journal import Journal
from langgraph_hpc_fanout.pool import Pool
from langgraph_hpc_fanout.runs.overrides import overrides_in
from langgraph_hpc_fanout.runs.shard import Shard
from langgraph_hpc_fanout.tasks.prompt import Prompt
from langgraph_hpc_fanout.tasks.runnable import RunnableTask


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of a `FanOutNode`, as its runs see them; see there for their meaning."""

    name: str
    task: Prompt | RunnableTask
    pool: Pool | None
    key: Callable[[Any], str] | None
    journal: Journal | None
    retry: Retry
    item_deadline: float | None
    deadline: float | None
    task_concurrency: int | None
    trace: int
    concurrency: int | None = None

    @property
    def samples(self) -> int:
        """How often each item is asked."""
        return self.task.samples if isinstance(self.task, Prompt) else 1

    def shard(self, number: int, start: int, items: Sequence[Any]) -> Shard:
        """A slice of the items, for one branch."""
        return Shard(number, start, items, self.samples, self.trace, self.key)

    def adapted(self, context: Any) -> Plan:
        """The plan with what the user's context overrides, see `runs.overrides`.

        Raises:
            FanOutError: If an override is out of range.
        """
        wished = overrides_in(context, self.name)
        if not wished:
            return self
        concurrency = wished.pop("concurrency", None)
        task = self.task
        if wished and isinstance(task, Prompt):
            task = task.adapted(**wished)
        return replace(self, task=task, concurrency=concurrency)
