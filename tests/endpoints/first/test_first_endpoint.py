"""A model behind the gateway: found, kept to its limits, woken, and its token renewed."""

from __future__ import annotations

import asyncio
import itertools

import aiohttp
import pytest
from graphs import build, molecules
from yarl import URL

from langgraph_hpc_fanout import FirstEndpoint, Limits, Pool, Request
from langgraph_hpc_fanout.endpoints import http
from langgraph_hpc_fanout.endpoints.first import endpoint as module
from langgraph_hpc_fanout.endpoints.first import gateway as gateways
from langgraph_hpc_fanout.testing.conformance import EndpointConformance
from langgraph_hpc_fanout.testing.first import Cluster, Fault, FirstFake, Model, Quotas, UsageLimits

FREE = Quotas(requests=None, user_tokens=None, model_tokens=None)
TOKEN = "AgVerySecretToken"
GPT = "gpt-oss-120b"
OPENAI_GPT = "openai/gpt-oss-120b"
UNLIMITED = UsageLimits(concurrency=10_000, requests=10**6, burst=10_000, tokens=10**9)


@pytest.fixture
def gateway():
    """Makes gateways, and stops them."""
    fakes = []

    def make(*clusters, quotas=FREE, **settings):
        fakes.append(FirstFake(clusters or None, quotas=quotas, **settings).start())
        return fakes[-1]

    yield make
    for fake in fakes:
        fake.stop()


def over(fake, cluster="sophia", model=GPT, token=None, **settings):
    return FirstEndpoint(
        cluster, model=model, base_url=fake.url, token=token or fake.token(), **settings
    )


def request(text="hello", **body):
    messages = [{"role": "user", "content": text}]
    return Request(text, GPT, {"messages": messages, "max_tokens": 8, **body}, 2, 8)


async def ask(endpoint, one):
    (reply,) = [reply async for reply in endpoint.send([one])]
    return reply


@pytest.fixture
async def opened():
    """Opens endpoints and closes them."""
    endpoints = []

    async def start(endpoint):
        endpoints.append(endpoint)
        await endpoint.open()
        return endpoint, await endpoint.probe()

    yield start
    for each in endpoints:
        await each.close()


class TestConformance(EndpointConformance):
    secrets = (TOKEN,)

    @pytest.fixture
    def endpoint(self, gateway):
        self.fake = gateway(latency=0.05)
        self.token = self.fake.token()
        self.secrets = (self.token,)
        return over(self.fake, token=self.token)

    async def in_flight(self):
        return sum(model.in_flight for model in self.fake.record().models.values())


class TestConformanceOfTheSecondVersion(EndpointConformance):
    @pytest.fixture
    def endpoint(self, gateway):
        self.fake = gateway(version=2, quotas=UNLIMITED, latency=0.05)
        token = self.fake.token()
        self.secrets = (token,)
        return over(self.fake, "federated", OPENAI_GPT, token=token)

    async def in_flight(self):
        return sum(model.in_flight for model in self.fake.record().models.values())


@pytest.mark.parametrize(
    ("cluster", "id_"), [("sophia", "openai/gpt-oss-120b"), ("metis", "gpt-oss-120b")]
)
async def test_framework_and_id_are_found(gateway, opened, cluster, id_):
    fake = gateway()
    endpoint, health = await opened(over(fake, cluster))
    assert health.ok
    assert endpoint.models == {GPT: id_}
    assert endpoint.context_limits == {GPT: 131_072}
    reply = await ask(endpoint, request())
    assert reply.failure is None
    assert fake.record().models[f"{cluster}/{id_}"].served == 1


async def test_limits_are_what_the_gateway_tells(gateway, opened):
    fake = gateway(quotas=Quotas(user_tokens=30_000))
    endpoint, _ = await opened(over(fake))
    assert endpoint.limits == Limits(
        concurrency=100,
        requests="9.7/s",
        burst=1,
        tokens="30000/min",
        window="fixed",
        shared=f"requests to {URL(fake.url).host_port_subcomponent}",
    )
    endpoint, _ = await opened(over(gateway()))
    assert endpoint.limits.tokens == "60000/min", "the known default"
    endpoint, _ = await opened(over(gateway(), limits=Limits(concurrency=3)))
    assert endpoint.limits == Limits(concurrency=3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "gpt-oss-120"}, "did you mean 'openai/gpt-oss-120b'"),
        ({"cluster": "polaris"}, "no models of polaris for you"),
    ],
)
async def test_what_is_not_there_is_said_with_what_is(gateway, opened, settings, words):
    _, health = await opened(over(gateway(), **settings))
    assert not health.ok
    assert words in health.failure.message
    assert not health.failure.retryable


