"""FirstFake, version 2: federated models, deployments, and being refused as a matter of course."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from first_client import HOT, Client, content
from hypothesis import given
from hypothesis import strategies as st

from langgraph_hpc_fanout.testing import FirstFake
from langgraph_hpc_fanout.testing.first import (
    Batching,
    Cluster,
    Fault,
    Model,
    Quotas,
    UsageLimits,
)
from langgraph_hpc_fanout.testing.first.admission import Account
from langgraph_hpc_fanout.testing.fleet import echo

LAVISH = UsageLimits(concurrency=1000, requests=100_000, burst=10_000, tokens=10**9)
TWO = (
    Cluster("sophia", "vllm", (Model("m", state="cold"), Model("only", capacity=1))),
    Cluster("tara", "api", (Model("m", users=frozenset({"alice"})),), door="direct"),
)
ClientFactory = Callable[..., "Second"]


class Second(Client):
    """A client of version 2, which gives headers too."""

    async def ask(
        self, prompt: str = "hello", *, url: str = "", model: str = HOT, **more: Any
    ) -> tuple[int, Any, Any]:
        message = {"role": "user", "content": prompt}
        body = {"model": model, "messages": [message], **more}
        url = f"{url or self.fake.federated_url}/chat/completions"
        async with self.http.post(url, json=body, headers=self.headers) as got:
            return got.status, await got.json(), got.headers


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


@pytest.fixture
def client(http, first_fake) -> ClientFactory:
    def make(*clusters: Cluster, **options) -> Second:
        options = {"time_scale": 0.0, "quotas": LAVISH, **options}
        return Second(http, first_fake(clusters or None, version=2, **options))

    return make


# Accounts


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 3000), st.integers(0, 3000)), max_size=60)
)
def test_settled_tokens_are_what_counts(requests):
    limits = UsageLimits(concurrency=10**6, requests=10**6, burst=10**6, tokens=6000)
    account = Account(limits)
    now, used = 0.0, 0
    for gap, estimate, said in requests:
        now += gap
        actual = min(said, estimate)
        if account.check(now, estimate) is None:
            account.admit(now, estimate)
            account.settle(now, estimate, actual)
            used += actual
    assert account.in_flight == 0
    assert used <= limits.tokens + limits.tokens / 60.0 * now + 1e-6


def test_the_order_of_refusals_is_concurrency_then_requests_then_tokens():
    account = Account(UsageLimits(concurrency=1, requests=60, burst=1, tokens=100))
    account.admit(0.0, 100)
    assert account.check(0.0, 100).reason == "user_concurrency"
    account.settle(0.0, 100, 100)
    refused = account.check(0.0, 50)
    assert (refused.reason, refused.wait) == ("user_rpm", pytest.approx(1.0))
    refused = account.check(1.0, 50)
    assert (refused.reason, refused.wait) == ("user_tpm", pytest.approx(29.0))


def test_a_request_larger_than_the_quota_passes_when_it_is_unused():
    account = Account(UsageLimits(tokens=100))
    assert account.check(0.0, 5000) is None
    account.admit(0.0, 5000)
    assert account.check(0.0, 1).reason == "user_tpm"


def test_limits_of_nothing_are_refused():
    with pytest.raises(ValueError, match="concurrency"):
        UsageLimits(concurrency=0)


# Routes


async def test_federated_and_deployment_routes_answer(client):
    alice = client(*TWO)
    status, body, _ = await alice.ask("CCO", model="m")
    assert (status, content(body)) == (200, echo("CCO"))
    assert "response_time" not in body
    url = alice.fake.deployment_url("tara", "m")
    assert url.endswith("/api/deployments/tara~m/v1")
    assert (await alice.ask("CCN", url=url, model="m"))[0] == 200
    record = alice.fake.record()
    assert record.models["tara/m"].served == 2
    assert record.batches == ()


async def test_names_with_slashes_are_written_with_tildes(client):
    alice = client()
    url = alice.fake.deployment_url("sophia", HOT)
    assert "sophia~openai~gpt-oss-120b" in url
    assert (await alice.ask(url=url))[0] == 200


async def test_the_least_busy_deployment_serves(client):
    alice = client(latency=1.0)
    asked = [asyncio.ensure_future(alice.ask(f"{n}")) for n in range(10)]
    keys = [f"sophia/{HOT}", f"minerva/{HOT}"]
    await alice.fake.until(lambda now: sum(now.models[key].in_flight for key in keys) == 10)
    assert [alice.fake.record().models[key].in_flight for key in keys] == [5, 5]
    alice.fake.advance(1.0)
    assert {status for status, _, _ in await asyncio.gather(*asked)} == {200}


async def test_streams_embeddings_and_text_completions(client):
    alice = client()
    message = {"role": "user", "content": "CCO"}
    body = {"model": HOT, "messages": [message], "stream": True}
    url = f"{alice.fake.federated_url}/chat/completions"
    async with alice.http.post(url, json=body, headers=alice.headers) as got:
        assert (await got.read()).endswith(b"data: [DONE]\n\n")
    assert (await alice.post("/federated/v1/embeddings", {"model": HOT, "input": "x"}))[0] == 200
    assert (await alice.post("/federated/v1/completions", {"model": HOT, "prompt": "x"}))[0] == 200


async def test_health_whoami_and_what_there_is_not(client):
    alice = client()
    assert await alice.get("/health") == (200, {"status": "ok"})
    assert (await alice.get("/whoami"))[1]["name"] == "alice"
    assert (await alice.get("/federated/v1/chat/completions"))[0] == 404
    assert (await alice.post("/whoami", {}))[0] == 404
    alice.token = "nonsense"
    assert (await alice.get("/whoami"))[0] == 401
    assert (await alice.ask())[0] == 401


async def test_models_that_are_not_there_or_not_for_everybody(client):
    alice = client(
        Cluster("c", "f", (Model("mine", users=frozenset({"bob"})), Model("chat"))),
        Cluster("d", "f", (Model("talk"),), endpoints=("chat/completions",)),
    )
    status, body, _ = await alice.ask(model="none")
    assert (status, body["error"]["code"]) == (404, "not_found")
    status, body, _ = await alice.ask(model="mine")
    assert (status, body["error"]["code"]) == (403, "access_denied")
    status, body = await alice.post("/federated/v1/embeddings", {"model": "talk", "input": "x"})
    assert (status, body["error"]["code"]) == (400, "resource_spec_invalid")
    status, body, _ = await alice.ask(model="")
    assert (status, body["detail"][0]["loc"][-1]) == (422, "model")
    reasons = alice.fake.record().reasons
    assert reasons == {"not_found": 1, "not_permitted": 1, "unsupported": 1, "invalid": 1}


# Being refused


async def test_the_first_request_to_a_cold_model_is_refused_and_wakes_it(client):
    alice = client(*TWO)
    url = alice.fake.deployment_url("sophia", "m")
    status, body, headers = await alice.ask(url=url, model="m")
    assert (status, body["error"]["code"], headers["Retry-After"]) == (
        429,
        "too_many_requests",
        "720",
    )
    alice.fake.advance(700.0)
    assert (await alice.ask(url=url, model="m"))[2]["Retry-After"] == "20"
    alice.fake.advance(20.0)
    assert (await alice.ask(url=url, model="m"))[0] == 200
    model = alice.fake.record().models["sophia/m"]
    assert (model.wakeups, model.refused, model.wasted) == (1, {"cold": 2}, 0)


async def test_an_offline_or_closed_deployment_never_says_when(client):
    alice = client(*TWO)
    alice.fake.set_state("tara", "m", "offline")
    url = alice.fake.deployment_url("tara", "m")
    status, _, headers = await alice.ask(url=url, model="m")
    assert (status, int(headers["Retry-After"]) <= 3) == (429, True)
    alice.fake.set_maintenance("sophia")
    assert (await alice.ask(model="only"))[0] == 429


async def test_a_full_backend_refuses_with_a_short_wait(client):
    alice = client(*TWO, latency=5.0)
    first = asyncio.ensure_future(alice.ask("a", model="only"))
    await alice.fake.until(lambda record: record.models["sophia/only"].in_flight == 1)
    status, body, headers = await alice.ask("b", model="only")
    assert (status, body["error"]["info"]) == (429, {"reason": "saturated"})
    assert 1 <= int(headers["Retry-After"]) <= 3
    alice.fake.advance(5.0)
    assert (await first)[0] == 200


async def test_quotas_say_when_to_come_again(client):
    alice = client(quotas=UsageLimits(requests=60, burst=2))
    assert [(await alice.ask())[0] for _ in range(2)] == [200, 200]
    status, body, headers = await alice.ask()
    assert (status, body["error"]["info"]["reason"]) == (429, "user_rpm")
    alice.fake.advance(float(headers["Retry-After"]))
    assert (await alice.ask())[0] == 200
    assert (await Second(alice.http, alice.fake, "bob").ask())[0] == 200


async def test_eight_requests_of_a_user_at_one_time(client):
    alice = client(quotas=UsageLimits(), latency=1.0)
    asked = [asyncio.ensure_future(alice.ask(f"{n}", max_tokens=9)) for n in range(8)]
    await alice.fake.until(lambda record: record.users["alice"].peak_in_flight == 8)
    assert (await alice.ask())[1]["error"]["info"]["reason"] == "user_concurrency"
    alice.fake.advance(1.0)
    assert {status for status, _, _ in await asyncio.gather(*asked)} == {200}


async def test_who_leaves_gives_the_reservation_back(client):
    alice = client(quotas=UsageLimits(concurrency=1, tokens=1000), latency=1.0)
    asked = asyncio.ensure_future(alice.ask(max_tokens=1000))
    await alice.fake.until(lambda record: record.peak_in_flight == 1)
    asked.cancel()
    await alice.fake.until(lambda record: record.reasons["left"] == 1)
    again = asyncio.ensure_future(alice.ask(max_tokens=900))
    await alice.fake.until(lambda record: record.users["alice"].requests == 2)
    alice.fake.advance(1.0)
    assert (await again)[0] == 200


async def test_faults_strike_in_version_2_too(client):
    alice = client(
        faults=(Fault("html_503", times=1, contains="html"), Fault("upstream", status=400))
    )
    with pytest.raises(aiohttp.ContentTypeError):
        await alice.ask("html")
    status, body, _ = await alice.ask()
    assert (status, body["error"]["code"]) == (400, "internal_endpoint_error")
    alice.fake.clear_faults()
    alice.fake.inject(Fault("disconnect"))
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await alice.ask()


# Versions


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"version": 3}, "neither 1 nor 2"),
        ({"version": 2, "quotas": Quotas()}, "UsageLimits"),
        ({"version": 1, "quotas": UsageLimits()}, "Quotas"),
        ({"version": 2, "files": "/nowhere"}, "no batches"),
        ({"version": 2, "batching": Batching()}, "no batches"),
    ],
)
def test_settings_of_the_other_version_are_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        FirstFake(**options)


async def test_each_version_has_its_own_urls(client):
    fake = client().fake
    with pytest.raises(ValueError, match="of version 1, and this is 2"):
        fake.base_url("sophia")
    with pytest.raises(ValueError, match="no model 'x'"):
        fake.deployment_url("sophia", "x")
    with FirstFake() as first:
        for what in (lambda: first.federated_url, lambda: first.deployment_url("sophia", HOT)):
            with pytest.raises(ValueError, match="of version 2, and this is 1"):
                what()
