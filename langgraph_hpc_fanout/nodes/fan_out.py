"""The node that asks: its router cuts items into shards, its branches wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import os
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langgraph.config import get_stream_writer
from langgraph.runtime import get_runtime
from langgraph.types import Send

from langgraph_hpc_fanout.dispatch.costs.budget import Budget
from langgraph_hpc_fanout.dispatch.loop import is_loop_thread
from langgraph_hpc_fanout.dispatch.ordering import Order
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.endpoints.protocol import FUNCTIONS
from langgraph_hpc_fanout.endpoints.tags import Tags, as_tags
from langgraph_hpc_fanout.items.batch import OpenAIBatch
from langgraph_hpc_fanout.items.dead_letters import are_letters
from langgraph_hpc_fanout.items.json_lines import JsonLines
from langgraph_hpc_fanout.items.opening import reopen
from langgraph_hpc_fanout.items.source import Source, SourceError
from langgraph_hpc_fanout.journal.journal import Journal
from langgraph_hpc_fanout.nodes.arguments import check
from langgraph_hpc_fanout.nodes.intake import HEAD, Given, Intake, state_value
from langgraph_hpc_fanout.pool import Pool
from langgraph_hpc_fanout.records import FanOutError
from langgraph_hpc_fanout.runs.calling import TASK_CONCURRENCY
from langgraph_hpc_fanout.runs.interrupt import INTERRUPTED
from langgraph_hpc_fanout.runs.plan import Plan, check_meaning
from langgraph_hpc_fanout.runs.receipts import (
    Receipt,
    Receipts,
    new_run_id,
)
from langgraph_hpc_fanout.runs.registry import Handover, registry
from langgraph_hpc_fanout.runs.run import Run
from langgraph_hpc_fanout.runs.shard import Shard
from langgraph_hpc_fanout.runs.trace import Trace
from langgraph_hpc_fanout.tasks.prompt import Prompt
from langgraph_hpc_fanout.tasks.ready import ReadyRequest
from langgraph_hpc_fanout.tasks.remote import RemoteFunction
from langgraph_hpc_fanout.tasks.runnable import RunnableTask
from langgraph_hpc_fanout.tasks.sweep import Sweep, Variant
from langgraph_hpc_fanout.tasks.template import field_of, has_field
from langgraph_hpc_fanout.watch.reporter import Writer

_MOST_BRANCHES = 64
"""LangGraph's work in a superstep grows with the square of its branches."""
_MOST_NAMES = 4
_CUSTOM_ID = "custom_id"