async def test_a_probe_tells_how_often_it_has_asked(gateway, opened):
    fake = gateway()
    token = fake.token()
    _, first = await opened(over(fake, token=token))
    _, second = await opened(over(fake, "metis", token=token))
    assert (first.requests, second.requests) == (3, 2), "the list is known by then"


async def test_what_was_asked_long_ago_does_not_count(gateway, opened, monkeypatch):
    endpoint, _ = await opened(over(gateway()))
    shared = endpoint._gateway
    await shared.look(endpoint._http, "whoami", 0.0)
    assert shared.take_asked() == 1
    await shared.look(endpoint._http, "whoami", 0.0)
    monkeypatch.setattr(gateways, "_LATELY", 0.0)
    await asyncio.sleep(0.01)
    assert shared.take_asked() == 0


@pytest.mark.parametrize("how", ["gone", "maintenance"])
async def test_what_was_told_is_no_sign_of_life_once_requests_fail(opened, how):
    """Else a lane would be found well by what was told a minute ago, each time anew."""
    with FirstFake(quotas=FREE) as fake:
        endpoint, health = await opened(over(fake))
        assert health.ok
        if how == "maintenance":
            fake.set_maintenance("sophia", "html")
            assert (await ask(endpoint, request())).failure.kind == "cold"
            assert not (await endpoint.probe()).ok
    assert (await ask(endpoint, request())).failure is not None
    assert not (await endpoint.probe()).ok


async def test_who_is_not_there_is_told_from_who_says_nothing(opened, monkeypatch):
    async def nobody(*given):
        raise aiohttp.ConnectionTimeoutError("connect")

    monkeypatch.setattr(http.HttpClient, "exchange", nobody)
    base_url = "http://127.0.0.1:9/resource_server"
    _, health = await opened(FirstEndpoint("sophia", model=GPT, base_url=base_url, token=TOKEN))
    assert health.failure.kind == "cold"
    assert "nobody answers at" in health.failure.message


async def test_a_url_that_is_no_gateway(fake_fleet, opened):
    (url,) = fake_fleet().urls
    _, health = await opened(FirstEndpoint("sophia", model=GPT, base_url=url, token=TOKEN))
    assert not health.ok
    assert health.failure.kind in ("cold", "permanent")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"cache_salt": "x"}, "reserves the parameter 'cache_salt'"),
        ({"documents": "x" * 11 * 2**20}, r"11.0 MB are more than the 10 MB"),
    ],
)
async def test_what_would_be_refused_is_not_sent(gateway, opened, body, words):
    fake = gateway()
    endpoint, _ = await opened(over(fake))
    reply = await ask(endpoint, request(**body))
    assert reply.failure.kind == "permanent"
    assert words in reply.failure.message
    assert not any(model.arrived for model in fake.record().models.values())


async def test_a_login_that_is_over_says_how_to_log_in(gateway, opened, monkeypatch):
    fake = gateway()
    monkeypatch.setenv("FIRST_API_KEY", fake.token())
    fake.log_out()
    endpoint = FirstEndpoint("sophia", model=GPT, base_url=fake.url)
    _, health = await opened(endpoint)
    assert health.failure.kind == "auth"
    assert "internal policies" in health.failure.message
    assert "FIRST_API_KEY" in health.failure.message
    assert "app.globus.org/logout" in health.failure.message


async def test_a_deployment_that_is_not_there_may_be_either_name(gateway, opened):
    fake = gateway(version=2, quotas=UNLIMITED)
    endpoint, _ = await opened(over(fake, "nowhere", OPENAI_GPT))
    reply = await ask(endpoint, Request("x", OPENAI_GPT, request().body, 2, 8))
    assert "both the model and the cluster" in reply.failure.message


async def test_a_deployment_of_the_second_version(gateway, opened):
    fake = gateway(version=2, quotas=UNLIMITED)
    endpoint, health = await opened(over(fake, "minerva", OPENAI_GPT))
    assert health.ok
    assert endpoint.limits == Limits(
        concurrency=8,
        requests="120/min",
        burst=2,
        tokens="100000/min",
        shared=f"requests for {OPENAI_GPT} to {URL(fake.url).host_port_subcomponent}",
    )
    reply = await ask(endpoint, Request("x", OPENAI_GPT, request().body, 2, 8))
    assert reply.failure is None
    assert fake.record().models[f"minerva/{OPENAI_GPT}"].served == 1


