"""The two nodes in the graphs that users build: every way to run, every kind of state."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import operator
import threading
from typing import Annotated

import pytest
from graphs import PROMPT, State, build, molecules, right_answers
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel
from typing_extensions import TypedDict

from langgraph_hpc_fanout import (
    FanOutNode,
    Limits,
    OpenAIEndpoint,
    Prompt,
    ReduceNode,
    add_fan_out,
    create_map_reduce,
    reducers,
)

SIZES = [1, 2, 63, 64, 65, 200]


@pytest.fixture
def pool(fake_fleet, pool_over):
    return pool_over(fake_fleet(endpoints=2, latency=0.002).urls)


@pytest.mark.parametrize("size", SIZES)
def test_invoke_gives_every_item_its_own_answer(pool, size):
    items = molecules(size)
    state = build(pool).invoke({"molecules": items})
    assert right_answers(state["predictions"], items)
    assert state["failures"] == []
    assert state["report"]["total"] == state["report"]["ok"] == size
    assert set(state) == {"molecules", "predictions", "failures", "report"}


@pytest.mark.parametrize("size", SIZES)
async def test_ainvoke_gives_every_item_its_own_answer(pool, size):
    items = molecules(size)
    state = await build(pool).ainvoke({"molecules": items})
    assert right_answers(state["predictions"], items)


@pytest.mark.parametrize("size", [1, 5])
async def test_invoke_in_a_running_loop_as_in_a_notebook_cell(pool, size):
    items = molecules(size)
    state = build(pool).invoke({"molecules": items})
    assert right_answers(state["predictions"], items)


def test_stream_shows_progress_and_updates(pool):
    items = molecules(70)
    events = list(
        build(pool).stream({"molecules": items}, stream_mode=["custom", "updates", "values"])
    )
    progress = [data for mode, data in events if mode == "custom"]
    assert {event["type"] for event in progress} == {"hpc_fanout.progress"}
    assert progress[0]["v"] == 1
    assert progress[0]["node"] == "screen"
    assert progress[-1]["done"] == progress[-1]["total"] == 70
    assert len({event["run"] for event in progress}) == 1
    assert right_answers(events[-1][1]["predictions"], items)


async def test_astream_shows_progress(pool):
    items = molecules(3)
    progress = [
        event async for event in build(pool).astream({"molecules": items}, stream_mode="custom")
    ]
    assert progress[-1]["ok"] == 3


@pytest.mark.parametrize("max_concurrency", [1, 4])
async def test_width_does_not_depend_on_branches_at_once(fake_fleet, pool_over, max_concurrency):
    fleet = fake_fleet(latency=1.0)
    graph = build(pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=64))))
    config = {"max_concurrency": max_concurrency}
    await graph.ainvoke({"molecules": molecules(64)}, config)
    assert fleet.record().peak_in_flight == 64
    fleet.reset_record()
    await asyncio.to_thread(graph.invoke, {"molecules": molecules(64)}, config)
    assert fleet.record().peak_in_flight == 64


def test_limits_hold_over_two_graphs_that_share_a_pool(fake_fleet, pool_over):
    fleet = fake_fleet(latency=0.02)
    pool = pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=8)))
    graphs = [build(pool), build(pool)]

    async def both():
        return await asyncio.gather(
            *(graph.ainvoke({"molecules": molecules(100)}) for graph in graphs)
        )

    for state in asyncio.run(both()):
        assert right_answers(state["predictions"], molecules(100))
    assert fleet.record().peak_in_flight == 8


# -- states ---------------------------------------------------------------------------------


@dataclasses.dataclass
class DataState:
    molecules: list
    question: str = "Is it soluble?"
    predictions: list = dataclasses.field(default_factory=list)
    failures: list = dataclasses.field(default_factory=list)
    report: dict = dataclasses.field(default_factory=dict)


class ModelState(BaseModel):
    molecules: list
    question: str = "Is it soluble?"
    predictions: list = []
    failures: list = []
    report: dict = {}


@pytest.mark.parametrize("state_class", [State, DataState, ModelState])
@pytest.mark.parametrize("saver", [None, InMemorySaver])
async def test_states_with_and_without_a_checkpointer(pool, state_class, saver):
    task = Prompt("{question} {smiles}")
    graph = build(
        pool,
        task=task,
        shared="question",
        state=state_class,
        checkpointer=saver and saver(),
    )
    config = {"configurable": {"thread_id": "1"}}
    given = {"molecules": molecules(3), "question": "Is it soluble?"}
    for state in (graph.invoke(given, config), await graph.ainvoke(given, config)):
        assert [answer.split(" ", 2)[2] for answer in state["predictions"]] == [
            "Is it soluble? C0",
            "Is it soluble? C1",
            "Is it soluble? C2",
        ]


def test_messages_state_with_items_from_a_function(pool):
    class Chat(MessagesState):
        predictions: list

    task = Prompt("Translate: {item}")
    node = FanOutNode(lambda state: [m.content for m in state["messages"]], task, pool=pool)
    builder = StateGraph(Chat)
    add_fan_out(builder, node, ReduceNode(node, into="predictions"), after=START, before=END)
    state = builder.compile().invoke({"messages": [HumanMessage("one"), AIMessage("two")]})
    assert [answer.split(" ", 2)[2] for answer in state["predictions"]] == [
        "Translate: one",
        "Translate: two",
    ]


def test_state_holds_plain_data_only(pool, tmp_path, monkeypatch):
    monkeypatch.setenv("LANGGRAPH_STRICT_MSGPACK", "true")
    with SqliteSaver.from_conn_string(str(tmp_path / "state.db")) as saver:
        graph = build(pool, checkpointer=saver)
        config = {"configurable": {"thread_id": "1"}}
        graph.invoke({"molecules": molecules(5)}, config)
        for snapshot in graph.get_state_history(config):
            assert _is_plain(snapshot.values), snapshot.values


def _is_plain(value):
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(each) for key, each in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


# -- graphs ---------------------------------------------------------------------------------


class Two(TypedDict, total=False):
    molecules: list
    first: list
    second: list


def two_fan_outs(pool):
    a = FanOutNode("molecules", Prompt("First {smiles}"), pool=pool, name="a")
    b = FanOutNode("molecules", Prompt("Second {smiles}"), pool=pool, name="b")
    return a, ReduceNode(a, into="first"), b, ReduceNode(b, into="second")


def said(answers):
    return [answer.split(" ", 2)[2] for answer in answers]


def test_two_fan_outs_in_parallel(pool):
    a, into_first, b, into_second = two_fan_outs(pool)
    builder = StateGraph(Two)
    add_fan_out(builder, a, into_first, after=START, before=END)
    add_fan_out(builder, b, into_second, after=START, before=END)
    state = builder.compile().invoke({"molecules": molecules(2)})
    assert said(state["first"]) == ["First C0", "First C1"]
    assert said(state["second"]) == ["Second C0", "Second C1"]


def test_two_fan_outs_in_sequence_and_a_join(pool):
    a, into_first, b, into_second = two_fan_outs(pool)
    builder = StateGraph(Two)
    add_fan_out(builder, a, into_first, after=START, before=[])
    builder.add_node("left", lambda state: {})
    builder.add_node("right", lambda state: {})
    builder.add_edge("a_reduce", "left")
    builder.add_edge("a_reduce", "right")
    add_fan_out(builder, b, into_second, after=["left", "right"], before=END)
    state = builder.compile().invoke({"molecules": molecules(3)})
    assert said(state["first"]) == ["First C0", "First C1", "First C2"]
    assert said(state["second"]) == ["Second C0", "Second C1", "Second C2"]


class Rounds(TypedDict, total=False):
    molecules: list
    predictions: list
    round: int
    seen: Annotated[list, operator.add]


@pytest.mark.parametrize("saver", [None, InMemorySaver])
def test_a_loop_sees_each_rounds_own_answers_and_an_empty_round(pool, saver):
    rounds = [molecules(2), molecules(70), [], molecules(1)]
    screen = FanOutNode("molecules", PROMPT, pool=pool, name="screen")
    builder = StateGraph(Rounds)
    builder.add_node(
        "prepare",
        lambda s: {"molecules": rounds[s.get("round", 0)], "round": s.get("round", 0) + 1},
    )
    builder.add_node("look", lambda s: {"seen": [s["predictions"]]})
    add_fan_out(
        builder, screen, ReduceNode(screen, into="predictions"), after="prepare", before="look"
    )
    builder.add_edge(START, "prepare")
    builder.add_conditional_edges(
        "look", lambda s: END if s["round"] == len(rounds) else "prepare", [END, "prepare"]
    )
    graph = builder.compile(checkpointer=saver and saver())
    state = graph.invoke({}, {"configurable": {"thread_id": "1"}})
    assert [len(answers) for answers in state["seen"]] == [2, 70, 0, 1]
    assert all(map(right_answers, state["seen"], rounds))


@pytest.mark.parametrize("is_async", [False, True])
async def test_map_reduce_as_a_subgraph_streams_from_inside(pool, is_async):
    screen = FanOutNode("molecules", PROMPT, pool=pool, name="screen")
    inner = create_map_reduce(screen, ReduceNode(screen, into="predictions")).compile()
    builder = StateGraph(State)
    builder.add_node("inner", inner)
    builder.add_edge(START, "inner")
    builder.add_edge("inner", END)
    graph = builder.compile()
    given, options = {"molecules": molecules(4)}, {"stream_mode": "custom", "subgraphs": True}
    if is_async:
        events = [event async for event in graph.astream(given, **options)]
        state = await graph.ainvoke(given)
    else:
        events = list(graph.stream(given, **options))
        state = graph.invoke(given)
    assert events[-1][1]["done"] == 4
    assert right_answers(state["predictions"], molecules(4))


def test_create_map_reduce_names_the_keys_of_its_state(pool):
    node = FanOutNode("papers", Prompt("{question} {text}"), pool=pool, shared=["question"])
    reduce = ReduceNode(node, into="answers", report_into="report", failures_into="failures")
    builder = create_map_reduce(node, reduce)
    properties = builder.compile().get_input_jsonschema()["properties"]
    assert set(properties) == {"papers", "question", "answers", "report", "failures"}
    by_function = FanOutNode(lambda state: [], PROMPT, pool=pool)
    with pytest.raises(ValueError, match="state_schema"):
        create_map_reduce(by_function, ReduceNode(by_function, into="answers"))


def test_by_hand_under_another_node_name(pool):
    screen = FanOutNode("molecules", PROMPT, pool=pool)
    gather = ReduceNode(screen, into="predictions")
    builder = StateGraph(State)
    builder.add_node("screen", screen)
    builder.add_node("gather", gather, input_schema=gather.receipts_schema)
    builder.add_conditional_edges(START, screen.router(node="screen"), ["screen"])
    builder.add_edge("screen", "gather")
    builder.add_edge("gather", END)
    state = builder.compile().invoke({"molecules": molecules(2)})
    assert right_answers(state["predictions"], molecules(2))


def test_drawing_shows_what_the_node_does_and_no_secrets(fake_fleet, pool_over):
    endpoint = OpenAIEndpoint(
        "http://me:hunter2@127.0.0.1:9/v1", models=["tiny"], limits=Limits(4, requests="10/s")
    )
    pool = pool_over([endpoint, OpenAIEndpoint("http://127.0.0.1:8/v1", api_key="sk-secret")])
    drawing = build(pool).get_graph().draw_mermaid()
    for shown in (
        "kind = fan-out",
        "Is #123;smiles#125; soluble?",
        "tiny",
        "127.0.0.1:9",
        "4 at once, 10/s requests",
        "reducer = collect",
        "__start__ -.-> screen",
        "screen --> screen_reduce",
    ):
        assert shown in drawing
    assert "hunter2" not in drawing
    assert "me:" not in drawing
    assert "sk-secret" not in drawing


def test_schemas_are_not_null_and_clean(pool):
    graph = build(pool)
    assert set(graph.get_input_jsonschema()["properties"]) == set(State.__annotations__)
    assert set(graph.get_output_jsonschema()["properties"]) == set(State.__annotations__)


@pytest.mark.parametrize("shard_size", [1, 7, 1000])
def test_shard_size(pool, shard_size):
    items = molecules(30)
    state = build(pool, shard_size=shard_size).invoke({"molecules": items})
    assert right_answers(state["predictions"], items)


def test_keys(pool):
    items = [{"id": f"m{number}", **item} for number, item in enumerate(molecules(3))]
    for key in ("id", lambda item: item["id"]):
        graph = build(pool, key=key, reduce={"reducer": reducers.by_key})
        assert set(graph.invoke({"molecules": items})["predictions"]) == {"m0", "m1", "m2"}


async def test_user_code_runs_neither_on_the_hosts_loop_nor_on_the_dispatch_loop(pool):
    threads = set()

    def here(value):
        threads.add(threading.current_thread().name)
        return value

    graph = build(
        pool,
        items=lambda state: here(state["molecules"]),
        key=lambda item: here(item["smiles"]),
        reduce={"reducer": lambda results: here(list(results)) and None},
    )
    await graph.ainvoke({"molecules": molecules(3)})
    assert not threads & {"MainThread", "hpc-fanout-dispatch"}
    threads.clear()
    await asyncio.to_thread(graph.invoke, {"molecules": molecules(3)})
    assert "hpc-fanout-dispatch" not in threads


def test_report(fake_fleet, pool_over):
    fleet = fake_fleet(endpoints=2, latency=0.01)
    report = build(pool_over(fleet.urls)).invoke({"molecules": molecules(100)})["report"]
    record = fleet.record()
    assert report["attempts"] == record.served == 100
    assert sum(report["endpoints"].values()) == 100
    assert report["tokens"]["prompt"] > 0
    assert report["tokens"]["completion"] > 0
    assert report["seconds"] >= 0.01
    assert set(report["latency"]) == {"p50", "p95", "max"}


def test_a_graph_of_its_own_thread_pool_is_quick_to_reuse(pool):
    graph = build(pool)
    for size in (3, 0, 65, 1):
        state = graph.invoke({"molecules": molecules(size)})
        assert right_answers(state["predictions"], molecules(size))


def test_progress_is_at_most_four_events_a_second_over_all_branches(fake_fleet, pool_over, caplog):
    caplog.set_level("INFO", "langgraph_hpc_fanout")
    fleet = fake_fleet(latency=0.1)
    pool = pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=10)))
    events = list(build(pool).stream({"molecules": molecules(150)}, stream_mode="custom"))
    seconds = [event["seconds"] for event in events]
    assert len(events) >= 3
    gaps = [later - earlier for earlier, later in itertools.pairwise(seconds[:-1])]
    assert min(gaps) > 0.2
    assert [event["done"] for event in events] == sorted(event["done"] for event in events)
    assert max(event["in_flight"] for event in events) == 10
    lines = [record.getMessage() for record in caplog.records if "150/150" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith("screen: 150/150 done, 150 ok, 0 failed, 0 in flight")
