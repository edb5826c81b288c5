"""Items from a Parquet file, answers into another, a journal between, nobody to wait for."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from benchmarks.contenders.fan_out import Instant
from benchmarks.sample import Meter, Sample
from benchmarks.workload import MAX_TOKENS, QUESTION
from langgraph_hpc_fanout import (
    FanOutNode,
    Journal,
    Pool,
    Prompt,
    ReduceNode,
    add_fan_out,
    reducers,
)


class State(TypedDict):
    """What the graph works on."""

    table: dict[str, Any]


_INPUT: State = {"table": {}}


def screen(source: str, count: int, warm_up: str) -> Sample:
    """Ask about all items of a file.

    Args:
        source: The file.
        count: How many items it has.
        warm_up: A small file of the same kind, to begin with.
    """
    with Pool(Instant()) as pool, asyncio.Runner() as runner:
        runner.run(_graph(warm_up, pool).ainvoke(_INPUT))
        graph = _graph(source, pool)
        with Meter(count) as meter:
            table = runner.run(graph.ainvoke(_INPUT))["table"]
    return replace(meter.sample, lost=count - table["ok"])


def begin(source: str, count: int, warm_up: str) -> Sample:
    """Ask until the stream tells of the first outcome, and leave."""
    with Pool(Instant()) as pool, asyncio.Runner() as runner:
        runner.run(_graph(warm_up, pool).ainvoke(_INPUT))
        return runner.run(_first(_graph(source, pool), count))


async def _first(graph: Any, count: int) -> Sample:
    async with aclosing(graph.astream(_INPUT, stream_mode="custom")) as events:
        with Meter(count) as meter:
            async for event in events:
                if event["done"]:
                    break
    return meter.sample


def _graph(source: str, pool: Pool) -> Any:
    directory = Path(tempfile.mkdtemp())
    ask = FanOutNode(
        source,
        Prompt(QUESTION, max_tokens=MAX_TOKENS),
        pool=pool,
        journal=Journal(directory / "journal"),
    )
    write = ReduceNode(ask, into="table", reducer=reducers.table(directory / "answers.parquet"))
    builder = StateGraph(State)
    add_fan_out(builder, ask, write, after=START, before=END)
    return builder.compile()
