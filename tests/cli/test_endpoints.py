"""`hpc-fanout endpoints`: what FIRST serves to you, and whether it answers."""

from __future__ import annotations

import json

import pytest

from langgraph_hpc_fanout.testing.first import FirstFake


@pytest.fixture
def second(monkeypatch):
    with FirstFake(version=2) as fake:
        monkeypatch.setenv("FIRST_API_BASE", fake.federated_url)
        monkeypatch.setenv("FIRST_API_KEY", fake.token())
        yield fake


@pytest.fixture
def fake(monkeypatch):
    with FirstFake() as fake:
        monkeypatch.setenv("FIRST_API_BASE", fake.url)
        monkeypatch.setenv("FIRST_API_KEY", fake.token())
        yield fake


def test_the_list(run, fake):
    done = run("endpoints", "list")
    assert done.exit_code == 0
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "cluster model state tokens/min context"
    assert "sophia/vllm openai/gpt-oss-120b running 60,000 131,072" in lines
    assert "metis/api gpt-oss-120b running 60,000 131,072" in lines
    assert "sophia/vllm meta-llama/Llama-3.3-70B-Instruct absent 60,000 131,072" in lines
    assert fake.record().models["sophia/meta-llama/Llama-3.3-70B-Instruct"].arrived == 0


def test_the_list_as_json(run, fake):
    offers = json.loads(run("endpoints", "list", "--json").stdout)
    assert {
        "cluster": "sophia",
        "framework": "vllm",
        "model": "openai/gpt-oss-20b",
        "state": "running",
        "starts": None,
        "tokens_per_minute": 60_000,
        "context": 131_072,
    } in offers


def test_a_model_that_answers(run, fake):
    done = run("endpoints", "probe", "sophia", "gpt-oss-120b")
    assert done.exit_code == 0
    assert done.stdout.startswith("sophia/gpt-oss-120b answered in 0.")
    assert fake.record().models["sophia/openai/gpt-oss-120b"].served == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("probe", "sophia", "gpt-oss-120"), "did you mean 'openai/gpt-oss-120b'"),
        (("probe", "polaris", "gpt-oss-120b"), "no models of polaris for you"),
        (("probe", "metis", "Llama-4-Maverick-17B-128E-Instruct"), "not currently live on Metis"),
    ],
)
def test_what_does_not_answer_is_said(run, fake, arguments, words):
    done = run("endpoints", *arguments)
    assert done.exit_code == 1
    assert words in done.stderr


@pytest.mark.parametrize("arguments", [("list",), ("probe", "sophia", "gpt-oss-120b")])
def test_a_token_that_is_refused(run, fake, monkeypatch, arguments):
    monkeypatch.setenv("FIRST_API_KEY", "AgNobodysToken")
    done = run("endpoints", *arguments)
    assert done.exit_code == 1
    assert "answered 401" in done.stderr
    assert "FIRST_API_KEY" in done.stderr
    assert "AgNobodysToken" not in done.stderr


def test_nobody_at_the_address(run, monkeypatch):
    monkeypatch.setenv("FIRST_API_KEY", "x")
    monkeypatch.setenv("FIRST_API_BASE", "http://127.0.0.1:9/resource_server")
    done = run("endpoints", "list")
    assert done.exit_code == 1
    assert "nobody answers at http://127.0.0.1:9" in done.stderr


def test_an_address_that_is_none(run, monkeypatch):
    monkeypatch.setenv("FIRST_API_BASE", "sophia")
    done = run("endpoints", "list")
    assert done.exit_code == 1
    assert "FIRST_API_BASE holds no URL of a gateway" in done.stderr


def test_a_server_that_is_no_gateway(run, fake_fleet, monkeypatch):
    monkeypatch.setenv("FIRST_API_KEY", "x")
    monkeypatch.setenv("FIRST_API_BASE", fake_fleet().urls[0])
    assert run("endpoints", "list").exit_code == 1


def test_the_second_version_lists_nothing(run, second):
    done = run("endpoints", "list")
    assert done.exit_code == 1
    assert "hpc-fanout endpoints probe federated MODEL" in done.stderr


@pytest.mark.parametrize("cluster", ["federated", "sophia"])
def test_a_model_of_the_second_version(run, second, cluster):
    done = run("endpoints", "probe", cluster, "openai/gpt-oss-120b")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{cluster}/gpt-oss-120b answered in 0.")
    assert second.record().served == 1
