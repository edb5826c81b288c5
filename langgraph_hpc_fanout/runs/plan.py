"""What a fan-out has been told to do: everything about a run that its items do not change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from langgraph_hpc_fanout.dispatch.costs.budget import Budget
from langgraph_hpc_fanout.dispatch.ordering import Order
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.items.source import Readable
from langgraph_hpc_fanout.journal.journal import Journal
from langgraph_hpc_fanout.pool import Pool
from langgraph_hpc_fanout.records import NOTHING, SWEEP
from langgraph_hpc_fanout.runs.overrides import overrides_in
from langgraph_hpc_fanout.runs.reading import Identify
from langgraph_hpc_fanout.runs.shard import Shard
from langgraph_hpc_fanout.tasks.keys import content_key
from langgraph_hpc_fanout.tasks.prompt import Prompt
from langgraph_hpc_fanout.tasks.ready import ReadyRequest
from langgraph_hpc_fanout.tasks.remote import RemoteFunction
from langgraph_hpc_fanout.tasks.runnable import RunnableTask
from langgraph_hpc_fanout.tasks.sweep import Variant

_OF_A_CALL = ("concurrency",)
_OF_A_PROMPT = ("model", "max_tokens", "temperature", *_OF_A_CALL)

Task = Prompt | RemoteFunction | RunnableTask


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of a `FanOutNode`, as its runs see them; see there for their meaning.

    Attributes:
        variants: The ways in which each item is asked; one, unless there is a sweep.
        swept: What they vary, which a context cannot override.
    """

    name: str
    variants: tuple[Variant, ...]
    pool: Pool | None
    key: Callable[[Any], str] | None
    journal: Journal | None
    retry: Retry
    item_deadline: float | None
    deadline: float | None
    task_concurrency: int | None
    trace: int
    swept: tuple[str, ...] = ()
    concurrency: int | None = None
    require: frozenset[str] = frozenset()
    forbid: frozenset[str] = frozenset()
    weight: float = 1.0
    order: Order = "input"
    budget: Budget | None = None

    @property
    def task(self) -> Task:
        """What is asked; of a sweep the first of its prompts."""
        task: Task = self.variants[0].task
        return task

    @property
    def samples(self) -> int:
        """How often each variant of an item is asked."""
        return self.task.samples if isinstance(self.task, Prompt) else 1

    @property
    def per_item(self) -> int:
        """How many outcomes an item has."""
        return len(self.variants) * self.samples

    @property
    def scope(self) -> str:
        """Where keys are good: hashes of what is asked anywhere, a user's own for the fan-out."""
        return "" if self.key is None else self.name

    def shard(self, number: int, source: Readable, start: int, count: int) -> Shard:
        """A slice of the items, for one branch."""
        return Shard(number, source, start, count, self.per_item, self.samples, self.trace)

    def steps(self, variants: Iterable[int]) -> list[int]:
        """The places of these variants among those of an item."""
        samples = range(self.samples)
        return [variant * self.samples + sample for variant in variants for sample in samples]

    def identify(self, shared: Mapping[str, Any]) -> Identify | None:
        """Makes keys with the user's code: a function, or what an item is made of."""
        key, task = self.key, self.task
        if isinstance(task, RunnableTask):
            if key is not None:
                return lambda item: (key(item), task.hash_of(item, shared))
            find = task.key if self.journal is not None else task.key_or_any
            return lambda item: (find(item, shared), None)
        return None if key is None else lambda item: (key(item), None)

    def key_of(self, key: str, shard: Shard, offset: int) -> str:
        """A user's own key of an item as that of one of its places."""
        coordinates = self.coordinates(shard, offset)
        sample = shard.sample(offset)
        if coordinates:
            return content_key([key, sample, coordinates])
        return content_key([key, sample]) if sample else key

    def coordinates(self, shard: Shard, offset: int) -> Mapping[str, Any]:
        """Where a place lies in the sweep; empty without one."""
        return self.variants[shard.variant(offset)].coordinates

    def meta(self, shard: Shard, offset: int) -> Mapping[str, Any]:
        """What the outcome of a place says of it in its meta."""
        coordinates = self.coordinates(shard, offset)
        return {SWEEP: dict(coordinates)} if coordinates else NOTHING

    def by_model(self) -> list[list[int]]:
        """Numbers of the variants that ask the same model, and so wait for the same lanes."""
        groups: dict[str | None, list[int]] = {}
        for number, variant in enumerate(self.variants):
            groups.setdefault(variant.task.model, []).append(number)
        return list(groups.values())

    def adapted(self, context: Any, head: Iterable[Any] = ()) -> Plan:
        """The plan with what the user's context overrides, see `runs.overrides`.

        Args:
            context: The context.
            head: The first items, some of which may say what model they are for.

        Raises:
            FanOutError: If an override is out of range.
        """
        names = _OF_A_PROMPT if isinstance(self.task, Prompt) else _OF_A_CALL
        free = [name for name in names if name not in self.swept]
        wished = overrides_in(context, self.name, free)
        concurrency = wished.pop("concurrency", None)
        plan = self if concurrency is None else replace(self, concurrency=concurrency)
        if wished:
            plan = _with_tasks(plan, lambda task: task.adapted(**wished))
        if isinstance(self.task, ReadyRequest):
            plan = _with_tasks(plan, lambda task: task.for_items(head))
        return plan

    def describe(self) -> dict[str, Any]:
        """What a journal is to say about a run of it."""
        about: dict[str, Any] = {"fan_out": self.name, "task": self.task.describe()}
        if self.samples > 1:
            about["samples"] = self.samples
        if self.per_item > self.samples:
            about["per_item"] = self.per_item
            about["sweep"] = [dict(variant.coordinates) for variant in self.variants]
        return about


def _with_tasks(plan: Plan, adapt: Callable[[Any], Any]) -> Plan:
    variants = [replace(variant, task=adapt(variant.task)) for variant in plan.variants]
    return replace(plan, variants=tuple(variants))


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
    if not 0.0 < plan.weight < math.inf:
        raise ValueError(f"FanOutNode(weight={plan.weight!r}) must be a positive number.")
    if plan.order not in get_args(Order):
        raise ValueError(
            f"FanOutNode(order={plan.order!r}) is unknown; known: {', '.join(get_args(Order))}."
        )
    if both := sorted(plan.require & plan.forbid):
        raise ValueError(
            f"FanOutNode(require=..., forbid=...) both name {both[0]!r}, so no endpoint could be "
            "asked; leave it out of one."
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
    if isinstance(plan.task, RunnableTask) and (
        plan.require or plan.forbid or plan.weight != 1.0 or plan.order != "input" or plan.budget
    ):
        raise ValueError(
            "FanOutNode(require=..., forbid=..., weight=..., order=..., budget=...) are for a "
            "Prompt; a Runnable asks through pool.chat_model(require=..., forbid=...), and its "
            "pool may have a budget."
        )
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
