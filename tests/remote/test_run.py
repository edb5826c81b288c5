"""Bundles of chat requests, over real sockets: with the package and without it, alike."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time

import pytest
from bundles import bundle, chat, failures, texts

from langgraph_hpc_fanout.remote import run
from langgraph_hpc_fanout.remote.standalone import standalone
from langgraph_hpc_fanout.testing.fleet import FakeEndpoint, Fault, echo


@pytest.fixture(params=[run, standalone], ids=["run", "standalone"])
def work(request):
    """Works on a bundle; what goes in and out is what JSON carries."""

    def through_json(given):
        return json.loads(json.dumps(request.param(json.loads(json.dumps(given)))))

    return through_json


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# -- answers ----------------------------------------------------------------------------------


def test_answers_come_in_the_order_of_the_requests(work, fake_fleet):
    fleet = fake_fleet(latency=0.01)
    prompts = [f"question {number}" for number in range(50)]
    result = work(bundle(fleet.urls, prompts))
    assert texts(result) == [echo(prompt) for prompt in prompts]
    assert result["format"] == 1
    assert result["worker"].startswith(f"{socket.gethostname()}:")
    assert result["seconds"] > 0
    for reply in result["replies"]:
        assert reply["tries"] == 1
        assert reply["seconds"] > 0
        assert set(reply["body"]) == {"choices", "model", "usage"}
        assert all(isinstance(count, int) for count in reply["body"]["usage"].values())


def test_hundreds_at_once(work, fake_fleet):
    fleet = fake_fleet(latency=1.0, capacity=400)
    result = work(bundle(fleet.urls, [str(number) for number in range(320)], window=320))
    assert texts(result) == [echo(str(number)) for number in range(320)]
    assert fleet.record().peak_in_flight >= 300


def test_never_more_at_once_than_the_window(work, fake_fleet):
    fleet = fake_fleet(2, latency=0.02)
    work(bundle(fleet.urls, [str(number) for number in range(60)], window=7))
    assert fleet.record().peak_in_flight <= 7


def test_connections_outlive_the_task(work, fake_fleet):
    fleet = fake_fleet(latency=0.01)
    for _ in range(5):
        assert "(" not in "".join(texts(work(bundle(fleet.urls, "abcd", window=4))))
    record = fleet.record()
    assert record.served == 20
    assert record.connections <= 5, "a probe's and one for each place in the window"
    assert record.probes == 1


def test_servers_share_the_work(work, fake_fleet):
    fleet = fake_fleet(3, latency=0.02)
    work(bundle(fleet.urls, [str(number) for number in range(60)], window=12))
    assert all(each.served >= 10 for each in fleet.record().endpoints)


def test_two_tasks_at_once(work, fake_fleet):
    fleet = fake_fleet(latency=0.3, capacity=100)
    results = {}

    def task(name):
        prompts = [f"{name}{number}" for number in range(20)]
        results[name] = texts(work(bundle(fleet.urls, prompts, window=20)))

    threads = [threading.Thread(target=task, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {name: [echo(f"{name}{n}") for n in range(20)] for name in "abc"}
    assert fleet.record().peak_in_flight > 20


def test_what_is_of_no_use_does_not_travel(work, fake_fleet):
    message = {
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        ],
        "audio": {"data": "x" * 1000},
        "annotations": [],
    }
    fleet = fake_fleet(answer=lambda body: message)
    (reply,) = work(bundle(fleet.urls, ["q"]))["replies"]
    (choice,) = reply["body"]["choices"]
    assert set(choice) == {"index", "message", "finish_reason"}
    assert set(choice["message"]) == {"role", "content", "tool_calls"}


def test_nothing_to_do(work, fake_fleet):
    fleet = fake_fleet()
    assert work(bundle(fleet.urls))["replies"] == []
    assert fleet.record().connections == 0


# -- models -----------------------------------------------------------------------------------


def test_requests_may_name_models_of_their_own(work, fake_fleet):
    fleet = fake_fleet(models=("tiny", "large"))
    asked = [chat("a"), chat("b", model="large"), chat("c", model="gone")]
    result = work(bundle(fleet.urls, asked))
    assert [reply.get("body", {}).get("model") for reply in result["replies"]] == [
        "tiny",
        "large",
        None,
    ]
    (failure,) = failures(result)
    assert (failure["kind"], failure["retryable"]) == ("cold", True)
    assert "gone" in failure["message"]
    assert "tiny" in failure["message"]
    result = work(bundle(fleet.urls, asked[:2], model="large"))
    assert [reply["body"]["model"] for reply in result["replies"]] == ["large", "large"]


def test_a_model_is_asked_of_the_server_that_has_it(work, fake_fleet):
    fleet = fake_fleet([FakeEndpoint(models=("a",)), FakeEndpoint(models=("b",))])
    asked = [chat(f"{model}{n}", model=model) for n in range(5) for model in "ab"]
    result = work(bundle(fleet.urls, asked))
    assert [reply["body"]["model"] for reply in result["replies"]] == ["a", "b"] * 5
    assert [each.served for each in fleet.record().endpoints] == [5, 5]


def test_a_model_that_goes_away_is_cold(work, fake_fleet):
    fleet = fake_fleet(models=("tiny",))
    work(bundle(fleet.urls, ["q"]))
    fleet.change(0, models=("other",))
    (failure,) = failures(work(bundle(fleet.urls, [chat("q", model="tiny")], patience=0)))
    assert failure["kind"] == "cold"
    assert failure["retryable"]


# -- failures of requests ---------------------------------------------------------------------


def test_what_passes_is_tried_again(work, fake_fleet):
    fleet = fake_fleet(
        faults=(
            Fault("http_500", contains="five", times=2),
            Fault("malformed_json", contains="json", times=1),
            Fault("disconnect", contains="gone", times=1),
            Fault("truncated_body", contains="half", times=1),
        )
    )
    result = work(bundle(fleet.urls, ["five", "json", "gone", "half", "good"]))
    assert texts(result) == [echo(each) for each in ("five", "json", "gone", "half", "good")]
    assert [reply["tries"] for reply in result["replies"]] == [3, 2, 2, 2, 1]


@pytest.mark.parametrize(
    ("fault", "kind", "status", "retryable", "tries"),
    [
        ("http_400", "permanent", 400, False, 1),
        ("http_401", "auth", 401, False, 1),
        ("http_500", "transient", 500, True, 2),
        ("html_502", "transient", 502, True, 2),
        ("html_200", "transient", 200, True, 2),
        ("malformed_json", "transient", 200, True, 2),
        ("reset", "transient", None, True, 2),
    ],
)
def test_kinds_of_failures(work, fake_fleet, fault, kind, status, retryable, tries):
    fleet = fake_fleet(faults=(Fault(fault, contains="bad"),))
    result = work(bundle(fleet.urls, ["bad"], attempts=2))
    (failure,) = failures(result)
    assert failure["kind"] == kind
    assert failure["status"] == status
    assert failure["retryable"] == retryable
    assert failure["retry_after"] is None
    assert failure["message"]
    assert fleet.record().served == tries


def test_bad_requests_harm_no_others(work, fake_fleet):
    fleet = fake_fleet(faults=(Fault("http_400", contains="long"),))
    asked = [chat("good"), chat("long"), {"prompt": "old"}, 7, None, chat("fine")]
    result = work(bundle(fleet.urls, asked))
    assert texts(result) == [
        echo("good"),
        "(permanent)",
        "(permanent)",
        "(permanent)",
        "(permanent)",
        echo("fine"),
    ]
    assert [each["tries"] for each in result["replies"]] == [1, 1, 0, 0, 0, 1]


def test_being_turned_away_is_no_attempt(work, fake_fleet):
    fleet = fake_fleet(faults=(Fault("http_429", contains="often", times=3, retry_after=0.05),))
    (reply,) = work(bundle(fleet.urls, ["often"], attempts=1))["replies"]
    assert "body" in reply
    assert reply["tries"] == 4


def test_a_server_says_when_to_come_again(work, fake_fleet):
    fleet = fake_fleet(faults=(Fault("http_429", contains="late", retry_after=1000),))
    (failure,) = failures(work(bundle(fleet.urls, ["late"])))
    assert (failure["kind"], failure["status"]) == ("rate_limited", 429)
    assert failure["retry_after"] == 1000


def test_an_attempt_has_its_time(work, fake_fleet):
    fleet = fake_fleet(faults=(Fault("hang", contains="stuck", times=1),))
    result = work(bundle(fleet.urls, ["stuck", "well"], timeout=0.3))
    assert texts(result) == [echo("stuck"), echo("well")]
    assert result["replies"][0]["tries"] == 2
    fleet.change(0, faults=(Fault("drip", contains="slow", seconds=30),))
    result = work(bundle(fleet.urls, ["slow"], timeout=0.2, attempts=2))
    (failure,) = failures(result)
    assert (failure["kind"], failure["retryable"]) == ("timeout", True)
    assert result["replies"][0]["tries"] == 2


# -- deadlines --------------------------------------------------------------------------------


def test_what_is_unanswered_at_the_deadline_fails(work, fake_fleet):
    fleet = fake_fleet(latency=0.01, faults=(Fault("hang", contains="stuck"),))
    began = time.monotonic()
    asked = ["well", "stuck", "stuck too", "waiting", "waiting too"]
    result = work(bundle(fleet.urls, asked, window=2, deadline=1.0))
    assert time.monotonic() - began < 15
    assert texts(result) == [echo("well"), *["(timeout)"] * 4]
    assert [each["tries"] for each in result["replies"]] == [1, 1, 1, 0, 0]
    assert all(failure["retryable"] for failure in failures(result))
    assert fleet.wait(lambda record: record.in_flight == 0).closed_early == 2


@pytest.mark.parametrize("deadline", [0, -5])
def test_a_deadline_that_has_passed(work, fake_fleet, deadline):
    fleet = fake_fleet()
    result = work(bundle(fleet.urls, ["a", "b"], deadline=deadline))
    assert texts(result) == ["(timeout)", "(timeout)"]
    assert fleet.record().connections == 0


# -- servers that are not there ---------------------------------------------------------------


def test_a_server_that_is_late_is_waited_for(work, fake_fleet):
    fleet = fake_fleet()
    urls = fleet.urls
    fleet.kill(0)
    timer = threading.Timer(1.0, fleet.revive, [0])
    timer.start()
    result = work(bundle(urls, ["a"], patience=20))
    timer.join()
    assert texts(result) == [echo("a")]


def test_patience_ends(work):
    url = f"http://127.0.0.1:{free_port()}/v1"
    result = work(bundle([url], ["a", "b"], patience=0.2))
    for failure in failures(result):
        assert (failure["kind"], failure["retryable"]) == ("cold", True)
        assert url in failure["message"]
        assert "does the server run" in failure["message"]
        assert socket.gethostname() in failure["message"]


def test_one_of_two_servers_is_not_there(work, fake_fleet):
    fleet = fake_fleet()
    urls = [f"http://127.0.0.1:{free_port()}/v1", *fleet.urls]
    assert texts(work(bundle(urls, "abc", patience=5))) == [echo(each) for each in "abc"]


def test_one_of_two_servers_dies(work, fake_fleet):
    fleet = fake_fleet(2, latency=0.2)
    killer = threading.Timer(0.3, fleet.kill, [1])
    killer.start()
    prompts = [str(number) for number in range(40)]
    result = work(bundle(fleet.urls, prompts, window=8))
    killer.join()
    assert texts(result) == [echo(prompt) for prompt in prompts]
    assert fleet.record().endpoints[1].served < 40


def test_all_servers_die_and_come_back(work, fake_fleet):
    fleet = fake_fleet(latency=0.2)
    assert texts(work(bundle(fleet.urls, ["before"]))) == [echo("before")]
    killer = threading.Timer(0.3, fleet.kill, [0])
    killer.start()
    said = texts(work(bundle(fleet.urls, [str(number) for number in range(40)], window=4)))
    killer.join()
    assert said[0] == echo("0")
    assert said[-1] == "(cold)"
    fleet.revive(0)
    assert texts(work(bundle(fleet.urls, ["after"]))) == [echo("after")]


# -- keys -------------------------------------------------------------------------------------


def test_a_key_comes_from_the_nodes_environment(work, fake_fleet, monkeypatch):
    fleet = fake_fleet(api_key="sk-secret")
    monkeypatch.setenv("node_key", " sk-secret\n")
    assert texts(work(bundle(fleet.urls, ["a"], api_key_env="node_key"))) == [echo("a")]


def test_a_key_that_is_wrong_or_missing(work, fake_fleet, monkeypatch):
    fleet = fake_fleet(api_key="sk-secret")
    monkeypatch.setenv("NODE_KEY", "sk-other")
    (failure,) = failures(work(bundle(fleet.urls, ["a"], api_key_env="NODE_KEY")))
    assert (failure["kind"], failure["retryable"]) == ("auth", False)
    assert "sk-other" not in failure["message"]
    monkeypatch.delenv("NODE_KEY")
    (failure,) = failures(work(bundle(fleet.urls, ["a"], api_key_env="NODE_KEY")))
    assert failure["kind"] == "auth"
    assert "NODE_KEY is not set" in failure["message"]


def test_no_user_of_a_url_is_shown(work):
    url = f"http://me:hunter2@127.0.0.1:{free_port()}/v1"
    for rule in (url, f"{url}?key=hunter2", "ftp://me:hunter2@h/v1", "http://me:hunter2@h:9-8/v1"):
        assert "hunter2" not in json.dumps(work(bundle([rule], ["a"], patience=0)))


def test_a_user_of_a_url_is_sent(work, fake_fleet):
    url = fake_fleet(api_key="sk-secret").urls[0].replace("//", "//me:hunter2@")
    (failure,) = failures(work(bundle([url], ["a"])))
    assert failure["kind"] == "auth"
    assert "hunter2" not in failure["message"]


def test_a_url_may_be_the_whole_one(work, fake_fleet):
    url = fake_fleet().urls[0]
    for whole in (f"{url}/", f"{url}/chat/completions"):
        assert texts(work(bundle([whole], ["a"]))) == [echo("a")]


async def test_nothing_blocks_the_dispatch_loop(fake_fleet, tmp_path, monkeypatch):
    """The watch over async tests looks at all loops, which are warm in most tests."""
    fleet = fake_fleet(2)
    monkeypatch.setenv("NODE_KEY", "sk-node")
    (tmp_path / "servers.txt").write_text("\n".join(fleet.urls))
    rules = [f"file:{tmp_path / 'servers.txt'}"]
    asked = bundle(rules, "abc", api_key_env="NODE_KEY")
    assert "(" not in "".join(texts(await asyncio.to_thread(run, asked)))


# -- bundles that cannot be worked on ---------------------------------------------------------


def test_another_format(work):
    for given in ({**bundle([], ["a"]), "format": 2}, {}, [], None, "bundle"):
        result = work(given)
        assert "replies" not in result
        assert result["error"]["kind"] == "permanent"
        assert result["format"] == 1


def test_no_server_is_found(work, tmp_path):
    rules = [f"file:{tmp_path / 'none.txt'}", "env:NO_SUCH_VARIABLE_HERE"]
    error = work(bundle(rules, ["a"], patience=0.1))["error"]
    assert error["kind"] == "cold"
    assert "none.txt" in error["message"]
    assert work(bundle([], ["a"], patience=0))["error"]["kind"] == "cold"


def test_what_is_no_rule(work):
    error = work(bundle(["gopher://x"], ["a"]))["error"]
    assert error["kind"] == "permanent"
    assert "gopher" in error["message"]


# -- rules ------------------------------------------------------------------------------------


def test_servers_of_a_variable(work, fake_fleet, monkeypatch):
    fleet = fake_fleet(2)
    monkeypatch.setenv("NODE_SERVERS", f"{fleet.urls[0]}, {fleet.urls[1]}")
    assert texts(work(bundle(["env:NODE_SERVERS"], "abcd"))) == [echo(each) for each in "abcd"]
    assert sum(each.connections > 0 for each in fleet.record().endpoints) == 2


def test_a_file_that_is_written_late_and_later_anew(work, fake_fleet, tmp_path):
    fleet = fake_fleet(2)
    file = tmp_path / "aegis_endpoints.txt"
    hosts = [url.removeprefix("http://").removesuffix("/v1") for url in fleet.urls]
    timer = threading.Timer(0.5, file.write_text, [f"# by Aegis\n{hosts[0]}\n\n"])
    timer.start()
    asked = bundle([f"file:{file}"], ["a"], patience=20)
    assert texts(work(asked)) == [echo("a")]
    timer.join()
    fleet.kill(0)
    file.write_text(f"{hosts[1]}\n")
    work(asked)  # this one may find that the first has gone
    assert texts(work(asked)) == [echo("a")]


def test_servers_of_a_range_of_ports(work, fake_fleet):
    fleet = fake_fleet()
    port = int(fleet.urls[0].rpartition(":")[2].removesuffix("/v1"))
    low, high = max(1, port - 1), min(65535, port + 1)
    assert texts(work(bundle([f"ports:{low}-{high}"], ["a"]))) == [echo("a")]


def test_strangers_in_a_range_are_left_out(work, fake_fleet):
    for _ in range(20):
        port = free_port()
        try:
            fake_fleet([FakeEndpoint(port=port), FakeEndpoint(port=port + 1, api_key="sk-theirs")])
        except OSError:
            continue
        break
    asked = bundle([f"http://127.0.0.1:{port}-{port + 1}/v1"], "abc")
    assert texts(work(asked)) == [echo(each) for each in "abc"]
