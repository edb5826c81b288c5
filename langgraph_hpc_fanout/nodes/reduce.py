"""The node that puts answers into state."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.errors import GraphBubbleUp
from langgraph.runtime import get_runtime
from typing_extensions import TypedDict

from langgraph_hpc_fanout import reducers
from langgraph_hpc_fanout.journal.results import Results
from langgraph_hpc_fanout.nodes.arguments import check
from langgraph_hpc_fanout.nodes.fan_out import FanOutNode, writer_of_this_branch
from langgraph_hpc_fanout.records import FanOutError
from langgraph_hpc_fanout.reducers import Reducer
from langgraph_hpc_fanout.runs.levels import Levels
from langgraph_hpc_fanout.runs.receipts import (
    Receipt,
    in_order,
    merge_receipts,
    missing_shards,
)
from langgraph_hpc_fanout.stats import Stats


class ReduceNode(Runnable[Any, dict[str, Any]]):
    """Folds the outcomes of one fan-out into graph state.

    Args:
        fan_out: The fan-out whose outcomes it takes.
        into: State key for what the reducer returns.
        name: Name in the graph; by default the fan-out's with `_reduce`.
        reducer: A callable over the outcomes in input order, see `reducers`.
        failures_into: State key for a list of the failed outcomes, as dicts.
        report_into: State key for the run's report: `reducers.stats` and the run's `seconds`.
        min_success: Share of items (0 to 1) that must have an answer.

    Raises:
        TypeError: If `fan_out` is no FanOutNode or the reducer is not callable.
        ValueError: If `min_success` is no share, `reference` is wanted without a journal, or
            `tree` without a pool.
    """

    def __init__(
        self,
        fan_out: FanOutNode,
        into: str,
        *,
        name: str | None = None,
        reducer: Reducer = reducers.collect,
        failures_into: str | None = None,
        report_into: str | None = None,
        min_success: float = 0.0,
    ) -> None:
        check("fan_out", fan_out, FanOutNode, "a FanOutNode", of="ReduceNode")
        if not callable(reducer):
            raise TypeError(f"ReduceNode(reducer={reducer!r}) is not callable.")
        if not 0.0 <= min_success <= 1.0:
            raise ValueError(f"ReduceNode(min_success={min_success!r}) is no share from 0 to 1.")
        if reducer is reducers.reference and fan_out.journal is None:
            raise ValueError(
                "reducers.reference needs outcomes that are kept: give FanOutNode a journal=."
            )
        if (
            isinstance(reducer, reducers.Tree)
            and reducer.pool is None
            and fan_out.plan.pool is None
        ):
            raise ValueError("reducers.tree has nobody to ask: give it a pool=.")
        self.name: str = name or f"{fan_out.name}_reduce"
        self.fan_out = fan_out
        self.into = into
        self._reducer = reducer
        self._failures_into = failures_into
        self._report_into = report_into
        self._min_success = min_success

    @property
    def keys(self) -> list[str]:
        """The state keys that it writes."""
        return [key for key in (self.into, self._failures_into, self._report_into) if key]

    @property
    def receipts_schema(self) -> type[Any]:
        """Schema that declares the fan-out's private channel; pass it to `add_node`."""
        channel = {self.fan_out.channel: Annotated[dict[str, Any], merge_receipts]}
        return TypedDict(f"{self.fan_out.channel.title().replace('_', '')}", channel)  # type: ignore[operator, no-any-return]

    def metadata(self) -> dict[str, Any]:
        """What the node does, for graph drawings and Studio."""
        reducer = self._reducer
        name = getattr(reducer, "__qualname__", type(reducer).__name__.lower()).split(".")[0]
        return {"kind": "reduce", "reducer": name, "into": self.into}

    def invoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Reduce, from sync code."""
        return self._reduce(input, self._levels(config))

    async def ainvoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Reduce, from async code; in a thread, for it may read a large journal."""
        levels = self._levels(config)
        try:
            return await asyncio.to_thread(self._reduce, input, levels)
        except asyncio.CancelledError:
            levels.cancel()
            raise

    def _levels(self, config: RunnableConfig | None) -> Levels:
        context = get_runtime().context
        return Levels(self.fan_out.plan, context, config or {}, writer_of_this_branch())

    def _reduce(self, state: Mapping[str, Any], levels: Levels) -> dict[str, Any]:
        results = self._results(state)
        self._judge(results, state)
        update = {self.into: self._apply(results, levels)}
        if self._failures_into is not None:
            failed = (outcome for outcome in results if not outcome.ok)
            update[self._failures_into] = [outcome.to_dict() for outcome in failed]
        if self._report_into is not None:
            update[self._report_into] = self._report(state)
        return update

    def _report(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """What the branches counted, together; nothing is read again."""
        receipts = self._receipts(state)
        stats = Stats()
        for receipt in receipts:
            stats.merge(Stats.load(receipt["stats"]))
        return {**stats.to_dict(), "seconds": max(receipt["seconds"] for receipt in receipts)}

    def _receipts(self, state: Mapping[str, Any]) -> list[Receipt]:
        return in_order(state[self.fan_out.channel])

    def _results(self, state: Mapping[str, Any]) -> Results:
        receipts = state.get(self.fan_out.channel)
        if not receipts:
            raise FanOutError(
                f"{self.name} found nothing to reduce: is its fan-out {self.fan_out.name!r} in the "
                "graph, with an edge from it to here?"
            )
        if self.fan_out.nodes and receipts["node"] not in self.fan_out.nodes:
            raise FanOutError(
                f"{self.name} found the answers of node {receipts['node']!r}: two fan-outs in this "
                f"graph are named {self.fan_out.name!r}; give each a name= of its own."
            )
        if absent := missing_shards(receipts):
            raise FanOutError(
                f"{self.name} has the answers of {receipts['shards'] - len(absent)} of "
                f"{receipts['shards']} branches; the others ended without a receipt."
            )
        return Results(receipts["run"], self._receipts(state))

    def _judge(self, results: Results, state: Mapping[str, Any]) -> None:
        if not len(results) or results.ok >= self._min_success * len(results):
            return
        kinds = self._report(state)["failures"]
        raise FanOutError(
            f"{self.name}: {results.ok} of {len(results)} items have an answer, fewer than "
            f"min_success={self._min_success:g}; failures: {kinds}.",
            outcomes=results,
            journal=results.journal,
        )

    def _apply(self, results: Results, levels: Levels) -> Any:
        try:
            if isinstance(self._reducer, reducers.Tree):
                return self._reducer.reduce(results, levels, self.name)
            return self._reducer(results)
        except (GraphBubbleUp, FanOutError):
            raise
        except Exception as error:
            name = getattr(self._reducer, "__qualname__", repr(self._reducer))
            raise FanOutError(
                f"{self.name}: the reducer {name} raised {type(error).__name__}: {error}",
                outcomes=results,
                journal=results.journal,
            ) from error
