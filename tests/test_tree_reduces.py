"""Trees in graphs: every summary is asked once, whatever ends the run in between."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from graphs import State, build, molecules
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from langgraph_hpc_fanout import (
    Budget,
    FanOutError,
    FanOutNode,
    Journal,
    Limits,
    OpenAIEndpoint,
    Prompt,
    ReduceNode,
    Results,
    Retry,
    Sweep,
    add_fan_out,
    reducers,
)
from langgraph_hpc_fanout.reducers.trees import level_sizes
from langgraph_hpc_fanout.testing.fleet import FakeEndpoint, Fault

CONFIG = {"configurable": {"thread_id": "1"}}
MERGE = "Merge {members} of level {level}:\n\n{summaries}"
SIZE = 100
LEVELS = [13, 2, 1]


def names(body):
    """The molecules that a request speaks of, in their order."""
    return " ".join(re.findall(r"C\d+", body["messages"][-1]["content"]))


def merged(size, without=()):
    return " ".join(f"C{number}" for number in range(size) if number not in without)


def tree_graph(pool, tree=None, **options):
    tree = tree or reducers.tree(MERGE)
    return build(pool, reduce={"reducer": tree}, retry=Retry(attempts=1), **options)


@pytest.fixture
def summarising(fake_fleet):
    return lambda *faults, **options: fake_fleet(answer=names, faults=faults, **options)


GIVEN = {"molecules": molecules(SIZE)}


# -- what comes out ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2, 8, 9, SIZE])
@pytest.mark.parametrize("fan_in", [2, 8])
@pytest.mark.parametrize("kept", ["state", "journal"])
def test_everything_is_in_the_last_summary(summarising, pool_over, tmp_path, size, fan_in, kept):
    fleet = summarising()
    journal = Journal(tmp_path / "run") if kept == "journal" else None
    graph = tree_graph(pool_over(fleet.urls), reducers.tree(MERGE, fan_in), journal=journal)
    asked = size + sum(level_sizes(size, fan_in))
    for served in (asked, 0 if journal else asked):
        fleet.reset_record()
        state = graph.invoke({"molecules": molecules(size)})
        assert state["predictions"] == (merged(size) if size else None)
        assert state["report"]["total"] == size
        assert fleet.record().served == served


def test_levels_are_runs_and_no_fan_out_is_taken_for_one(summarising, pool_over, tmp_path):
    graph = tree_graph(pool_over(summarising().urls), journal=Journal(tmp_path / "run"))
    report = graph.invoke(GIVEN)["report"]
    whole, *levels = Results.runs(tmp_path / "run")
    assert (whole.name, whole.level_of, whole.ok, whole.expected) == ("screen", None, SIZE, SIZE)
    assert [each.expected for each in levels] == LEVELS
    assert {each.level_of for each in levels} == {"screen"}
    assert None not in {each.started for each in levels}
    assert Results.of(tmp_path / "run").run == whole.run
    assert report == reducers.stats(Results.of(tmp_path / "run")) | {"seconds": report["seconds"]}


async def test_in_async_code_nothing_blocks(summarising, pool_over, tmp_path):
    graph = tree_graph(pool_over(summarising().urls), journal=Journal(tmp_path / "run"))
    assert (await graph.ainvoke(GIVEN))["predictions"] == merged(SIZE)


def test_items_that_failed_are_left_out(summarising, pool_over):
    fleet = summarising(Fault("http_400", contains="Is C5"))
    lost = {5, *range(50, 60)}
    state = tree_graph(pool_over(fleet.urls)).invoke(GIVEN)
    assert state["predictions"] == merged(SIZE, without=lost)
    assert len(state["failures"]) == len(lost)
    assert fleet.record().served == SIZE + sum(LEVELS)


def test_groups_of_nothing_but_failures_are_not_asked(summarising, pool_over):
    fleet = summarising(Fault("http_400", when=lambda body: re.search(r"Is C\d ", str(body))))
    state = tree_graph(pool_over(fleet.urls), reducers.tree(MERGE, fan_in=5)).invoke(GIVEN)
    assert state["predictions"] == merged(SIZE, without=range(10))
    assert fleet.record().served == SIZE + 18 + 4 + 1


def test_no_item_has_an_answer(summarising, pool_over):
    fleet = summarising(Fault("http_400"))
    assert tree_graph(pool_over(fleet.urls)).invoke(GIVEN)["predictions"] is None
    assert fleet.record().served == SIZE


def test_all_samples_of_all_variants_are_summarised(summarising, pool_over):
    fleet = summarising()
    items = Sweep("molecules", params={"temperature": [0, 1]}, samples=2)
    graph = tree_graph(pool_over(fleet.urls), items=items)
    state = graph.invoke({"molecules": molecules(10)})
    assert state["predictions"] == " ".join(f"C{number}" for number in range(10) for _ in range(4))


def test_what_functions_return_is_summarised_by_the_trees_own_pool(summarising, pool_over):
    async def read(item):
        return {"name": item["smiles"]}

    fleet = summarising()
    tree = reducers.tree(MERGE, pool=pool_over(fleet.urls))
    graph = build(None, task=read, reduce={"reducer": tree})
    assert graph.invoke(GIVEN)["predictions"] == merged(SIZE)
    assert fleet.record().served == sum(LEVELS)


def test_progress_tells_the_levels(summarising, pool_over):
    events = tree_graph(pool_over(summarising().urls)).stream(GIVEN, stream_mode="custom")
    totals = {event["node"]: event["total"] for event in events if event["done"] == event["total"]}
    assert totals == {
        "screen": SIZE,
        "screen_reduce_level_1": 13,
        "screen_reduce_level_2": 2,
        "screen_reduce_level_3": 1,
    }


@dataclass
class Settings:
    model: str | None = None
    temperature: float | None = None


def test_a_context_overrides_the_trees_prompt_too(fake_fleet, pool_over):
    def says(body):
        return f"{body['model']} at {body.get('temperature')}"

    fleet = fake_fleet([FakeEndpoint(models=(name,), answer=says) for name in ("large", "small")])
    screen = FanOutNode("molecules", Prompt("{smiles}?"), pool=pool_over(fleet.urls), name="screen")
    gather = ReduceNode(screen, "predictions", reducer=reducers.tree(MERGE))
    builder = StateGraph(State, Settings)
    add_fan_out(builder, screen, gather, after=START, before=END)
    state = builder.compile().invoke(GIVEN, context=Settings("small", 0.3))
    assert state["predictions"] == "small at 0.3"
    assert [each.served for each in fleet.record().endpoints] == [0, SIZE + sum(LEVELS)]


# -- what is not there ------------------------------------------------------------------------


def test_a_group_without_a_summary_is_asked_when_the_graph_goes_on(
    summarising, pool_over, tmp_path
):
    fleet = summarising(Fault("http_400", contains="[0, 6] of level 1", times=1))
    graph = tree_graph(
        pool_over(fleet.urls), journal=Journal(tmp_path / "run"), checkpointer=InMemorySaver()
    )
    says = r"screen_reduce: 1 of 13 groups of level 1 have no summary, so the whole would lack the"
    with pytest.raises(FanOutError, match=says) as caught:
        graph.invoke(GIVEN, CONFIG)
    assert len([outcome for outcome in caught.value.outcomes if outcome.ok]) == 12
    assert caught.value.journal == str(tmp_path / "run")
    fleet.reset_record()
    assert graph.invoke(None, CONFIG)["predictions"] == merged(SIZE)
    assert fleet.record().served == 1 + 2 + 1


@pytest.mark.parametrize("how", ["out of time", "kept as failed"])
def test_no_group_is_left_out_in_silence(summarising, pool_over, tmp_path, how):
    """Not even one that was never asked: its time was over, or its failure is an earlier one."""
    kind = "hang" if how == "out of time" else "http_400"
    fleet = summarising(Fault(kind, contains="[0, 6] of level 1"))
    journal = Journal(tmp_path / "run", retry_failures=False)
    deadline = 1.0 if how == "out of time" else None
    graph = tree_graph(pool_over(fleet.urls), journal=journal, deadline=deadline)
    for _ in range(2):
        with pytest.raises(FanOutError, match="1 of 13 groups of level 1 have no summary"):
            graph.invoke(GIVEN)


@pytest.mark.parametrize("kept", ["state", "journal"])
def test_an_abort_in_a_level(summarising, pool_over, tmp_path, kept):
    fleet = summarising(Fault("http_401", contains="of level 2", times=1))
    journal = Journal(tmp_path / "run") if kept == "journal" else None
    lane = OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=1))
    graph = tree_graph(pool_over(lane), journal=journal, checkpointer=InMemorySaver())
    with pytest.raises(FanOutError, match="answered 401"):
        graph.invoke(GIVEN, CONFIG)
    fleet.reset_record()
    with pytest.raises(FanOutError, match="answered 401"):
        graph.invoke(None, CONFIG)  # the other group of the level
    assert graph.invoke(None, CONFIG)["predictions"] == merged(SIZE)
    first_level = 0 if journal else 2 * 13
    assert fleet.record().served == first_level + (4 if journal else 5)


# -- what it may use --------------------------------------------------------------------------


@pytest.mark.parametrize("requests", [11, 10])
def test_a_budget_is_one_for_all_levels(summarising, pool_over, requests):
    """The fan-out needs nine, and the tree eleven: 5, 3, 2 and 1."""
    fleet = summarising()
    budget = Budget(requests=requests)
    graph = tree_graph(pool_over(fleet.urls), reducers.tree(MERGE, fan_in=2), budget=budget)
    if requests == 11:
        assert graph.invoke({"molecules": molecules(9)})["predictions"] == merged(9)
    else:
        says = "level 4 have (.*)The tree's budget of 10 requests is spent: 10 used, and one more"
        with pytest.raises(FanOutError, match=says):
            graph.invoke({"molecules": molecules(9)})
    assert fleet.record().served == 9 + requests


# -- the end in mid-level ---------------------------------------------------------------------

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from test_tree_reduces import GIVEN, Journal, tree_graph
from langgraph_hpc_fanout import Pool
try:
    tree_graph(Pool(sys.argv[2]), journal=Journal(sys.argv[3])).invoke(GIVEN)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT], ids=lambda end: end.name)
def test_a_program_that_is_ended_in_a_level_goes_on_there(summarising, pool_over, tmp_path, end):
    fleet = summarising(Fault("slow", contains="[7, 12] of level 2", times=1, seconds=100))
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), fleet.urls[0]]
    with subprocess.Popen(
        [*command, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    ) as program:
        fleet.wait(lambda record: record.served >= SIZE + 13 + 1, timeout=60)
        program.send_signal(end)
        out, _ = program.communicate(timeout=30)
    assert out == ("interrupted\n" if end == signal.SIGINT else "")
    fleet.reset_record()
    graph = tree_graph(pool_over(fleet.urls), journal=Journal(tmp_path / "run"))
    assert graph.invoke(GIVEN)["predictions"] == merged(SIZE)
    assert fleet.record().served <= 3


async def test_cancelling_in_a_level(summarising, pool_over):
    fleet = summarising(Fault("slow", contains="of level 2", seconds=100))
    task = asyncio.create_task(tree_graph(pool_over(fleet.urls)).ainvoke(GIVEN))
    await fleet.until(lambda record: record.served == SIZE + 13 and record.in_flight == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    record = await fleet.until(lambda record: record.in_flight == 0)
    assert record.closed_early == 2


# -- what is refused --------------------------------------------------------------------------


def test_what_is_no_tree():
    with pytest.raises(ValueError, match="fan_in=1: a group has at least two summaries"):
        reducers.tree(MERGE, fan_in=1)
    with pytest.raises(ValueError, match="tree's prompt wants 'question'; it has summaries, level"):
        reducers.tree("{question}: {summaries}")
    with pytest.raises(ValueError, match="tree asks once for each group; leave samples= out"):
        reducers.tree(Prompt(MERGE, samples=3))
    with pytest.raises(TypeError, match="works as the reducer of a ReduceNode only"):
        reducers.tree(MERGE)([])


def test_a_tree_that_has_nobody_to_ask():
    with pytest.raises(ValueError, match=r"tree has nobody to ask: give it a pool="):
        build(None, task=len, reduce={"reducer": reducers.tree(MERGE)})
