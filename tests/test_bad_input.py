"""Bad input: one clear sentence that says what happened, where, and what to do; nothing lost."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from graphs import PROMPT, State, build, molecules, right_answers
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel

from langgraph_hpc_fanout import (
    FanOutError,
    FanOutNode,
    Journal,
    Limits,
    OpenAIEndpoint,
    Pool,
    Prompt,
    ReduceNode,
    Retry,
    add_fan_out,
    reducers,
)
from langgraph_hpc_fanout.testing.fleet import FakeEndpoint, Fault


@pytest.fixture
def fleet(fake_fleet):
    return fake_fleet(latency=0.001)


@pytest.fixture
def pool(fleet, pool_over):
    return pool_over(fleet.urls)


# -- state ----------------------------------------------------------------------------------


def test_missing_state_key(pool, fleet):
    with pytest.raises(FanOutError, match=r"screen: the state has no 'molecules'; it has question"):
        build(pool).invoke({"question": "?"})
    assert fleet.record().arrived == 0


def test_missing_shared_key(pool):
    with pytest.raises(FanOutError, match=r"the state has no 'question'; it has molecules"):
        build(pool, shared="question").invoke({"molecules": molecules(1)})


@pytest.mark.parametrize("wrong", ["CCO", b"CCO", {"smiles": "CCO"}, 7, None])
def test_items_that_are_no_list(pool, wrong):
    kind = type(wrong).__name__
    with pytest.raises(FanOutError, match=rf"state\['molecules'\] is a {kind}; a list of items"):
        build(pool).invoke({"molecules": wrong})


def test_a_function_that_returns_no_list(pool):
    with pytest.raises(FanOutError, match=r"items\(state\) is a int; a list of items is needed"):
        build(pool, items=lambda state: 7).invoke({"molecules": []})


@pytest.mark.parametrize("items", [tuple(molecules(3)), iter(molecules(3))], ids=type)
def test_other_iterables_are_lists_too(pool, items):
    graph = build(pool, items=lambda state: items)
    state = graph.invoke({"question": ""})
    assert right_answers(state["predictions"], molecules(3))


def test_no_items_need_no_server(pool_over):
    graph = build(pool_over("http://127.0.0.1:9/v1"))
    state = graph.invoke({"molecules": []})
    assert state["predictions"] == []
    assert state["report"]["total"] == 0


# -- items ----------------------------------------------------------------------------------


def test_a_field_that_nobody_has_is_an_error_before_anything_is_sent(pool, fleet):
    graph = build(pool, task=Prompt("{question}: {smiles} {colour}"), shared="question")
    message = r"the prompt wants 'colour', which neither the items \(smiles\) nor shared="
    with pytest.raises(FanOutError, match=message):
        graph.invoke({"molecules": molecules(100), "question": "?"})
    assert fleet.record().arrived == 0


def test_braces_that_are_meant_literally(pool):
    graph = build(pool, task=Prompt('Answer as {"a": 1}: {smiles}'))
    with pytest.raises(FanOutError, match=r"Write braces that are meant literally twice"):
        graph.invoke({"molecules": molecules(1)})


def test_a_key_that_no_item_has(pool, fleet):
    with pytest.raises(FanOutError, match=r"key='id' names no field of the items \(smiles\); noth"):
        build(pool, key="id").invoke({"molecules": molecules(3)})
    assert fleet.record().arrived == 0


def test_a_reduce_node_that_writes_what_is_no_state_key(pool):
    with pytest.raises(ValueError, match=r"screen_reduce writes 'rport', which is no key of the"):
        build(pool, reduce={"report_into": "rport"})


def test_items_that_lack_a_field_fail_and_the_rest_go_on(pool):
    items = molecules(5)
    items[2] = {"name": "no smiles"}
    items[4] = 7
    state = build(pool).invoke({"molecules": items})
    assert [answer is None for answer in state["predictions"]] == [0, 0, 1, 0, 1]
    first, second = state["failures"]
    assert first["index"] == 2
    assert first["error"]["kind"] == "permanent"
    assert first["error"]["message"] == (
        "Item 2 cannot be asked: it has no field 'smiles', which the prompt wants."
    )
    assert first["attempts"] == 0
    assert first["key"]
    assert second["index"] == 4


@dataclasses.dataclass
class Molecule:
    smiles: str


class MoleculeModel(BaseModel):
    smiles: str


def test_items_of_every_kind(pool):
    items = [{"smiles": "C0"}, Molecule("C1"), MoleculeModel(smiles="C2")]
    state = build(pool).invoke({"molecules": items})
    assert right_answers(state["predictions"], molecules(3))
    scalars = build(pool, task=Prompt("{item}")).invoke({"molecules": ["a", 7, 1.5]})
    assert [answer.split(" ", 2)[2] for answer in scalars["predictions"]] == ["a", "7", "1.5"]


def test_items_without_fields_at_all_fail(pool):
    state = build(pool).invoke({"molecules": [{"smiles": "C0"}, ["a", "list"], object()]})
    messages = [failure["error"]["message"] for failure in state["failures"]]
    assert messages[0].startswith("Item 1 cannot be asked: it is a list; a prompt takes mappings")
    assert messages[1].startswith("Item 2 cannot be asked: it is a object; a prompt takes mappings")


def test_a_key_that_an_item_lacks(pool):
    items = [{"id": "a", "smiles": "C0"}, {"smiles": "C1"}]
    state = build(pool, key="id").invoke({"molecules": items})
    assert state["failures"][0]["error"]["message"] == (
        "Item 1 cannot be asked: it has no field 'id' to be its key."
    )
    state = build(pool, key=lambda item: 7).invoke({"molecules": items})
    assert "key= gave 7, not a text" in state["failures"][0]["error"]["message"]
    state = build(pool, key=lambda item: 1 / 0).invoke({"molecules": items})
    assert "ZeroDivisionError" in state["failures"][0]["error"]["message"]


def test_duplicate_items_each_have_an_outcome(pool):
    items = molecules(1) * 10
    state = build(pool).invoke({"molecules": items})
    assert right_answers(state["predictions"], items)
    assert state["report"]["total"] == 10


def test_a_prompt_of_100_kb(pool):
    items = [{"smiles": "C" * 100_000}]
    state = build(pool).invoke({"molecules": items})
    assert state["predictions"][0] is not None


# -- making nodes ---------------------------------------------------------------------------


def test_an_empty_pool():
    with pytest.raises(ValueError, match="The pool is empty"):
        Pool([])


def test_an_endpoint_named_twice():
    with pytest.raises(ValueError, match=r"several endpoints named 127\.0\.0\.1:9"):
        Pool(["http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1/"])


def test_a_pool_of_something_else():
    with pytest.raises(TypeError, match="takes URLs and endpoints, not int"):
        Pool([7])


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000/v1", "ftp://host/v1", "http:///v1"])
def test_a_url_that_is_none(url):
    with pytest.raises(ValueError, match="is no URL of a chat server"):
        OpenAIEndpoint(url)


def test_what_a_fan_out_takes(pool):
    cases = [
        (ValueError, {"task": "Is {smiles}?"}, "A question to a model is a Prompt"),
        (TypeError, {"task": 3}, "a Runnable or a function of the item, not int"),
        (TypeError, {"task": "lab:dock", "pool": None}, "a function on the HPC side needs to know"),
        (ValueError, {"task": "lab:dock", "task_concurrency": 2}, "is set by window= of the"),
        (ValueError, {"task": "lab:dock", "trace": 2}, "is for a Prompt"),
        (TypeError, {"pool": "http://127.0.0.1:9"}, r"pool=\.\.\.\) takes a Pool, not str"),
        (TypeError, {"journal": "runs"}, r'takes a journal, such as Journal\("runs"\), not str'),
        (TypeError, {"journal": Path("a/b")}, r'such as Journal\("a/b"\), not PosixPath'),
        (TypeError, {"journal": 3}, r'such as Journal\("runs/screen"\), not int'),
        (ValueError, {"shard_size": 0}, "must be 'auto' or at least 1"),
        (ValueError, {"shard_size": "small"}, "must be 'auto' or at least 1"),
        (ValueError, {"deadline": 0}, "must be a positive number of seconds"),
        (ValueError, {"item_deadline": -1}, "must be a positive number of seconds"),
    ]
    for error, wrong, message in cases:
        with pytest.raises(error, match=message):
            FanOutNode("molecules", **{"task": PROMPT, "pool": pool, **wrong})


def test_what_a_reduce_node_takes(pool):
    node = FanOutNode("molecules", PROMPT, pool=pool)
    with pytest.raises(TypeError, match="takes a FanOutNode, not Prompt"):
        ReduceNode(PROMPT, into="predictions")
    with pytest.raises(TypeError, match="is not callable"):
        ReduceNode(node, into="predictions", reducer="collect")
    with pytest.raises(ValueError, match="is no share from 0 to 1"):
        ReduceNode(node, into="predictions", min_success=2)
    with pytest.raises(ValueError, match="give FanOutNode a journal="):
        ReduceNode(node, into="predictions", reducer=reducers.reference)


def test_wiring_mistakes(pool):
    node = FanOutNode("molecules", PROMPT, pool=pool)
    other = FanOutNode("molecules", PROMPT, pool=pool, name="other")
    reduce = ReduceNode(node, into="predictions")
    with pytest.raises(ValueError, match="fan_out_reduce reduces fan_out, not other"):
        add_fan_out(StateGraph(State), other, reduce, after=START, before=END)
    with pytest.raises(ValueError, match="names no node"):
        add_fan_out(StateGraph(State), node, reduce, after=[], before=END)


def test_a_node_under_another_name_than_the_routers_does_not_compile(pool):
    node = FanOutNode("molecules", PROMPT, pool=pool)
    for path_map in ([["fan_out"]], []):
        builder = StateGraph(State)
        builder.add_node("screen", node)
        builder.add_conditional_edges(START, node.router(), *path_map)
        builder.add_edge("screen", END)
        with pytest.raises(ValueError, match="fan_out"):
            builder.compile()


def test_a_fan_out_reached_by_a_plain_edge(pool):
    node = FanOutNode("molecules", PROMPT, pool=pool, name="screen")
    builder = StateGraph(State)
    builder.add_node("screen", node)
    builder.add_edge(START, "screen")
    with pytest.raises(FanOutError, match="screen was reached by a plain edge; lead to it with"):
        builder.compile().invoke({"molecules": []})


def test_a_reduce_node_without_its_fan_out(pool):
    reduce = ReduceNode(FanOutNode("molecules", PROMPT, pool=pool), into="predictions")
    builder = StateGraph(State)
    builder.add_node("gather", reduce, input_schema=reduce.receipts_schema)
    builder.add_edge(START, "gather")
    with pytest.raises(FanOutError, match="fan_out_reduce found nothing to reduce"):
        builder.compile().invoke({"molecules": []})


def test_two_fan_outs_of_one_name_in_a_graph(pool):
    first = FanOutNode("molecules", PROMPT, pool=pool)
    second = FanOutNode("molecules", PROMPT, pool=pool)
    into = ReduceNode(first, into="predictions")
    builder = StateGraph(State)
    builder.add_node("a", first)
    builder.add_node("b", second)
    builder.add_node("gather", into, input_schema=into.receipts_schema)
    builder.add_conditional_edges(START, first.router("a"), ["a"])
    builder.add_conditional_edges("a", second.router("b"), ["b"])
    builder.add_edge("b", "gather")
    with pytest.raises(FanOutError, match="two fan-outs in this graph are named 'fan_out'"):
        builder.compile().invoke({"molecules": molecules(2)})


def test_branches_that_an_error_handler_swallowed(fake_fleet, pool_over):
    fleet = fake_fleet(faults=(Fault("http_401", contains="C1 "),))
    node = FanOutNode("molecules", PROMPT, pool=pool_over(fleet.urls), name="screen")
    reduce = ReduceNode(node, into="predictions")
    builder = StateGraph(State)
    builder.add_node("screen", node, error_handler=lambda state: {})
    builder.add_node("gather", reduce, input_schema=reduce.receipts_schema)
    builder.add_conditional_edges(START, node.router(), ["screen"])
    builder.add_edge("screen", "gather")
    with pytest.raises(
        FanOutError, match=r"(found nothing to reduce|the others ended without a receipt)"
    ):
        builder.compile().invoke({"molecules": molecules(3)})


# -- endpoints ------------------------------------------------------------------------------


def test_no_server_at_the_url(pool_over):
    with pytest.raises(FanOutError) as caught:
        build(pool_over("http://127.0.0.1:9/v1")).invoke({"molecules": molecules(3)})
    assert "No endpoint can be used" in str(caught.value)
    assert "127.0.0.1:9: nobody answers at http://127.0.0.1:9/v1 (Connection refused)" in str(
        caught.value
    )


def test_a_pool_can_be_used_again_when_its_server_has_come_up(fake_fleet, pool_over):
    fleet = fake_fleet()
    fleet.kill(0)
    graph = build(pool_over(fleet.urls))
    with pytest.raises(FanOutError, match="nobody answers at"):
        graph.invoke({"molecules": molecules(1)})
    fleet.revive(0)
    assert right_answers(graph.invoke({"molecules": molecules(1)})["predictions"], molecules(1))


@pytest.mark.parametrize("size", [1, 100])
def test_401_aborts_at_once(fake_fleet, pool_over, monkeypatch, size):
    monkeypatch.setenv("LAB_TOKEN", "wrong-token")
    fleet = fake_fleet([FakeEndpoint(api_key="right"), FakeEndpoint()])
    bad, good = fleet.urls
    pool = pool_over([OpenAIEndpoint(bad, api_key="LAB_TOKEN"), good])
    with pytest.raises(FanOutError) as caught:
        build(pool).invoke({"molecules": molecules(size)})
    message = str(caught.value)
    assert "answered 401" in message
    assert pool.endpoints[0].name in message
    assert "LAB_TOKEN" in message
    assert "wrong-token" not in message
    assert fleet.record().endpoints[0].arrived == 0


def test_an_environment_variable_that_is_not_set(fake_fleet, pool_over, monkeypatch):
    monkeypatch.delenv("LAB_TOKEN", raising=False)
    pool = pool_over(OpenAIEndpoint(fake_fleet().urls[0], api_key="LAB_TOKEN"))
    with pytest.raises(FanOutError, match="variable LAB_TOKEN, named by api_key=, is not set"):
        build(pool).invoke({"molecules": molecules(1)})


def test_a_model_that_nobody_serves(fake_fleet, pool_over):
    fleet = fake_fleet([FakeEndpoint(models=("a",)), FakeEndpoint(models=("b", "c"))])
    pool = pool_over(fleet.urls)
    first, second = (endpoint.name for endpoint in pool.endpoints)
    with pytest.raises(FanOutError) as caught:
        build(pool, task=Prompt("{smiles}", model="z")).invoke({"molecules": molecules(2)})
    assert "No endpoint serves model 'z'" in str(caught.value)
    assert f"{first} does not serve it, it serves a" in str(caught.value)
    assert f"{second} does not serve it, it serves b, c" in str(caught.value)
    assert fleet.record().arrived == 0


def test_several_models_and_none_named(fake_fleet, pool_over):
    fleet = fake_fleet([FakeEndpoint(models=("a",)), FakeEndpoint(models=("b",))])
    with pytest.raises(FanOutError, match=r"several models \(.*: a; .*: b\); say which"):
        build(pool_over(fleet.urls)).invoke({"molecules": molecules(2)})
    assert fleet.record().arrived == 0


def test_a_lane_that_does_not_serve_the_model_is_left_out(fake_fleet, pool_over):
    fleet = fake_fleet([FakeEndpoint(models=("a",)), FakeEndpoint(models=("b",))])
    graph = build(pool_over(fleet.urls), task=Prompt("Is {smiles} soluble?", model="b"))
    state = graph.invoke({"molecules": molecules(20)})
    assert right_answers(state["predictions"], molecules(20))
    assert fleet.record().endpoints[0].arrived == 0


def test_a_given_model_that_the_server_stopped_serving(fake_fleet, pool_over):
    fleet = fake_fleet([FakeEndpoint(models=("a",)), FakeEndpoint(models=("b",))])
    endpoints = [OpenAIEndpoint(url, models={"m": "b"}) for url in fleet.urls]
    state = build(pool_over(endpoints)).invoke({"molecules": molecules(20)})
    assert right_answers(state["predictions"], molecules(20))
    alone = pool_over(OpenAIEndpoint(fleet.urls[0], models=["b"]))
    with pytest.raises(FanOutError, match="does not serve b; it serves a"):
        build(alone).invoke({"molecules": molecules(1)})


def test_a_url_without_v1(fake_fleet, pool_over):
    url = fake_fleet().urls[0].removesuffix("/v1")
    with pytest.raises(
        FanOutError, match=r"lists no models at .*/models \(404\); is the URL right"
    ):
        build(pool_over(url)).invoke({"molecules": molecules(1)})


# -- reducing -------------------------------------------------------------------------------


def test_a_reducer_that_raises_loses_nothing(pool):
    def broken(outcomes):
        raise ZeroDivisionError("oops")

    with pytest.raises(FanOutError, match="broken raised ZeroDivisionError: oops") as caught:
        build(pool, reduce={"reducer": broken}).invoke({"molecules": molecules(3)})
    assert right_answers([outcome.value for outcome in caught.value.outcomes], molecules(3))


def test_min_success_unmet_says_why_and_keeps_the_outcomes(pool):
    items = [*molecules(3), {"none": 1}, {"none": 2}]
    graph = build(pool, reduce={"min_success": 0.8})
    with pytest.raises(FanOutError, match=r"3 of 5 items have an answer.*'permanent': 2") as caught:
        graph.invoke({"molecules": items})
    assert [outcome.ok for outcome in caught.value.outcomes] == [True] * 3 + [False] * 2
    met = build(pool, reduce={"min_success": 0.6}).invoke({"molecules": items})
    assert met["predictions"][3:] == [None, None]
    assert build(pool, reduce={"min_success": 1.0}).invoke({"molecules": []})["predictions"] == []


def test_the_reference_reducer_and_results(pool, tmp_path):
    from langgraph_hpc_fanout import Results

    journal = Journal(tmp_path / "run")
    graph = build(pool, journal=journal, reduce={"reducer": reducers.reference})
    reference = graph.invoke({"molecules": molecules(100)})["predictions"]
    assert reference["total"] == reference["ok"] == 100
    results = Results.open(reference)
    assert right_answers([outcome.value for outcome in results], molecules(100))
    assert [outcome.index for outcome in results] == list(range(100))


def test_limits_and_retry_refuse_nonsense():
    for wrong in ({"concurrency": 0}, {"requests": "10"}, {"tokens": "0/s"}, {"burst": 3}):
        with pytest.raises(ValueError, match="Limits"):
            Limits(**wrong)
    for wrong in ({"attempts": 0}, {"timeout": 0}, {"patience": -1}):
        with pytest.raises(ValueError, match="Retry"):
            Retry(**wrong)
