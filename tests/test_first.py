"""Whole graphs over a FIRST gateway: all clusters that serve a model, and what befalls them."""

from __future__ import annotations

import itertools
import socket
import threading

import pytest
from graphs import build, molecules, right_answers

from langgraph_hpc_fanout import FanOutError, Limits, Pool
from langgraph_hpc_fanout.endpoints.first import endpoint as module
from langgraph_hpc_fanout.instances import watch
from langgraph_hpc_fanout.testing.first import (
    Cluster,
    ColdStart,
    FirstFake,
    Model,
    Quotas,
    UsageLimits,
)

GPT = "gpt-oss-120b"
OPENAI_GPT = "openai/gpt-oss-120b"
FREE = Quotas(requests=None, user_tokens=None, model_tokens=None)
WIDE = UsageLimits(concurrency=10_000, requests=1_000_000, burst=10_000, tokens=10**9)
UNHURRIED = Limits(concurrency=16)


@pytest.fixture
def pool_from():
    """A factory of pools over gateways, which are closed when the test ends."""
    pools = []

    def make(fake, model=GPT, **settings):
        settings = {"limits": UNHURRIED, "wait": 0.0, "token": fake.token(), **settings}
        pools.append(Pool.from_first(model, base_url=fake.url, **settings))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def ask(pool, count, **fan):
    items = molecules(count)
    state = build(pool, **fan).invoke({"molecules": items})
    assert right_answers(state["predictions"], items)
    return state


def served(fake):
    return {name: model.served for name, model in fake.record().models.items() if model.served}


def test_a_cluster_that_is_named_and_not_there_is_said_at_once(pool_from):
    with FirstFake(quotas=FREE) as fake:
        pool = pool_from(fake, clusters=["metis", "sofia"])
        with pytest.raises(FanOutError, match="FIRST lists no models of sofia for you"):
            build(pool).invoke({"molecules": molecules(3)})
        assert served(fake) == {}


def test_a_pool_stays_at_the_gateway_for_which_it_was_made(pool_from, monkeypatch):
    with FirstFake(quotas=FREE) as fake:
        monkeypatch.setenv("FIRST_API_BASE", fake.url)
        pool = Pool.from_first(GPT, token=fake.token(), limits=UNHURRIED)
        monkeypatch.setenv("FIRST_API_BASE", "http://127.0.0.1:9/resource_server")
        with pool:
            ask(pool, 10)
        assert sum(served(fake).values()) == 10


def test_some_cluster_is_named_or_all_are_meant():
    with pytest.raises(ValueError, match="is empty; name some, or leave it out"):
        Pool.from_first(GPT, clusters=[], token="t")


def test_a_gateway_that_says_nothing_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(watch, "_LEAST_LOOK", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/resource_server"
        with (
            Pool.from_first(GPT, base_url=url, token="t", wait=0.0) as pool,
            pytest.raises(FanOutError, match="has not answered yet"),
        ):
            build(pool).invoke({"molecules": molecules(2)})


def test_a_gateway_that_is_not_there(pool_from):
    with FirstFake() as fake:
        pool = pool_from(fake)
    with pytest.raises(FanOutError, match="nobody answers at http"):
        build(pool).invoke({"molecules": molecules(2)})


@pytest.mark.parametrize("words", ["notice", "detail", "html"])
def test_a_cluster_in_maintenance_leaves_its_work_to_the_others(pool_from, words):
    with FirstFake(quotas=FREE, latency=0.02) as fake:
        pool = pool_from(fake, clusters=["sophia", "metis"])
        graph, items, done = build(pool), molecules(600), []
        running = threading.Thread(target=lambda: done.append(graph.invoke({"molecules": items})))
        running.start()
        fake.wait(lambda record: record.models["sophia/openai/gpt-oss-120b"].served > 50)
        fake.set_maintenance("sophia", words)
        before = served(fake)["sophia/openai/gpt-oss-120b"]
        running.join()
        assert right_answers(done[0]["predictions"], items)
        assert served(fake)["metis/gpt-oss-120b"] > 300
        assert served(fake)["sophia/openai/gpt-oss-120b"] <= before + 16


def test_a_token_that_ends_in_mid_run_is_renewed_once_for_all_clusters(pool_from):
    with FirstFake(quotas=FREE, latency=0.02) as fake:
        issued = itertools.count(1)

        def login():
            login.calls = next(issued)
            return fake.token()

        graph, items, done = build(pool_from(fake, token=login)), molecules(900), []
        running = threading.Thread(target=lambda: done.append(graph.invoke({"molecules": items})))
        running.start()
        fake.wait(lambda record: record.served > 200)
        fake.expire_tokens()
        running.join()
        assert right_answers(done[0]["predictions"], items)
        assert login.calls == 2


# -- cold models --------------------------------------------------------------------------

COLD = Cluster("sophia", "vllm", (Model(OPENAI_GPT, state="cold"),))


@pytest.fixture
def quick_polls(monkeypatch):
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.05)


def test_a_run_wakes_a_cold_model_once_and_shows_that_it_waits(pool_from, quick_polls):
    with FirstFake((COLD,), quotas=FREE, time_scale=300.0) as fake:
        graph, items = build(pool_from(fake)), molecules(200)
        stream = graph.stream({"molecules": items}, stream_mode=["custom", "values"])
        events, states = [], []
        for mode, said in stream:
            (events if mode == "custom" else states).append(said)
        assert right_answers(states[-1]["predictions"], items)
        model = fake.record().models["sophia/openai/gpt-oss-120b"]
        assert model.wakeups == 1
        assert model.arrived == 201, "one request woke it, and each item was asked once"
        assert fake.now > 700.0, "it was waited for: 12 minutes of the gateway's clock"
        waiting = " ".join(event.get("waiting", "") for event in events)
        assert "sophia/gpt-oss-120b: openai/gpt-oss-120b on sophia is " in waiting
        assert "waiting" not in events[-1]


# -- version 2 ----------------------------------------------------------------------------


def test_version_2_finds_a_cluster_itself(pool_from):
    with FirstFake(version=2, quotas=WIDE) as fake:
        pool = pool_from(fake, OPENAI_GPT)
        assert [each.name for each in pool.endpoints] == ["federated/gpt-oss-120b"]
        ask(pool, 100)
        assert sum(served(fake).values()) == 100


def test_deployments_of_version_2_are_asked_by_name(pool_from):
    with FirstFake(version=2, quotas=WIDE, latency=0.01) as fake:
        ask(pool_from(fake, OPENAI_GPT, clusters=["sophia", "minerva"]), 200)
        assert sorted(served(fake)) == ["minerva/openai/gpt-oss-120b", "sophia/openai/gpt-oss-120b"]


def test_a_model_that_version_2_does_not_have(pool_from):
    with FirstFake(version=2, quotas=WIDE) as fake:
        state = build(pool_from(fake, "nobody/nothing")).invoke({"molecules": molecules(3)})
    (failure, *others) = state["failures"]
    assert len(others) == 2
    assert "Model nobody/nothing does not exist" in str(failure)


def test_the_first_refusal_of_version_2_loads_a_model_that_is_waited_for(pool_from):
    loading = ColdStart(queued=0.5, starting=1.0)
    with FirstFake((COLD,), version=2, quotas=WIDE, cold_start=loading) as fake:
        ask(pool_from(fake, OPENAI_GPT), 100)
        model = fake.record().models["sophia/openai/gpt-oss-120b"]
        assert model.wakeups == 1
        assert model.served == 100
        assert model.refused["cold"] <= 2 * UNHURRIED.concurrency, "nobody asks while it loads"