class FanOutNode(Runnable[Any, dict[str, Any]]):
    """Asks a task for every item of a list in graph state.

    The node's router sends slices of the list to branches of the node (`Send`); the run as a
    whole goes to the pool's scheduler, so its width is set by the pool's limits and not by
    how many branches LangGraph runs at once. Up to 64 items each have a branch of their own.

    Args:
        items: The state key that holds the list, or the list itself; a file's path, such as
            `"papers.parquet"`, or another source (`JsonLines`, `Csv`, `Parquet`, `TextFiles`,
            `OpenAIBatch`, `DeadLetters`); a function of the state that returns a list, an
            iterator or a source; or a `Sweep` over one of these.
        task: What to do for each item: a `Prompt`, which is asked through the pool's lanes; a
            Runnable (a chain, an agent, a compiled graph); or a function of the item, sync or
            async. These two run where LangGraph runs the node and ask through
            `pool.chat_model()`. Or `"package.module:function"`, a function of the item that is
            called on the HPC side, by the workers of a `GlobusComputeEndpoint`. May be left out
            where the items say what is asked: a sweep over prompts, an `OpenAIBatch`.
        pool: Where to ask; a `Prompt` and a function on the HPC side need one.
        name: Name in the graph, in progress events and in logs; unique within a graph.
        shared: State keys whose values fill template fields that items do not have.
        key: The item's own key: one of its fields, or a function of the item. By default a
            hash of what is asked; for a Runnable or function, of the item, the task's name and
            `version`.
        version: Which version of a Runnable or function it is: answers that a journal has of
            another version do not count.
        shard_size: Items a branch, or "auto" for at most 64 branches.
        task_concurrency: Most calls of a Runnable or function at once; by default 64.
        require: Tags that an endpoint must have to be asked, see `OpenAIEndpoint(tags=...)`.
        forbid: Tags that it must not have. No request ever leaves for one that has.
        weight: Its turns at endpoints that other runs want, too, against theirs.
        order: In which order requests leave, among about a thousand that are looked at ahead:
            as they come; `"longest_first"`, so that a run does not end with its longest item; or
            `"by_prefix"`, where those that begin alike go to the same endpoint one after another,
            for the sake of its cache. Outcomes are in input order whichever it is.
        budget: What a run may use. What is unanswered when it is spent fails with kind `budget`.
        journal: Where outcomes are kept. Without one they travel in graph state up to 16 MB,
            then in a temporary journal.
        retry: How hard to try to get a prompt answered. A Runnable has `with_retry`.
        item_deadline: Seconds from an item's first attempt to its last.
        deadline: Seconds for the run; what is unanswered then fails with kind `timeout`.
        trace: How many items of a prompt are shown to callbacks as LLM runs, from the first on:
            to LangSmith, and in `stream_mode="messages"`. Each costs about what a call of
            a chat model costs; the others are seen as part of their branch only.

    Raises:
        TypeError: If the items, the task, the pool or the journal are none.
        ValueError: If a number is out of range, or a setting has no meaning for the task.

    Example:
        ```python
        screen = FanOutNode("molecules", Prompt("Is {smiles} soluble?"), pool=pool)
        gather = ReduceNode(screen, into="predictions")
        ```
    """

    def __init__(
        self,
        items: str
        | os.PathLike[str]
        | Source
        | Sweep
        | Sequence[Any]
        | Callable[[Any], Iterable[Any] | Source],
        task: Prompt | Runnable[Any, Any] | Callable[..., Any] | str | None = None,
        *,
        pool: Pool | None = None,
        name: str = "fan_out",
        shared: str | Sequence[str] = (),
        key: str | Callable[[Any], str] | None = None,
        version: str | None = None,
        shard_size: int | Literal["auto"] = "auto",
        task_concurrency: int | None = None,
        require: Tags = (),
        forbid: Tags = (),
        weight: float = 1.0,
        order: Order = "input",
        budget: Budget | None = None,
        journal: Journal | None = None,
        retry: Retry = Retry(),
        item_deadline: float | None = None,
        deadline: float | None = None,
        trace: int = 0,
    ) -> None:
        swept = items if isinstance(items, Sweep) else None
        asked_about = items.items if isinstance(items, Sweep) else items
        if task is None:
            task = _task_of_items(asked_about, swept)
        elif swept is not None and swept.has_prompts:
            raise ValueError(
                "FanOutNode(task=...) beside Sweep(prompts=...): say only once what is asked."
            )
        if key is None and isinstance(asked_about, OpenAIBatch):
            key = _CUSTOM_ID
        if pool is None and isinstance(task, Prompt | str | None):
            what = "a function on the HPC side" if isinstance(task, str) else "a Prompt"
            raise TypeError(f"FanOutNode(pool=...) is missing: {what} needs to know where to ask.")
        if pool is not None:
            check("pool", pool, Pool, "a Pool")
        if budget is not None:
            check("budget", budget, Budget, "a Budget")
        if journal is not None:
            shown = os.fspath(journal) if isinstance(journal, str | os.PathLike) else "runs/screen"
            check("journal", journal, Journal, f'a journal, such as Journal("{shown}")')
        _check_number("item_deadline", item_deadline)
        _check_number("deadline", deadline)
        if shard_size != "auto" and (not isinstance(shard_size, int) or shard_size < 1):
            raise ValueError(f"FanOutNode(shard_size={shard_size!r}) must be 'auto' or at least 1.")
        self.name: str = name
        self.shared: tuple[str, ...] = (shared,) if isinstance(shared, str) else tuple(shared)
        self.channel = f"{name}_receipts"
        self.nodes: set[str] = set()
        self._intake = Intake(name, asked_about, journal)
        self._last_source: tuple[dict[str, Any], Source] | None = None
        self._shard_size = shard_size
        self._key_field = key if isinstance(key, str) else None
        made = None if task is None else _task(task, version)
        self.plan = Plan(
            name=name,
            variants=(Variant(made),) if swept is None else swept.variants(made),
            swept=() if swept is None else swept.axes,
            pool=pool,
            key=_key_function(key),
            journal=journal,
            retry=retry,
            item_deadline=item_deadline,
            deadline=deadline,
            task_concurrency=task_concurrency,
            trace=trace,
            require=as_tags(require, "FanOutNode(require=...)"),
            forbid=as_tags(forbid, "FanOutNode(forbid=...)"),
            weight=weight,
            order=order,
            budget=budget,
        )
        check_meaning(self.plan, version)

    @property
    def state_keys(self) -> list[str] | None:
        """The state keys that hold its items; None when only the user's code knows."""
        return self._intake.state_keys()

    @property
    def journal(self) -> Journal | None:
        """Where outcomes are kept."""
        return self.plan.journal

    def metadata(self) -> dict[str, Any]:
        """What the node does, for graph drawings and Studio; holds no secrets."""
        task = self.plan.task
        shown: dict[str, Any] = {"kind": "fan-out", "task": task.describe()}
        endpoints = () if self.plan.pool is None else self.plan.pool.endpoints
        if isinstance(task, Prompt):
            models = sorted({model for each in endpoints for model in each.models} - {FUNCTIONS})
            asked = dict.fromkeys(each.task.model for each in self.plan.variants if each.task.model)
            shown["model"] = _listed(list(asked or models)) or "the pool's only model"
            if self.plan.swept:
                shown["sweep"] = f"{', '.join(self.plan.swept)}: {self.plan.per_item} an item"
        elif isinstance(task, RunnableTask):
            shown["task_concurrency"] = self.plan.task_concurrency or TASK_CONCURRENCY
        if endpoints:
            limits = dict.fromkeys(endpoint.limits.describe() for endpoint in endpoints)
            shown["endpoints"] = _listed([endpoint.name for endpoint in endpoints])
            shown["limits"] = _listed(list(limits)) + (" each" if len(endpoints) > 1 else "")
        return shown

    # -- the router -----------------------------------------------------------------------

    def router(self, node: str | None = None) -> Runnable[Any, Hashable | list[Hashable]]:
        """The path function of the conditional edges that lead to this node.

        Args:
            node: The name under which the node was added, if not its own.

        Example:
            ```python
            builder.add_conditional_edges(START, screen.router(node="screen"), ["screen"])
            ```
        """
        target = node or self.name
        self.nodes.add(target)

        def route(state, config: RunnableConfig):  # type: ignore[no-untyped-def]
            self._refuse_loop_threads()
            return self._route(state, config, target, Handover())

        async def aroute(state, config: RunnableConfig):  # type: ignore[no-untyped-def]
            # It may read files, and call the user's code: not on the host's loop.
            handover = Handover()
            try:
                return await asyncio.to_thread(self._route, state, config, target, handover)
            except asyncio.CancelledError:
                handover.call_off()  # the thread goes on, and nobody will come for its run
                raise

        # LangGraph reads the targets from this when no path map is given: without it, a
        # misnamed node would be passed over in silence instead of refused by compile().
        route.__annotations__["return"] = Literal[target]
        return RunnableLambda(route, afunc=aroute, name=f"{target}_router")

    def _route(
        self, state: Any, config: RunnableConfig, target: str, handover: Handover
    ) -> list[Send]:
        """One Send a shard; the whole run is registered for the first branch to hand over."""
        shared = {name: state_value(state, name, self.name) for name in self.shared}
        run_id = new_run_id()
        with self._sources_named():
            given = self._intake.find(state, run_id, config)
            source, kept, total = given.live, given.kept, len(given.live)
            head = given.head()
            self._check_fields(given, head, shared)
            about = {
                "total": total,
                "items": source.name,
                "source": given.whereabouts,
                "started": time.time(),
            }
        plan = self.plan.adapted(get_runtime().context, head)
        run = Run(run_id, plan, shared, about)
        size = self._size_for(total)
        starts = range(0, max(1, total), size)
        for number, start in enumerate(starts):
            run.add(plan.shard(number, source, start, min(size, total - start)))
        handover.register(run)
        return [
            Send(
                target,
                {
                    "fan_out": self.name,
                    "run": run.id,
                    "shard": shard.number,
                    "shards": len(starts),
                    "start": shard.start,
                    "count": shard.count,
                    "source": kept.reference(shard.start, shard.stop),
                    "shared": shared,
                },
            )
            for shard in run.shards.values()
        ]

    def _check_fields(self, given: Given, head: Sequence[Any], shared: Mapping[str, Any]) -> None:
        """Refuse, before anything is sent, what can be asked for no item at all.

        Raises:
            FanOutError: If no item has a field that is wanted.
        """
        if not head:
            return
        task = self.plan.task
        for variant in self.plan.variants:
            if isinstance(variant.task, Prompt) and (
                absent := variant.task.missing_fields(given.examples(head), shared)
            ):
                raise FanOutError(
                    f"{self.name}: the prompt wants {', '.join(map(repr, absent))}, which neither "
                    f"the items{_fields_of(head[0])} nor shared={list(self.shared)!r} have; "
                    f"nothing was sent.{_way_out(absent, given.live, head)}"
                )
        if isinstance(task, RunnableTask) and (lost := task.misses(head[0], shared)):
            raise FanOutError(
                f"{self.name}: {task.name} takes {_listed(lost)}, and the items"
                f"{_fields_of(head[0])} have none of these; put a step before it that makes its "
                "input of an item. Nothing was called."
            )
        key = self._key_field
        if key and not any(has_field(item, key) for item in given.examples(head)):
            raise FanOutError(
                f"{self.name}: key={key!r} names no field of the items{_fields_of(head[0])}; "
                "nothing was sent."
            )

    @contextlib.contextmanager
    def _sources_named(self) -> Iterator[None]:
        """Say whose items they are that cannot be read."""
        try:
            yield
        except SourceError as error:
            raise FanOutError(f"{self.name}: {str(error).rstrip('.')}.") from error
        except OSError as error:
            raise FanOutError(f"{self.name}: its items cannot be kept: {error}.") from error

    def _refuse_loop_threads(self) -> None:
        if is_loop_thread():
            raise RuntimeError(
                f"{self.name} was invoked synchronously on an event loop of the fan-out's own "
                "(in an async endpoint or an async task), where it would wait for itself for "
                "ever; use ainvoke there."
            )

    def _size_for(self, total: int) -> int:
        if self._shard_size == "auto":
            return max(1, math.ceil(total / _MOST_BRANCHES))
        return self._shard_size

    # -- a branch -------------------------------------------------------------------------

    def invoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Wait for a shard, from sync code."""
        self._refuse_loop_threads()
        run, shard, trace = self._claim(input, config)
        run.heed_ctrl_c = True
        run.start(None, config or {})
        try:
            trace.follow()
            return self._report(input, shard.future.result(), config)
        except KeyboardInterrupt:
            run.cancel(INTERRUPTED, logging.WARNING)
            raise
        except BaseException as error:
            run.cancel(f"A branch of {self.name} raised {error!r}.", logging.WARNING)
            raise
        finally:
            run.unwatch(shard)
            registry.release(run)

    async def ainvoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Wait for a shard, from async code."""
        if registry.has(input):
            run, shard, trace = self._claim(input, config)
        else:
            run, shard, trace = await self._claim_anew(input, config)
        run.start(asyncio.get_running_loop(), config or {})
        try:
            await trace.afollow()
            receipt = await asyncio.wrap_future(shard.future)
        except asyncio.CancelledError:
            run.cancel(f"{self.name} was cancelled.")
            raise
        except BaseException as error:
            run.cancel(f"A branch of {self.name} raised {error!r}.", logging.WARNING)
            raise
        finally:
            run.unwatch(shard)
            registry.release(run)
        return self._report(input, receipt, config)

    def _claim(self, branch: Any, config: RunnableConfig | None) -> tuple[Run, Shard, Trace]:
        if not isinstance(branch, Mapping) or branch.get("fan_out") != self.name:
            raise FanOutError(
                f"{self.name} was reached by a plain edge; lead to it with "
                "add_fan_out(...) or add_conditional_edges(source, fan_out.router(), [name])."
            )
        writer = writer_of_this_branch()
        runtime = get_runtime()
        with self._sources_named():
            run, shard = registry.claim(
                branch["run"],
                branch["shard"],
                runtime.control,
                begin=lambda: self._begin_again(branch, runtime.context),
                shard=lambda: self._shard_again(branch),
            )
        shard.config = config
        run.watch(shard, writer)
        return run, shard, Trace(run, shard)

    async def _claim_anew(
        self, branch: Any, config: RunnableConfig | None
    ) -> tuple[Run, Shard, Trace]:
        """After a restart the branch brings its shard, and looks for its items in a thread."""
        claiming = asyncio.ensure_future(asyncio.to_thread(self._claim, branch, config))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            claiming.add_done_callback(self._let_go)  # the thread goes on, and nobody waits
            raise

    def _let_go(self, claiming: asyncio.Future[tuple[Run, Shard, Trace]]) -> None:
        if claiming.cancelled() or claiming.exception() is not None:
            return
        run, shard, _ = claiming.result()
        run.cancel(f"{self.name} was cancelled.")
        run.unwatch(shard)
        registry.release(run)

    def _begin_again(self, branch: Mapping[str, Any], context: Any) -> Run:
        """The run of a branch that comes back after a restart."""
        head = self._reopened(branch["source"]).read(0, HEAD)  # the same for all branches
        return Run(branch["run"], self.plan.adapted(context, head), branch["shared"])

    def _shard_again(self, branch: Mapping[str, Any]) -> Shard:
        """The shard of a branch that comes back after a restart."""
        source = self._reopened(branch["source"])
        return self.plan.shard(branch["shard"], source, branch["start"], branch["count"])

    def _reopened(self, reference: Mapping[str, Any]) -> Source:
        """The source of a reference; one for branches whose references are equal, as Parquet's."""
        if self._last_source is not None and self._last_source[0] == reference:
            return self._last_source[1]
        source = reopen(reference)
        self._last_source = dict(reference), source
        return source

    def _report(
        self, branch: Mapping[str, Any], receipt: Receipt, config: RunnableConfig | None
    ) -> dict[str, Any]:
        metadata = (config or {}).get("metadata") or {}
        receipts: Receipts = {
            "run": branch["run"],
            "node": metadata.get("langgraph_node", self.name),
            "shards": branch["shards"],
            "receipts": {str(branch["shard"]): receipt},
        }
        return {self.channel: receipts}


