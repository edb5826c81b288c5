"""Trees of summaries: asked level by level, kept level by level."""

from __future__ import annotations

import asyncio
import contextlib
import re

import pytest
from graphs import build, molecules
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_hpc_fanout import (
    FanOutError,
    FanOutNode,
    FunctionEndpoint,
    Journal,
    Limits,
    OpenAIEndpoint,
    Pool,
    Prompt,
    ReduceNode,
    reducers,
)
from langgraph_hpc_fanout.testing.fleet import Fault

CONFIG = {"configurable": {"thread_id": "1"}}
MERGE = "Merge level {level}:\n{summaries}"


def said(body):
    """What a molecule is called, or all that are named in a group."""
    text = body["messages"][-1]["content"]
    return " ".join(re.findall(r"C\d+", text))


def tree(pool, *, fan_in=4, **fan_out):
    reduce = {"reducer": reducers.tree(MERGE, fan_in)}
    return build(pool, reduce=reduce, **fan_out)


def names(count):
    return " ".join(f"C{number}" for number in range(count))


@pytest.mark.parametrize("kept", ["state", "journal"])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(("size", "asked"), [(0, 0), (1, 1), (4, 5), (5, 8), (16, 21), (30, 41)])
def test_the_last_summary_is_of_all(fake_fleet, pool_over, tmp_path, kept, is_async, size, asked):
    fleet = fake_fleet(answer=said)
    journal = Journal(tmp_path / "run") if kept == "journal" else None
    graph = tree(pool_over(fleet.urls), journal=journal)
    given = {"molecules": molecules(size)}
    state = asyncio.run(graph.ainvoke(given)) if is_async else graph.invoke(given)
    assert state["predictions"] == (names(size) if size else None)
    assert fleet.record().arrived == asked
    if kept == "journal":
        assert graph.invoke(given)["predictions"] == state["predictions"]
        assert fleet.record().arrived == asked, "every level was kept"


def test_items_that_failed_are_left_out(fake_fleet, pool_over):
    faults = (Fault("http_400", contains="Is C1 "), Fault("http_400", contains="Is C2 "))
    graph = tree(pool_over(fake_fleet(answer=said, faults=faults).urls), fan_in=2)
    state = graph.invoke({"molecules": molecules(5)})
    assert state["predictions"] == "C0 C3 C4"
    assert state["report"]["failed"] == 2


def test_a_group_of_failures_is_left_out(fake_fleet, pool_over):
    faults = tuple(Fault("http_400", contains=f"Is C{n} ") for n in (0, 1))
    graph = tree(pool_over(fake_fleet(answer=said, faults=faults).urls), fan_in=2)
    assert graph.invoke({"molecules": molecules(4)})["predictions"] == "C2 C3"


def test_a_level_that_breaks_is_asked_again_alone(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet(
        answer=said, faults=(Fault("http_400", contains="level 2:\n1. C0 ", times=1),)
    )
    graph = tree(
        pool_over(fleet.urls), journal=Journal(tmp_path / "run"), checkpointer=InMemorySaver()
    )
    with pytest.raises(FanOutError, match=r"1 of 2 groups of level 2 have no summary") as caught:
        graph.invoke({"molecules": molecules(30)}, CONFIG)
    assert caught.value.journal == str(tmp_path / "run")
    fleet.reset_record()
    state = graph.invoke(None, CONFIG)
    assert state["predictions"] == names(30)
    assert fleet.record().arrived == 2, "the group that failed, and the last one"


def test_samples_are_summarised_as_well(fake_fleet, pool_over):
    fleet = fake_fleet(answer=said)
    graph = tree(pool_over(fleet.urls), task=Prompt("Is {smiles} soluble?", samples=2))
    assert graph.invoke({"molecules": molecules(2)})["predictions"] == "C0 C0 C1 C1"


def test_levels_are_seen(fake_fleet, pool_over):
    graph = tree(pool_over(fake_fleet(answer=said).urls))
    events = list(graph.stream({"molecules": molecules(30)}, stream_mode="custom"))
    ended = {event["node"]: event["done"] for event in events}
    assert ended == {
        "screen": 30,
        "screen_reduce_level_1": 8,
        "screen_reduce_level_2": 2,
        "screen_reduce_level_3": 1,
    }


async def test_a_cancelled_tree_stops(fake_fleet, pool_over):
    fleet = fake_fleet(answer=said, faults=(Fault("hang", contains="level 1"),))
    graph = tree(pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=2))))
    running = asyncio.create_task(graph.ainvoke({"molecules": molecules(30)}))
    await asyncio.to_thread(fleet.wait, lambda record: record.arrived == 32)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await asyncio.to_thread(fleet.wait, lambda record: record.in_flight == 0)
    assert fleet.record().arrived == 32


def test_a_tree_may_ask_elsewhere(pool_over):
    elsewhere = pool_over(FunctionEndpoint(lambda messages: "merged"))
    pair = FanOutNode("molecules", lambda item: item["smiles"])
    with pytest.raises(ValueError, match="nobody to ask: give it a pool="):
        ReduceNode(pair, into="predictions", reducer=reducers.tree(MERGE))
    graph = build(
        None,
        task=lambda item: item["smiles"],
        reduce={"reducer": reducers.tree(MERGE, pool=elsewhere)},
    )
    assert graph.invoke({"molecules": molecules(3)})["predictions"] == "merged"


def test_what_is_no_tree(pool_over):
    with pytest.raises(ValueError, match="at least two summaries"):
        reducers.tree(MERGE, 1)
    with pytest.raises(ValueError, match=r"wants 'texts'; it has summaries, level, members"):
        reducers.tree("Merge {texts}")
    with pytest.raises(TypeError, match="as the reducer of a ReduceNode only"):
        reducers.tree(MERGE)([])
    assert isinstance(reducers.tree(MERGE, pool=Pool("http://127.0.0.1:1/v1")), reducers.Tree)
