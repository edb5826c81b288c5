"""What a fan-out has been told to do: everything about a run that its items do not change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.journal.journal import Journal
from langgraph_hpc_fanout.pool import Pool
from langgraph_hpc_fanout.runs.overrides import overrides_in
from langgraph_hpc_fanout.runs.shard import Shard
from langgraph_hpc_fanout.tasks.prompt import Prompt
from langgraph_hpc_fanout.tasks.remote import RemoteFunction
from langgraph_hpc_fanout.tasks.runnable import RunnableTask

_OF_A_CALL = ("concurrency",)
_OF_A_PROMPT = ("model", "max_tokens", "temperature", *_OF_A_CALL)


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of a `FanOutNode`, as its runs see them; see there for their meaning."""

    name: str
    task: Prompt | RemoteFunction | RunnableTask
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

    @property
    def makes_keys(self) -> bool:
        """Whether keys are made with the user's code: a function, or what an item is made of."""
        return self.key is not None or isinstance(self.task, RunnableTask)

    def shard(
        self, number: int, start: int, items: Sequence[Any], shared: Mapping[str, Any]
    ) -> Shard:
        """A slice of the items, for one branch."""
        key, task = self.key, self.task
        if key is None and isinstance(task, RunnableTask):
            find = task.key if self.journal is not None else task.key_or_any
            key = partial(find, shared=shared)
        return Shard(number, start, items, self.samples, self.trace, key)

    def adapted(self, context: Any) -> Plan:
        """The plan with what the user's context overrides, see `runs.overrides`.

        Raises:
            FanOutError: If an override is out of range.
        """
        names = _OF_A_PROMPT if isinstance(self.task, Prompt) else _OF_A_CALL
        wished = overrides_in(context, self.name, names)
        if not wished:
            return self
        concurrency = wished.pop("concurrency", None)
        task = self.task
        if wished and isinstance(task, Prompt):
            task = task.adapted(**wished)
        return replace(self, task=task, concurrency=concurrency)


def check_meaning(plan: Plan, version: str | None) -> None:
    """Refuse settings that the task would ignore.

    Raises:
        ValueError: If there is one, or a number is out of range.
    """
    if plan.trace < 0:
        raise ValueError(f"FanOutNode(trace={plan.trace!r}) must not be negative.")
    if plan.task_concurrency is not None and plan.task_concurrency < 1:
        raise ValueError(
            f"FanOutNode(task_concurrency={plan.task_concurrency!r}) must be at least 1."
        )
    if isinstance(plan.task, Prompt):
        if plan.task_concurrency is not None:
            raise ValueError(
                "FanOutNode(task_concurrency=...) is for Runnables and functions; what a Prompt "
                "asks at once is set by Limits(concurrency=...) of the pool's endpoints."
            )
        if version is not None:
            raise ValueError(
                "FanOutNode(version=...) is for Runnables and functions; a Prompt's answers are "
                "known by what was asked."
            )
        return
    if plan.trace:
        raise ValueError("FanOutNode(trace=...) is for a Prompt; a Runnable is traced anyway.")
    if isinstance(plan.task, RemoteFunction):
        if plan.task_concurrency is not None:
            raise ValueError(
                "FanOutNode(task_concurrency=...) is for what runs here; how many calls of "
                f"{plan.task.name} run at once is set by window= of the endpoint that runs it."
            )
        return
    if plan.retry != Retry():
        raise ValueError(
            "FanOutNode(retry=...) is for a Prompt; use RunnableLambda(function).with_retry() for "
            "a function, a Runnable's own with_retry(), and pool.chat_model(retry=...)."
        )
    if plan.journal is not None and plan.key is None and version is None and not plan.task.is_named:
        raise ValueError(
            f"The task {plan.task.name} has no name of its own by which a journal could know its "
            'answers; give FanOutNode a version="1", and another one when the task changes.'
        )
