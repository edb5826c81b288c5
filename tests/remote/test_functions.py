"""Users' functions on the node: called for every item, and whatever they do harms no other."""

from __future__ import annotations

import json
import time

import node_functions
import pytest
from bundles import bundle, failures

from langgraph_hpc_fanout.remote import run
from langgraph_hpc_fanout.remote.standalone import standalone
from langgraph_hpc_fanout.testing.fleet import Fault, echo


def call(name, items, servers=(), **settings):
    path = name if ":" in name else f"node_functions:{name}"
    given = {**bundle(list(servers), **settings), "function": path, "requests": items}
    return json.loads(json.dumps(run(given)))


def values(result):
    assert "error" not in result, result
    return [
        f"({each['failure']['kind']})" if "failure" in each else each["body"]["value"]
        for each in result["replies"]
    ]


def test_a_function_is_called_for_every_item():
    result = call("double", [1, 2, 3])
    assert [value["twice"] for value in values(result)] == [2, 4, 6]
    assert all(reply["tries"] == 1 for reply in result["replies"])


def test_so_is_a_coroutine_function():
    assert values(call("double_async", [1, 2, 3])) == [[2], [4], [6]]
    assert values(call("caller", ["a"])) == ["a"]


@pytest.mark.parametrize("name", ["slow", "slow_async"])
def test_many_at_once(name):
    began = time.monotonic()
    assert values(call(name, list(range(100)), window=100)) == list(range(100))
    assert time.monotonic() - began < 20, "one after the other takes 30 s"


def test_they_never_run_on_the_dispatch_loop():
    (sync,) = values(call("thread_of", [1]))
    assert sync == ["hpc-fanout-function", False]
    assert values(call("thread_of_async", [1])) == ["hpc-fanout-tasks"]


# -- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["misbehave", "misbehave_async"])
def test_what_a_function_raises_is_its_items_failure(name):
    items = ["good", "value", "exit", "interrupt", "cancelled", "object", "nan", "fine"]
    result = call(name, items)
    assert values(result) == [
        "good",
        *["(permanent)"] * 4,
        "(invalid_output)",
        "(invalid_output)",
        "fine",
    ]
    value, left, *_ = failures(result)
    assert "node_functions:misbehave" in value["message"]
    assert "raised ValueError: a bad value" in value["message"]
    assert "node_functions.py, line " in value["message"]
    assert "SystemExit: 3" in left["message"]
    assert not any(failure["retryable"] for failure in failures(result))


@pytest.mark.parametrize("name", ["misbehave", "misbehave_async"])
def test_a_call_has_its_time(name):
    result = call(name, ["hang", "good"], timeout=0.2, attempts=2)
    assert values(result) == ["(timeout)", "good"]
    assert "did not return within 0.2 s" in failures(result)[0]["message"]
    assert [reply["tries"] for reply in result["replies"]] == [2, 1]


def test_what_may_pass_is_tried_again():
    node_functions.seen.clear()
    result = call("flaky", ["a", "b"], attempts=3)
    assert values(result) == ["a", "b"]
    assert [reply["tries"] for reply in result["replies"]] == [3, 3]
    node_functions.seen.clear()
    (failure,) = failures(call("flaky", ["a"], attempts=2))
    assert (failure["kind"], failure["retryable"]) == ("transient", True)
    (failure,) = failures(call("misbehave", ["timeout"], attempts=1))
    assert (failure["kind"], failure["retryable"]) == ("transient", True)


@pytest.mark.parametrize("name", ["misbehave", "misbehave_async"])
def test_what_is_unanswered_at_the_deadline_fails(name):
    result = call(name, ["good", "hang", "late"], window=1, deadline=0.5)
    assert values(result) == ["good", "(timeout)", "(timeout)"]
    assert [reply["tries"] for reply in result["replies"]] == [1, 1, 0]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("node_functions:", "names no function"),
        (":double", "names no function"),
        ("no_such_package.module:f", "PYTHONPATH"),
        ("no_such_package.module:f", "No module named 'no_such_package'"),
        ("node_functions:gone", "has no 'gone'"),
        ("node_functions:NOT_CALLABLE", "is no function but int"),
        ("node_functions:wants_more", "wants pool"),
        ("node_functions:wants_nothing", "takes no item"),
    ],
)
def test_a_function_that_cannot_be_had(path, says):
    error = call(path, [1])["error"]
    assert error["kind"] == "permanent"
    assert path in error["message"]
    assert says in error["message"]


def test_a_module_that_raises_when_imported(tmp_path, monkeypatch):
    (tmp_path / "broken_on_import.py").write_text("raise SystemExit('no GPU')")
    monkeypatch.syspath_prepend(tmp_path)
    assert "SystemExit: no GPU" in call("broken_on_import:f", [1])["error"]["message"]


def test_builtins_and_methods_are_functions_too():
    assert values(call("math:sqrt", [4])) == [2.0]
    assert values(call("node_functions:Caller.shout", ["a"])) == ["A"]
    assert values(call("point", [4])) == [{"x": 4}]


def test_it_needs_the_package():
    error = standalone({**bundle([]), "function": "math:sqrt", "requests": [1]})["error"]
    assert error["kind"] == "permanent"
    assert "ship='package'" in error["message"]


# -- clients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ask", "ask_async"])
def test_a_function_gets_a_warm_client_of_the_nodes_servers(name, fake_fleet, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    fleet = fake_fleet(2, latency=0.01, api_key="sk-node")
    monkeypatch.setenv("NODE_KEY", "sk-node")
    items = [f"q{number}" for number in range(20)]
    clients = set()
    for _ in range(2):
        answers = values(call(name, items, fleet.urls, api_key_env="NODE_KEY"))
        assert [text for text, _ in answers] == [echo(item) for item in items]
        clients.update(client for _, client in answers)
    assert len(clients) == 2, "one for each server, made once"
    assert [each.served for each in fleet.record().endpoints] == [20, 20]


def test_a_client_that_may_be_missing(fake_fleet):
    assert values(call("ask_async", ["a"])) == [["a", None]]
    assert call("ask", ["a"], patience=0)["error"]["kind"] == "cold"
    ((text, _),) = values(call("ask_async", ["a"], fake_fleet().urls))
    assert text == echo("a")


@pytest.mark.parametrize("name", ["ask", "ask_async"])
def test_what_a_client_raises_has_its_kind(name, fake_fleet):
    fleet = fake_fleet(
        faults=(
            Fault("http_400", contains="long"),
            Fault("http_429", contains="busy"),
            Fault("http_500", contains="once", times=1),
        )
    )
    result = call(name, ["long", "busy", "once"], fleet.urls, attempts=2)
    said = values(result)
    assert said[:2] == ["(permanent)", "(rate_limited)"]
    assert said[2][0] == echo("once")
    assert [reply["tries"] for reply in result["replies"]] == [1, 2, 2]


def test_a_server_that_dies_is_waited_for_by_the_next_bundle(fake_fleet):
    fleet = fake_fleet()
    assert len(values(call("ask", ["a"], fleet.urls))) == 1
    fleet.kill(0)
    assert values(call("ask", ["a"], fleet.urls, attempts=1)) == ["(transient)"]
    assert values(call("ask", ["a"], fleet.urls, patience=0.1)) == ["(cold)"]
    fleet.revive(0)
    ((text, _),) = values(call("ask", ["a"], fleet.urls))
    assert text == echo("a")
