"""Graphs with a checkpointer on disk, with a fan-out and with empty nodes in its place."""

from __future__ import annotations

import tempfile
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from benchmarks.contenders.fan_out import Instant
from benchmarks.sample import Meter, Sample
from benchmarks.workload import Item, molecules
from langgraph_hpc_fanout import (
    FanOutNode,
    Journal,
    Pool,
    Prompt,
    ReduceNode,
    add_fan_out,
    reducers,
)

_ANSWER = "Yes. ".ljust(2_000, "x")
_CONFIG: RunnableConfig = {"configurable": {"thread_id": "one"}}


class State(TypedDict, total=False):
    """What the graph works on."""

    molecules: list[Item]
    answers: dict[str, Any]


def from_file(database: str, source: str, count: int) -> Sample:
    """Ask about the items of a file; state holds where the answers are."""
    return _fan_out(database, source, {"answers": {}}, count)


def from_state(database: str, count: int) -> Sample:
    """Ask about items in state, which also holds where the answers are."""
    return _fan_out(database, "molecules", {"molecules": molecules(count)}, count)


def without(database: str, count: int) -> Sample:
    """The same state, and as many steps as a fan-out takes, in which nothing happens."""
    builder = StateGraph(State)
    builder.add_node("fan_out", _nothing)
    builder.add_node("reduce", _nothing)
    builder.add_edge(START, "fan_out")
    builder.add_edge("fan_out", "reduce")
    builder.add_edge("reduce", END)
    return _run(builder, database, {"molecules": molecules(count)}, count)[0]


def _nothing(_: State) -> State:
    return {}


def _fan_out(database: str, items: str, state: State, count: int) -> Sample:
    with Pool(Instant(_ANSWER)) as pool:
        ask = FanOutNode(items, Prompt("{smiles}"), pool=pool, journal=Journal(tempfile.mkdtemp()))
        gather = ReduceNode(ask, into="answers", reducer=reducers.reference)
        builder = StateGraph(State)
        add_fan_out(builder, ask, gather, after=START, before=END)
        sample, answers = _run(builder, database, state, count)
    if answers["ok"] != count:
        raise ValueError(f"{answers['ok']} answers to {count} questions.")
    return sample


def _run(builder: Any, database: str, state: State, count: int) -> tuple[Sample, Any]:
    """Run a graph whose checkpoints go into a database, which is complete on disk afterwards."""
    with SqliteSaver.from_conn_string(database) as saver:
        graph = builder.compile(checkpointer=saver)
        with Meter(count) as meter:
            result = graph.invoke(state, _CONFIG)
    return meter.sample, result.get("answers")