def _task_of_items(items: Any, swept: Sweep | None) -> Prompt | None:
    """What is asked where no task is given: a sweep says it, or the items do."""
    if swept is not None and swept.has_prompts:
        return None
    if isinstance(items, OpenAIBatch):
        return ReadyRequest()
    raise TypeError("FanOutNode(task=...) is missing: say what to do for each item.")


def _task(given: Any, version: str | None) -> Prompt | RemoteFunction | RunnableTask:
    if isinstance(given, Prompt):
        return given
    return (
        RemoteFunction(given, version) if isinstance(given, str) else RunnableTask(given, version)
    )


def writer_of_this_branch() -> Writer:
    """The stream writer, callable from another thread: it works in its branch's context only."""
    writer = get_stream_writer()
    context = contextvars.copy_context()
    return lambda event: context.run(writer, event)


def _way_out(absent: Sequence[str], source: Source, head: Sequence[Any]) -> str:
    """What to do about fields that no item has, where that can be guessed."""
    if isinstance(source, JsonLines) and are_letters(head):
        return f' These are dead letters; give DeadLetters("{source.name}") for the items in them.'
    if all(map(str.isidentifier, absent)):
        return ""
    return " Write braces that are meant literally twice, as in {{ and }}."


def _fields_of(item: Any) -> str:
    """The fields of an item, in brackets, where it has names for them."""
    names = item if isinstance(item, Mapping) else getattr(item, "__dict__", ())
    return f" ({_listed([str(name) for name in names])})" if names else ""


def _key_function(key: str | Callable[[Any], str] | None) -> Callable[[Any], str] | None:
    if isinstance(key, str):
        return lambda item: str(_required(item, key))
    return key


def _required(item: Any, name: str) -> Any:
    if (value := field_of(item, name)) is None:
        raise LookupError(f"it has no field {name!r} to be its key")
    return value


def _listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _check_number(what: str, seconds: float | None) -> None:
    if seconds is not None and not seconds > 0:
        raise ValueError(f"FanOutNode({what}={seconds!r}) must be a positive number of seconds.")