async def test_the_second_version_refuses_a_token(gateway, opened):
    fake = gateway(version=2, quotas=UNLIMITED)
    _, health = await opened(over(fake, "federated", OPENAI_GPT, token=TOKEN))
    assert health.failure.kind == "auth"
    assert "set token=" in health.failure.message
    assert TOKEN not in health.failure.message


async def test_a_model_that_the_second_version_loads_is_on_its_way_until_it_says(gateway, opened):
    cold = Cluster("sophia", "vllm", (Model(OPENAI_GPT, state="cold"),))
    fake = gateway(cold, version=2, quotas=UNLIMITED)
    endpoint, health = await opened(over(fake, "sophia", OPENAI_GPT))
    assert health.ok, "only a request tells, and is what has it loaded"
    reply = await ask(endpoint, Request("x", OPENAI_GPT, request().body, 2, 8))
    assert (reply.failure.kind, reply.retry_after) == ("cold", 720.0)
    health = await endpoint.probe()
    assert not health.ok
    assert 0.0 < health.retry_after <= 60.0
    assert "is being loaded. It refused a request as not ready" in health.failure.message
    assert "in 7" in health.failure.message
    assert fake.record().models[f"sophia/{OPENAI_GPT}"].arrived == 1


def test_an_endpoint_names_a_model(monkeypatch):
    monkeypatch.delenv("FIRST_MODEL", raising=False)
    with pytest.raises(ValueError, match="names no model; say model="):
        FirstEndpoint("sophia", token=TOKEN)
    monkeypatch.setenv("FIRST_MODEL", "openai/gpt-oss-20b")
    assert FirstEndpoint("sophia", token=TOKEN).name == "sophia/gpt-oss-20b"


@pytest.mark.parametrize(
    "base",
    [
        "https://host/resource_server",
        "https://host/resource_server/",
        "https://host/resource_server/metis/api/v1",
    ],
)
def test_the_address_may_be_that_of_one_clusters_models(base, monkeypatch):
    monkeypatch.setenv("FIRST_API_BASE", base)
    endpoint = FirstEndpoint("sophia", model=GPT, token=TOKEN)
    assert "base_url='https://host/resource_server'" in repr(endpoint)
    assert TOKEN not in repr(endpoint)


def test_no_address():
    with pytest.raises(ValueError, match="base_url='sophia' is no URL of a FIRST gateway"):
        FirstEndpoint("sophia", model=GPT, base_url="sophia", token=TOKEN)


# -- through a pool -----------------------------------------------------------------------


async def answers(pool, count, model=GPT):
    replies = await asyncio.gather(*(pool.ask(request(f"item {n}")) for n in range(count)))
    return [reply.failure for reply in replies]


@pytest.fixture
def quick_polls(monkeypatch):
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.05)


COLD = Cluster("sophia", "vllm", (Model("openai/gpt-oss-120b", state="cold"),))


async def test_a_cold_model_is_woken_once_and_waited_for(gateway, quick_polls, caplog):
    fake = gateway(COLD, time_scale=600.0)
    with Pool([over(fake, limits=Limits(concurrency=64))]) as pool:
        assert await answers(pool, 300) == [None] * 300
    record = fake.record().models["sophia/openai/gpt-oss-120b"]
    assert record.wakeups == 1
    assert record.arrived == 301, "one request to wake it, and each of the others once"
    assert record.served >= 300
    assert fake.now > 600.0


async def test_a_run_shows_what_it_waits_for(gateway, quick_polls, monkeypatch):
    monkeypatch.setattr(module, "_QUICK_SECONDS", 0.01)
    fake = gateway(COLD, time_scale=100.0)
    with Pool([over(fake)]) as pool:
        graph = build(pool, item_deadline=1.0)
        events = [
            event
            async for event in graph.astream({"molecules": molecules(2)}, stream_mode="custom")
            if event["type"] == "hpc_fanout.progress"
        ]
    waits = [event["waiting"] for event in events if "waiting" in event]
    assert any("sophia is queued (job 101.sophia-pbs-01), starts about" in each for each in waits)
    assert any("sophia is starting (job 101" in each for each in waits)
    assert "waiting" not in events[-1]
    assert events[-1]["ok"] == 2


async def test_a_model_that_somebody_else_has_woken_is_waited_for(gateway, quick_polls):
    fake = gateway(COLD, time_scale=600.0)
    with Pool([over(fake)]) as one, Pool([over(fake)]) as other:
        found = await asyncio.gather(answers(one, 20), answers(other, 20))
    assert found == [[None] * 20] * 2
    assert fake.record().models["sophia/openai/gpt-oss-120b"].wakeups == 1


