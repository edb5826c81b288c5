"""`Pool.from_first`: all clusters that serve a model, found and followed."""

from __future__ import annotations

import asyncio

import pytest
from graphs import build, molecules, right_answers

from langgraph_hpc_fanout import FanOutError, Limits, Pool
from langgraph_hpc_fanout.testing.first import FirstFake, Quotas

FREE = Quotas(requests=None, user_tokens=None, model_tokens=None)
WIDE = Limits(concurrency=32)
GPT = "gpt-oss-120b"


@pytest.fixture
def fake():
    with FirstFake(quotas=FREE, latency=0.01) as fake:
        yield fake


def served(fake):
    models = fake.record().models
    return {name.partition("/")[0]: each.served for name, each in models.items() if each.served}


async def test_every_cluster_that_serves_the_model_has_a_lane(fake):
    items = molecules(600)
    with Pool.from_first(GPT, base_url=fake.url, token=fake.token(), limits=WIDE) as pool:
        state = await build(pool).ainvoke({"molecules": items})
    assert right_answers(state["predictions"], items)
    by = served(fake)
    assert set(by) == {"sophia", "metis", "minerva"}
    assert min(by.values()) > 100


@pytest.mark.parametrize("clusters", ["metis", ["metis"]])
async def test_only_the_clusters_that_may_be_asked_are(fake, clusters):
    settings = {"clusters": clusters, "base_url": fake.url, "token": fake.token()}
    with Pool.from_first(GPT, limits=WIDE, **settings) as pool:
        await build(pool).ainvoke({"molecules": molecules(20)})
    assert set(served(fake)) == {"metis"}


async def test_a_cluster_in_maintenance_is_left_out_and_comes_back(fake):
    items = molecules(3_000)
    with Pool.from_first(GPT, base_url=fake.url, token=fake.token(), limits=WIDE) as pool:
        running = asyncio.create_task(build(pool).ainvoke({"molecules": items}))
        await fake.until(lambda record: record.served > 300)
        fake.set_maintenance("minerva")
        state = await running
    assert right_answers(state["predictions"], items)
    by = served(fake)
    assert by["minerva"] < by["sophia"]


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        (
            "gpt-oss-12",
            {},
            "no cluster that serves 'gpt-oss-12' to you; did you mean 'openai",
        ),
        (
            GPT,
            {"clusters": "polaris"},
            "FIRST lists no models of polaris for you; it lists metis/api",
        ),
    ],
)
async def test_a_model_that_nobody_serves_is_said_at_once(fake, model, settings, words):
    with (
        Pool.from_first(model, base_url=fake.url, token=fake.token(), **settings) as pool,
        pytest.raises(FanOutError, match=words),
    ):
        await build(pool).ainvoke({"molecules": molecules(1)})


async def test_a_token_that_is_refused_ends_the_run_at_once(fake):
    with (
        Pool.from_first(GPT, base_url=fake.url, token="no-such-token") as pool,
        pytest.raises(FanOutError, match="answered 401: Token is either not active") as caught,
    ):
        await build(pool).ainvoke({"molecules": molecules(1)})
    assert "no-such-token" not in str(caught.value)


def test_a_model_is_named(monkeypatch):
    monkeypatch.delenv("FIRST_MODEL", raising=False)
    with pytest.raises(ValueError, match=r"Pool.from_first\(\) names no model; say model="):
        Pool.from_first(token="x")


async def test_a_pool_stays_with_the_gateway_it_was_made_for(fake, monkeypatch):
    monkeypatch.setenv("FIRST_API_BASE", fake.url)
    with Pool.from_first(GPT, token=fake.token(), limits=WIDE) as pool:
        monkeypatch.setenv("FIRST_API_BASE", "http://127.0.0.1:9/resource_server")
        state = await build(pool).ainvoke({"molecules": molecules(5)})
    assert right_answers(state["predictions"], molecules(5))