async def test_a_model_that_is_not_ready_though_its_job_runs_is_waited_for(gateway, quick_polls):
    """As after somebody else's wake-up; what the gateway tells of jobs may be a minute old."""
    fake = gateway(faults=[Fault("not_ready", route="inference", times=20)])
    with Pool(over(fake, limits=Limits(concurrency=4))) as pool:
        assert await answers(pool, 40) == [None] * 40
    assert fake.record().reasons["not_ready"] == 20


@pytest.mark.parametrize("route", ["list-endpoints", "jobs"])
async def test_a_question_whose_answer_is_lost_is_asked_again(gateway, monkeypatch, route):
    monkeypatch.setattr(http, "_CONTROL_SECONDS", 0.3)
    exchange, asked = http.HttpClient.exchange, []

    async def lossy(client, method, url, data=None):
        if url.name == route:
            asked.append(url)
            if len(asked) == 1:
                await asyncio.Event().wait()
        return await exchange(client, method, url, data)

    monkeypatch.setattr(http.HttpClient, "exchange", lossy)
    with Pool(over(gateway())) as pool:
        assert await answers(pool, 10) == [None] * 10
    assert len(asked) == 2


async def test_a_model_that_is_offline_is_not_waited_for(gateway, quick_polls):
    fake = gateway(Cluster("sophia", "vllm", (Model("openai/gpt-oss-120b", state="offline"),)))
    with Pool([over(fake)]) as pool:
        (failure,) = await answers(pool, 1)
    assert failure.kind == "cold"
    assert "offline" in failure.message


async def test_a_token_that_ends_in_the_middle_is_renewed_once(gateway):
    fake = gateway(latency=0.02)
    issued = itertools.count(1)

    def login():
        login.calls = next(issued)
        return fake.token()

    with Pool([over(fake, token=login, limits=Limits(concurrency=64))]) as pool:
        asking = asyncio.create_task(answers(pool, 1_000))
        await fake.until(lambda record: record.served > 300)
        fake.expire_tokens()
        assert await asking == [None] * 1_000
    assert login.calls == 2


async def test_another_cluster_takes_over_in_maintenance(gateway):
    fake = gateway(latency=0.02)
    clusters = ("sophia", "metis")
    token = fake.token()
    lanes = [over(fake, each, token=token, limits=Limits(concurrency=16)) for each in clusters]
    with Pool(lanes) as pool:
        asking = asyncio.create_task(answers(pool, 600))
        await fake.until(lambda record: record.served > 100)
        fake.set_maintenance("sophia")
        assert await asking == [None] * 600
    record = fake.record().models
    assert record["metis/gpt-oss-120b"].served > 300


async def test_all_lanes_of_a_gateway_share_its_rate_of_requests(gateway):
    fake = gateway(quotas=Quotas(user_tokens=None, model_tokens=None))
    token = fake.token()
    lanes = [over(fake, each, token=token) for each in ("sophia", "metis", "minerva")]
    with Pool(lanes) as pool:
        assert await answers(pool, 3) == [None] * 3
        await asyncio.sleep(1.0)  # the probes' requests count, too, and are over then
        before = fake.record().users["alice"].throttled
        assert await answers(pool, 40) == [None] * 40
    refused = fake.record().users["alice"].throttled - before
    assert refused <= 4, "three lanes of 10 a second each would have 80 refused"


async def test_pools_of_one_user_share_the_rate_of_requests(gateway):
    fake = gateway(quotas=Quotas(user_tokens=None, model_tokens=None))
    mine, theirs = fake.token("alice"), fake.token("bob")
    with (
        Pool(over(fake, token=mine)) as one,
        Pool(over(fake, "metis", token=mine)) as two,
        Pool(over(fake, "minerva", token=theirs)) as other,
    ):
        asked = [answers(pool, 25) for pool in (one, two, other)]
        assert await asyncio.gather(*asked) == [[None] * 25] * 3
    assert fake.record().reasons["requests"] <= 15, "what lanes want to know counts, too"


async def test_what_the_lanes_of_a_gateway_want_to_know_is_asked_once(gateway):
    fake = gateway()
    token = fake.token()
    models = (GPT, "gpt-oss-20b")
    with Pool([over(fake, model=each, token=token, name=each) for each in models]) as pool:
        await asyncio.gather(*(pool.ask(replaced) for replaced in map(_of, models)))
    probes = fake.record().probes
    assert (probes["list-endpoints"], probes["jobs"], probes["models"]) == (1, 1, 1)


def _of(model):
    return Request(model, model, {"messages": [{"role": "user", "content": "x"}]}, 1, 8)
