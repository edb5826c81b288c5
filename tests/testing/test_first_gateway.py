"""FirstFake, v1: each route and each error as a client sees it."""

from __future__ import annotations

import asyncio
import io
import pickle
from collections.abc import AsyncIterator, Callable

import aiohttp
import orjson
import pytest
from first_client import COLD, HOT, Client, content

from langgraph_hpc_fanout.testing import FirstFake
from langgraph_hpc_fanout.testing.first import Cluster, Fault, Model, Quotas, Times
from langgraph_hpc_fanout.testing.first.events import failed
from langgraph_hpc_fanout.testing.first.faults import REJECTIONS
from langgraph_hpc_fanout.testing.first.model import embedding
from langgraph_hpc_fanout.testing.fleet import FakeFleet, echo
from langgraph_hpc_fanout.testing.fleet import Fault as FleetFault

ClientFactory = Callable[..., Client]
LAVISH = Quotas(requests=None, user_tokens=None, model_tokens=None)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


@pytest.fixture
def client(http, first_fake) -> ClientFactory:
    """A client of a new fake whose clock stands still, unless it is told otherwise."""

    def make(*clusters: Cluster, **options) -> Client:
        options = {"time_scale": 0.0, "quotas": LAVISH, **options}
        return Client(http, first_fake(clusters or None, **options))

    return make


# What the gateway tells about itself


async def test_health_and_status_need_no_token(client):
    alice = client()
    alice.fake.set_maintenance("metis")
    alice.token = ""
    assert await alice.get("/health") == (200, {"status": "ok"})
    assert await alice.get("/status") == (200, {"sophia": True, "metis": False, "minerva": True})


async def test_whoami_tells_who_the_token_belongs_to(client):
    status, body = await client().get("/whoami")
    assert (status, body["username"]) == (200, "alice@anl.gov")


async def test_list_endpoints_names_clusters_frameworks_models_and_endpoints(client):
    status, body = await client().get("/list-endpoints")
    assert status == 200
    assert body["clusters"]["metis"] == {
        "base_url": "/resource_server/metis",
        "frameworks": {
            "api": {
                "models": ["Llama-4-Maverick-17B-128E-Instruct", "gpt-oss-120b"],
                "endpoints": ["/v1/chat/completions"],
            }
        },
    }
    assert set(body["clusters"]["sophia"]["frameworks"]) == {"vllm"}


async def test_models_tell_their_limits_and_context_windows(client):
    status, cards = await client(quotas=Quotas(user_tokens=500)).get("/sophia/models")
    card = next(each for each in cards if each["id"] == HOT)
    assert status == 200
    assert card["rate_limit_token_per_minute"] == 100_000
    assert card["rate_limit_token_per_minute_per_user"] == 500
    assert card["capabilities"]["context_window_tokens"] == 131_072
    assert (card["cluster"], card["framework"], card["object"]) == ("sophia", "vllm", "model")


async def test_models_without_limits_tell_none_and_may_be_asked_for_singly(client):
    alice = client()
    status, cards = await alice.get("/sophia/models", params={"model_id": COLD})
    assert (status, [card["id"] for card in cards]) == (200, [COLD])
    assert "rate_limit_token_per_minute" not in cards[0]
    status, body = await alice.get("/sophia/models?model_id=none")
    assert (status, body["error"]["code"]) == (404, "endpoint_not_found")


@pytest.mark.parametrize("path", ["/polaris/models", "/polaris/jobs"])
async def test_a_cluster_that_there_is_not(client, path):
    status, body = await client().get(path)
    assert (status, body["error"]["code"]) == (404, "cluster_not_found")


@pytest.mark.parametrize("path", ["/nothing", "/sophia/nothing", "/sophia/vllm/v1/nothing"])
async def test_a_path_that_there_is_not(client, path):
    assert await client().get(path) == (404, {"detail": "Not Found"})


async def test_a_probe_must_be_a_get(client):
    assert (await client().post("/whoami", {}))[0] == 405


# Answers


async def test_every_prompt_gets_its_own_answer_with_the_extra_keys_of_globus(client):
    alice = client()
    prompts = [f"molecule {number}" for number in range(50)]
    answers = await asyncio.gather(*(alice.chat(prompt) for prompt in prompts))
    assert [content(body) for _, body in answers] == [echo(prompt) for prompt in prompts]
    assert all("response_time" in body for _, body in answers)
    assert all("throughput_tokens_per_second" in body for _, body in answers)
    record = alice.fake.record()
    model = record.models[f"sophia/{HOT}"]
    assert (record.served, model.served, model.tasks, model.wasted) == (50, 50, 50, 0)
    assert sorted(row.prompt for row in record.requests) == sorted(prompts)
    assert model.tokens == sum(body["usage"]["total_tokens"] for _, body in answers)


async def test_direct_api_answers_without_the_extra_keys(client):
    status, body = await client().chat(model="gpt-oss-120b", at="/metis/api")
    assert status == 200
    assert body["model"] == "gpt-oss-120b"
    assert "response_time" not in body


async def test_text_completions_and_embeddings(client):
    alice = client()
    _, body = await alice.post("/sophia/vllm/v1/completions", {"model": HOT, "prompt": "CCO"})
    assert body["choices"][0]["text"] == echo("CCO")
    assert body["object"] == "text_completion"
    wanted = {"model": HOT, "input": ["CCO", "CCN"]}
    _, body = await alice.post("/sophia/vllm/v1/embeddings", wanted)
    assert [each["embedding"] for each in body["data"]] == [embedding("CCO"), embedding("CCN")]
    assert alice.fake.record().served == 2


async def test_latency_passes_on_the_fakes_clock(client):
    alice = client(latency=20.0)
    asked = asyncio.ensure_future(alice.chat())
    await alice.fake.until(lambda record: record.models[f"sophia/{HOT}"].in_flight == 1)
    alice.fake.advance(19.9)
    assert not asked.done()
    alice.fake.advance(0.2)
    status, body = await asked
    assert (status, body["response_time"]) == (200, 20.0)


async def test_a_model_works_on_no_more_than_its_capacity(client):
    cluster = Cluster("sophia", "vllm", (Model("m", capacity=2),))
    alice = client(cluster, latency=1.0)
    asked = [asyncio.ensure_future(alice.chat(f"{n}", model="m")) for n in range(5)]
    await alice.fake.until(lambda record: record.models["sophia/m"].in_flight == 5)
    for done in (2, 4, 5):
        alice.fake.advance(1.0)
        assert alice.fake.record().served == done
    assert [status for status, _ in await asyncio.gather(*asked)] == [200] * 5


async def test_answers_may_come_from_a_real_server(client):
    with FakeFleet(models=("tiny",)) as fleet:
        alice = client(backend=fleet.urls[0])
        status, body = await alice.chat("from behind")
        assert (status, content(body), body["model"]) == (200, echo("from behind"), HOT)
        _, events = await alice.stream("streamed")
        said = "".join(each["choices"][0]["delta"].get("content") or "" for each in events[:-1])
        assert said == echo("streamed")
        assert fleet.record().statuses == {200: 2}
    status, body = await alice.chat("nobody there")
    assert (status, body["error"]["code"]) == (500, "internal_endpoint_error")
    assert "status code: 502" in body["error"]["message"]


async def test_a_backend_that_answers_a_page_is_a_bad_gateway(client):
    with FakeFleet(faults=(FleetFault("html_200"),)) as fleet:
        status, body = await client(backend=fleet.urls[0]).chat()
    assert status == 500
    assert "status code: 502" in body["error"]["message"]
    assert "answers no JSON" in body["error"]["message"]


# What is asked


RESERVED = [
    "api_port",
    "cache_salt",
    "openai_endpoint",
    "stream_task_id",
    "stream_task_token",
    "streaming_server_host",
    "streaming_server_port",
    "streaming_server_protocol",
]


@pytest.mark.parametrize(
    ("more", "where"),
    [({key: 1}, key) for key in RESERVED]
    + [
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"messages": "hello"}, "messages"),
    ],
)
async def test_the_gateway_checks_what_it_reads(client, more, where):
    alice = client()
    body = {"model": HOT, "messages": [{"role": "user", "content": "x"}], **more}
    status, body = await alice.post("/sophia/vllm/v1/chat/completions", body)
    assert (status, body["error"]["code"]) == (422, "invalid_request")
    assert [each["loc"][-1] for each in body["error"]["info"]["errors"]] == [where]
    assert alice.fake.record().refused == {"invalid": 1}


async def test_the_same_key_deeper_down_is_nobodys_business(client):
    status, _ = await client().chat(extra={"api_port": 1})
    assert status == 200


async def test_a_body_that_is_no_json(client):
    alice = client()
    url = f"{alice.fake.base_url('sophia')}/chat/completions"
    async with alice.http.post(url, data=b"{", headers=alice.headers) as got:
        assert (got.status, await got.json()) == (400, {"detail": "Cannot parse request body"})


@pytest.mark.parametrize(
    ("at", "model", "status", "code"),
    [
        ("/polaris/vllm", HOT, 404, "cluster_not_found"),
        ("/sophia/api", HOT, 400, "unsupported_framework"),
        ("/sophia/vllm", "gpt-oss-120b", 404, "endpoint_not_found"),
    ],
)
async def test_a_model_that_is_not_there(client, at, model, status, code):
    got, body = await client().chat(model=model, at=at)
    assert (got, body["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/metis/api/v1/completions", {"model": "gpt-oss-120b", "prompt": "x"}),
        ("/sophia/vllm/v1/responses", {"model": HOT, "input": "x"}),
    ],
)
async def test_an_endpoint_that_a_cluster_does_not_serve(client, path, body):
    status, body = await client().post(path, body)
    assert (status, body["error"]["code"]) == (400, "unsupported_endpoint")


async def test_globus_compute_takes_ten_megabytes(client):
    alice = client()
    url = f"{alice.fake.base_url('sophia')}/chat/completions"
    for size, expected in ((10_000_000, 500), (20_000_001, 413)):
        message = {"role": "user", "content": "x" * size}
        body = io.BytesIO(orjson.dumps({"model": HOT, "messages": [message]}))
        async with alice.http.post(url, data=body, headers=alice.headers) as got:
            assert got.status == expected
            if expected == 500:
                assert (await got.json())["error"]["code"] == "internal_error"
    record = alice.fake.record()
    assert record.reasons == {"too_large": 2}


async def test_what_vllm_refuses_arrives_as_500_through_globus_compute(client):
    small = Model("small", context=100)
    alice = client(
        Cluster("sophia", "vllm", (small,)), Cluster("metis", "api", (small,), door="direct")
    )
    status, body = await alice.chat("word " * 500, model="small")
    assert (status, body["error"]["code"]) == (500, "internal_endpoint_error")
    assert "API request failed with status code: 400" in body["error"]["message"]
    assert "maximum context length" in body["error"]["message"]
    status, body = await alice.chat("word " * 500, model="small", at="/metis/api")
    assert status == 400
    assert body["error"]["message"].startswith("Upstream endpoint returned 400: b'")
    assert alice.fake.record().reasons == {"upstream": 2}


# Who asks


async def test_without_a_token(client):
    alice = client()
    url = f"{alice.fake.base_url('sophia')}/chat/completions"
    async with alice.http.post(url, json={}) as got:
        body = await got.json()
    assert got.status == 401
    assert body["detail"].startswith("Error: Missing")


async def test_an_expired_token_and_a_new_one(client):
    alice = client(token_life=48 * 3600.0)
    assert (await alice.chat())[0] == 200
    alice.fake.advance(48 * 3600.0)
    status, body = await alice.chat()
    assert (status, body["error"]["code"]) == (401, "unauthorized")
    assert body["error"]["message"] == "Access token expired."
    alice.token = alice.fake.token()
    assert (await alice.chat())[0] == 200
    alice.fake.expire_tokens()
    assert (await alice.get("/whoami"))[0] == 401
    record = alice.fake.record()
    alice.fake.token()
    users = alice.fake.record().users
    assert (users["alice"].tokens_issued, users["alice"].tokens_seen) == (3, 2)
    assert record.refused == {"unauthorized": 1}


async def test_policy_wants_a_log_in_every_thirty_days(client):
    alice = client()
    alice.fake.advance(30 * 86_400.0)
    alice.token = alice.fake.token()
    status, body = await alice.chat()
    assert status == 401
    assert "internal policies" in body["error"]["message"]
    alice.fake.log_in()
    assert (await alice.chat())[0] == 200
    alice.fake.log_out()
    assert (await alice.chat())[0] == 401


async def test_a_model_that_is_not_for_everybody(client):
    mine = Model("mine", users=frozenset({"bob"}))
    alice = client(Cluster("sophia", "vllm", (mine, Model("ours"))))
    status, body = await alice.chat(model="mine")
    assert (status, body["error"]["code"]) == (401, "unauthorized")
    assert "Permission denied to endpoint sophia-vllm-mine" in body["error"]["message"]
    _, listed = await alice.get("/list-endpoints")
    assert listed["clusters"]["sophia"]["frameworks"]["vllm"]["models"] == ["ours"]
    bob = Client(alice.http, alice.fake, "bob")
    assert (await bob.chat(model="mine"))[0] == 200
    assert alice.fake.record().models["sophia/mine"].refused == {"not_permitted": 1}


# How often


async def test_a_user_is_throttled_over_all_routes_without_retry_after(client):
    alice = client(quotas=Quotas())
    for _ in range(5):
        assert (await alice.chat())[0] == 200
        assert (await alice.get("/whoami"))[0] == 200
    url = f"{alice.fake.url}/whoami"
    async with alice.http.get(url, headers=alice.headers) as got:
        assert (got.status, await got.json()) == (429, {"detail": "Too many requests."})
        assert "Retry-After" not in got.headers
    assert (await alice.chat())[0] == 429
    assert (await Client(alice.http, alice.fake, "bob").chat())[0] == 200
    alice.fake.advance(1.0)
    assert (await alice.chat())[0] == 200
    record = alice.fake.record()
    assert record.refused == {"requests": 1}
    user = record.users["alice"]
    assert (user.requests, user.throttled, user.peak_per_second) == (13, 2, 12)


async def test_tokens_of_a_user_are_counted_after_the_answer_in_windows_of_a_minute(client):
    alice = client(quotas=Quotas(requests=None, user_tokens=100), answer="a" * 320)
    assert (await alice.chat())[0] == 200
    assert (await alice.chat())[0] == 200
    status, body = await alice.chat()
    assert (status, body["error"]["code"]) == (429, "too_many_requests")
    used = body["error"]["info"]["user_model_usage"]
    assert used == body["error"]["info"]["global_model_usage"] > 100
    assert (await alice.chat(model="openai/gpt-oss-20b"))[0] == 200
    assert (await Client(alice.http, alice.fake, "bob").chat())[0] == 200
    alice.fake.advance(60.0)
    assert (await alice.chat())[0] == 200
    model = alice.fake.record().models[f"sophia/{HOT}"]
    assert model.refused == {"tokens": 1}
    assert model.user_windows["alice"] == (used, used // 2)


async def test_tokens_of_a_model_are_shared_by_all_users(client):
    quotas = Quotas(requests=None, user_tokens=None, model_tokens=50)
    alice = client(quotas=quotas, answer="a" * 400)
    assert (await alice.chat())[0] == 200
    assert (await Client(alice.http, alice.fake, "bob").chat())[0] == 429


async def test_requests_in_flight_pass_before_any_token_is_counted(client):
    alice = client(quotas=Quotas(requests=None, user_tokens=1), latency=1.0)
    asked = [asyncio.ensure_future(alice.chat(f"{n}")) for n in range(20)]
    await alice.fake.until(lambda record: record.models[f"sophia/{HOT}"].in_flight == 20)
    alice.fake.advance(1.0)
    assert {status for status, _ in await asyncio.gather(*asked)} == {200}
    assert (await alice.chat())[0] == 429


async def test_nginx_counts_addresses_where_it_is_told_to(client):
    alice = client(quotas=Quotas(requests=None, address="50/s", address_burst=2))
    statuses = [(await alice.get("/health"))[0] for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    status, body = await alice.chat()
    assert (status, body["error"]) == (429, "Rate limit exceeded")
    assert alice.fake.record().refused == {"address": 1}
    alice.fake.advance(0.02)
    assert (await alice.get("/health"))[0] == 200


# Trouble


@pytest.mark.parametrize("kind", sorted(REJECTIONS))
async def test_every_rejection_can_be_injected(client, kind):
    alice = client()
    alice.fake.inject(Fault(kind, times=1))
    status, body = await alice.chat()
    assert status >= 400
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        assert {"code", "message"} <= set(body["error"])
    assert (await alice.chat())[0] == 200
    assert alice.fake.record().models[f"sophia/{HOT}"].refused == {kind: 1}


async def test_the_shapes_of_errors(client):
    alice = client()
    shapes = {}
    for kind in ("unauthorized_detail", "nginx_429", "nginx_429_html", "bare_500", "html_503"):
        alice.fake.inject(Fault(kind, times=1))
        shapes[kind] = await alice.chat()
    assert shapes["unauthorized_detail"] == (401, {"detail": "Unauthorized"})
    assert shapes["nginx_429"][1]["error"] == "Rate limit exceeded"
    assert shapes["nginx_429_html"][1].startswith("<html>")
    assert shapes["bare_500"] == (500, "Error: Something went wrong.")
    assert shapes["html_503"][1].startswith("<html>")


@pytest.mark.parametrize("status", [400, 404, 500, 503])
async def test_a_backends_status_is_hidden_by_globus_and_passed_on_by_direct_api(client, status):
    alice = client(faults=(Fault("upstream", status=status),))
    got, body = await alice.chat()
    assert got == 500
    assert f"API request failed with status code: {status}" in body["error"]["message"]
    got, body = await alice.chat(model="gpt-oss-120b", at="/metis/api")
    assert got == status


async def test_faults_strike_by_share_cluster_model_and_text(client):
    alice = client(
        faults=(
            Fault("internal_error", rate=0.3, cluster="metis"),
            Fault("bare_500", contains="benzene"),
            Fault("html_503", model="openai/gpt-oss-20b"),
        )
    )
    prompts = [f"{n}" for n in range(100)]
    hit = [(await alice.chat(p, model="gpt-oss-120b", at="/metis/api"))[0] for p in prompts]
    assert 15 < hit.count(500) < 45
    assert [(await alice.chat(p))[0] for p in prompts[:20]] == [200] * 20
    assert (await alice.chat("is benzene soluble?"))[0] == 500
    assert (await alice.chat(model="openai/gpt-oss-20b"))[0] == 503
    alice.fake.clear_faults()
    assert (await alice.chat("is benzene soluble?"))[0] == 200


async def test_faults_strike_other_routes(client):
    alice = client(faults=(Fault("html_503", route="jobs", cluster="sophia", times=1),))
    async with alice.http.get(f"{alice.fake.url}/sophia/jobs", headers=alice.headers) as got:
        assert (got.status, got.content_type) == (503, "text/html")
    assert (await alice.get("/sophia/jobs"))[0] == 200
    assert (await alice.get("/whoami"))[0] == 200
    assert alice.fake.record().probes == {"jobs": 2, "whoami": 1}


async def test_a_slow_answer_a_hanging_one_and_a_closed_connection(client):
    alice = client(faults=(Fault("disconnect", contains="gone"), Fault("hang", contains="hang")))
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await alice.chat("gone")
    hanging = asyncio.ensure_future(alice.chat("hang"))
    await alice.fake.until(lambda record: record.models[f"sophia/{HOT}"].in_flight == 1)
    alice.fake.advance(1000.0)
    assert not hanging.done()
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)
    record = await alice.fake.until(lambda record: len(record.requests) == 2)
    assert [row.reason for row in record.requests] == ["disconnect", "left"]
    assert record.requests[1].closed_early
    alice.fake.inject(Fault("slow", seconds=5.0))
    slow = asyncio.ensure_future(alice.chat("slow"))
    await alice.fake.until(lambda record: record.models[f"sophia/{HOT}"].in_flight == 1)
    alice.fake.advance(5.0)
    assert (await slow)[0] == 200


@pytest.mark.parametrize("settings", [{"status": 400}, {"seconds": 1.0}, {"rate": 2.0}])
def test_faults_with_settings_of_no_meaning_are_refused(settings):
    with pytest.raises(ValueError, match="internal_error"):
        Fault("internal_error", **settings)


def test_unknown_faults_are_refused():
    with pytest.raises(ValueError, match="is unknown"):
        Fault("nonsense")
    with pytest.raises(ValueError, match="needs status"):
        Fault("upstream")
    with pytest.raises(ValueError, match="strikes batches"):
        Fault("batch_fails")


@pytest.mark.parametrize(
    ("kind", "shape"), [("notice", "cluster_under_maintenance"), ("detail", ""), ("html", "")]
)
async def test_a_cluster_under_maintenance(client, kind, shape):
    alice = client()
    alice.fake.set_maintenance("sophia", kind)
    status, body = await alice.chat()
    assert status == 503
    if kind == "notice":
        assert body["error"]["code"] == shape
    elif kind == "detail":
        assert body == {"detail": "Service is temporarily down for maintenance."}
    else:
        assert body.startswith("<html>")
    alice.fake.set_maintenance("sophia", None)
    assert (await alice.chat())[0] == 200
    assert alice.fake.record().refused == {"maintenance": 1}


async def test_jobs_of_a_cluster_under_maintenance_are_stopped(client):
    alice = client()
    alice.fake.set_maintenance("sophia")
    _, jobs = await alice.get("/sophia/jobs")
    assert jobs["stopped"][0]["Models"] == HOT
    assert jobs["running"] == []


@pytest.mark.parametrize("kind", ["detail", "html"])
async def test_nginx_closes_all_of_a_cluster_and_asks_for_no_token(client, kind):
    alice = client()
    alice.fake.set_maintenance("sophia", kind)
    alice.token = "nonsense"
    assert [(await alice.get(f"/sophia/{what}"))[0] for what in ("jobs", "models")] == [503, 503]
    assert (await alice.post("/sophia/vllm/v1/batches", {}))[0] == 503
    assert (await alice.chat())[0] == 503
    assert (await alice.chat(at="/minerva/api"))[0] == 401
    record = alice.fake.record()
    assert record.refused == {"maintenance": 1, "unauthorized": 1}
    assert record.users["alice"].requests == 0


async def test_offline_models(client):
    alice = client()
    status, body = await alice.chat(model="Llama-4-Maverick-17B-128E-Instruct", at="/metis/api")
    assert status == 503
    assert body["error"]["message"].endswith("is not currently live on Metis.")
    alice.fake.set_state("minerva", HOT, "offline")
    alice.fake.set_state("sophia", HOT, "offline")
    for at in ("/minerva/api", "/sophia/vllm"):
        status, body = await alice.chat(at=at)
        assert status == 503
        assert body["error"]["message"].endswith("is offline.")
    _, jobs = await alice.get("/sophia/jobs")
    assert HOT not in {job["Models"] for job in jobs["running"]}


async def test_a_direct_backend_that_takes_too_long(client):
    alice = client(latency=121.0)
    asked = asyncio.ensure_future(alice.chat(model="gpt-oss-120b", at="/metis/api"))
    await alice.fake.until(lambda record: record.models["metis/gpt-oss-120b"].in_flight == 1)
    alice.fake.advance(120.0)
    status, body = await asked
    assert (status, body["error"]["info"]) == (504, {"timeout": 120})


# The fake itself


def test_it_is_used_with_with_and_needs_to_run():
    fake = FirstFake()
    with pytest.raises(RuntimeError, match="not running"):
        fake.record()
    with fake:
        with pytest.raises(RuntimeError, match="running already"):
            fake.start()
        assert fake.record().served == 0
        with pytest.raises(TimeoutError, match="0 requests were served"):
            fake.wait(lambda record: record.served == 1, timeout=0.0)
    fake.stop()


@pytest.mark.parametrize(
    "options",
    [{"time_scale": -1.0}, {"answer": "a", "backend": "http://127.0.0.1:1/v1"}],
)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="FirstFake"):
        FirstFake(**options)


def test_clusters_that_make_no_sense_are_refused():
    one = Cluster("c", "f", (Model("m"),))
    with pytest.raises(ValueError, match="one name"), FirstFake((one, one)):
        pass
    with pytest.raises(ValueError, match="none of"):
        Cluster("c", "f", (), endpoints=("images",))
    with pytest.raises(ValueError, match="batch"):
        Cluster("c", "f", (Model("m", batch=True),), door="direct")


async def test_names_that_there_are_not(client):
    fake = client().fake
    with pytest.raises(ValueError, match="no model 'x' on 'sophia'"):
        fake.set_state("sophia", "x", "hot")
    with pytest.raises(ValueError, match="no cluster 'polaris'"):
        fake.set_maintenance("polaris")
    with pytest.raises(ValueError, match="no cluster 'polaris'"):
        fake.base_url("polaris")


async def test_no_token_is_in_a_record(client):
    alice = client()
    await alice.chat()
    record = alice.fake.record()
    assert alice.token not in repr(record)
    assert alice.token.encode() not in pickle.dumps(record)


async def test_counts_keep_no_requests(client):
    alice = client(record="counts")
    await alice.chat()
    record = alice.fake.record()
    assert record.served == 1
    with pytest.raises(ValueError, match="record='full'"):
        _ = record.requests


async def test_it_stops_with_requests_in_flight(http):
    async with FirstFake(time_scale=0.0, latency=1.0) as fake:
        alice = Client(http, fake)
        asked = asyncio.ensure_future(alice.chat())
        await fake.until(lambda record: record.models[f"sophia/{HOT}"].in_flight == 1)
    with pytest.raises(aiohttp.ClientError):
        await asked


async def test_it_may_run_in_a_process_of_its_own(client):
    alice = client(process=True, latency=10.0)
    alice.fake.inject(Fault("throttled", times=1))
    assert (await alice.chat())[0] == 429
    asked = asyncio.ensure_future(alice.chat("CCO"))
    await alice.fake.until(lambda record: record.models[f"sophia/{HOT}"].in_flight == 1)
    alice.fake.advance(10.0)
    status, body = await asked
    assert (status, content(body)) == (200, echo("CCO"))
    record = alice.fake.record()
    assert record.models[f"sophia/{HOT}"].refused == {"throttled": 1}
    assert record.users["alice"].tokens_issued == 1
    with pytest.raises(ValueError, match="no cluster"):
        alice.fake.set_maintenance("polaris")


def test_answer_rules_of_a_process_must_be_importable():
    with pytest.raises(ValueError, match=r"process=True.*importable module"):
        FirstFake(answer=lambda body: "x", process=True).start()


async def test_a_scaled_clock_runs_by_itself(client):
    alice = client(time_scale=1000.0, latency=30.0)
    status, body = await alice.chat()
    assert (status, body["response_time"]) == (200, 30.0)
    assert alice.fake.now >= 30.0


# Streams


async def test_a_stream_says_the_answer_in_pieces(client):
    alice = client()
    _, events = await alice.stream("CCO", stream_options={"include_usage": True})
    assert events[-1] == "[DONE]"
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    choices = [choice for each in events[:-1] for choice in each["choices"]]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == echo("CCO")
    assert choices[-1]["finish_reason"] == "stop"
    assert events[-2]["usage"]["total_tokens"] > 0
    record = alice.fake.record()
    assert record.served == 1
    assert record.requests[0].stream
    assert record.requests[0].tokens == events[-2]["usage"]["total_tokens"]


async def test_pieces_of_a_stream_are_spread_over_its_time(client):
    alice = client(latency=8.0)
    events = alice.events("CCO", at="/minerva/api")
    first = asyncio.ensure_future(anext(events))
    await alice.fake.until(lambda record: record.models[f"minerva/{HOT}"].in_flight == 1)
    alice.fake.advance(2.0)
    assert (await first)["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert alice.fake.record().served == 0
    alice.fake.advance(6.0)
    assert [event async for event in events][-1] == "[DONE]"
    assert alice.fake.record().served == 1


async def test_text_completions_stream_too(client):
    alice = client()
    body = {"model": HOT, "prompt": "CCO", "stream": True}
    url = f"{alice.fake.base_url('sophia')}/completions"
    async with alice.http.post(url, json=body, headers=alice.headers) as got:
        lines = (await got.read()).split(b"\n\n")
    events = [orjson.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
    assert "".join(each["choices"][0]["text"] for each in events) == echo("CCO")


async def test_a_globus_stream_may_end_early_as_if_it_were_complete(client):
    alice = client(faults=(Fault("stream_cut"),))
    reading = asyncio.ensure_future(alice.stream("CCO"))
    await alice.fake.until(lambda record: record.models[f"sophia/{HOT}"].in_flight == 1)
    alice.fake.advance(5.0)
    _, events = await reading
    assert events[-1] == "[DONE]"
    assert all(each["choices"][0]["finish_reason"] is None for each in events[:-1])
    assert alice.fake.record().models[f"sophia/{HOT}"].refused == {"stream_cut": 1}


async def test_a_globus_stream_without_a_chunk_ends_with_504_in_its_text(client):
    alice = client(faults=(Fault("stream_silent"),))
    reading = asyncio.ensure_future(alice.stream("CCO"))
    await alice.fake.until(lambda record: record.models[f"sophia/{HOT}"].in_flight == 1)
    alice.fake.advance(30.0)
    _, events = await reading
    assert events[0]["code"] == 504
    assert events[-1] == "[DONE]"


async def test_errors_of_streams_come_with_status_200(client):
    alice = client(faults=(Fault("stream_error", cluster="minerva"), Fault("upstream", status=400)))
    _, events = await alice.stream("CCO", at="/minerva/api")
    assert events[0]["choices"][0]["delta"]["content"].startswith("\n\n[ERROR] ")
    assert "Could not send stream API call" in events[0]["choices"][0]["delta"]["content"]
    assert events[0]["choices"][0]["finish_reason"] == "stop"
    _, events = await alice.stream("CCO")
    assert (events[0]["object"], events[0]["code"]) == ("error", 500)
    assert "context" not in events[0]["message"]
    assert events[-1] == "[DONE]"


def test_a_globus_stream_passes_on_errors_in_vllms_earlier_form_only():
    earlier = {"object": "error", "message": "too long", "type": "BadRequestError", "code": 400}
    assert failed(orjson.dumps(earlier)) == b"data: " + orjson.dumps(earlier) + b"\n\n"
    for body in (orjson.dumps({"error": earlier}), b"<html>", b"[]"):
        assert orjson.loads(failed(body)[6:])["code"] == 500


async def test_a_globus_stream_of_five_minutes_breaks_off_without_a_word(client):
    alice = client(latency=400.0, times=Times(next_chunk=100.0, first_chunk=100.0))
    asked = {"direct": "/minerva/api", "globus": "/sophia/vllm"}
    reading = {
        name: asyncio.ensure_future(alice.stream("CCO is ethanol", at=at))
        for name, at in asked.items()
    }
    await alice.fake.until(lambda record: record.peak_in_flight == 2)
    alice.fake.advance(299.9)
    assert not reading["globus"].done()
    alice.fake.advance(0.1)
    _, events = await reading["globus"]
    assert events
    assert events[-1] != "[DONE]"
    assert all(each["choices"][0]["finish_reason"] is None for each in events)
    alice.fake.advance(100.0)
    assert (await reading["direct"])[1][-1] == "[DONE]"
    models = alice.fake.record().models
    assert models[f"sophia/{HOT}"].refused == {"stream_cut": 1}
    assert (models[f"sophia/{HOT}"].wasted, models[f"minerva/{HOT}"].served) == (1, 1)


async def test_calls_of_tools_are_streamed(client):
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    alice = client(answer=lambda body: {"content": None, "tool_calls": [call]})
    _, events = await alice.stream("CCO")
    deltas = [each["choices"][0] for each in events[:-1]]
    assert deltas[1]["delta"]["tool_calls"] == [{"index": 0, **call}]
    assert deltas[-1]["finish_reason"] == "tool_calls"


async def test_a_direct_stream_that_takes_too_long_to_begin(client):
    cluster = Cluster("metis", "api", (Model("m", capacity=1),), door="direct")
    alice = client(cluster, latency=119.0)
    first = asyncio.ensure_future(alice.chat(model="m", at="/metis/api"))
    await alice.fake.until(lambda record: record.models["metis/m"].in_flight == 1)
    alice.fake.inject(Fault("slow", seconds=500.0))
    waiting = asyncio.ensure_future(alice.stream(model="m", at="/metis/api"))
    await alice.fake.until(lambda record: record.models["metis/m"].in_flight == 2)
    alice.fake.set_state("metis", "m", "offline")
    alice.fake.advance(120.0)
    assert (await first)[0] == 200
    _, events = await waiting
    [choice] = events[0]["choices"]
    assert choice["delta"]["content"].startswith("\n\n[ERROR] Error: Timeout calling stream API")
    assert (choice["finish_reason"], events[-1]) == ("stop", "[DONE]")
    assert alice.fake.record().models["metis/m"].refused == {"timeout": 1}


async def test_a_direct_stream_whose_pieces_are_too_far_apart(client):
    alice = client(latency=2000.0)
    reading = asyncio.ensure_future(alice.stream("CCO", at="/minerva/api"))
    await alice.fake.until(lambda record: record.models[f"minerva/{HOT}"].in_flight == 1)
    alice.fake.advance(119.0)
    assert not reading.done()
    alice.fake.advance(1.0)
    _, events = await reading
    assert "(timeout: 120)" in events[0]["choices"][0]["delta"]["content"]
    assert alice.fake.record().models[f"minerva/{HOT}"].tokens == 0


async def test_an_answer_rule_that_raises_is_told(client):
    def broken(body):
        raise KeyError("mine")

    status, body = await client(answer=broken).chat()
    assert status == 500
    assert "The answer rule raised KeyError" in body["error"]["message"]


async def test_bodies_that_are_no_objects(client):
    alice = client()
    for path in ("chat/completions", "embeddings", "batches"):
        assert (await alice.post(f"/sophia/vllm/v1/{path}", ["x"]))[0] == 422
    body = {"model": HOT, "input": "x", "stream": True}
    assert (await alice.post("/sophia/vllm/v1/embeddings", body))[0] == 422
    url = f"{alice.fake.base_url('sophia')}/batches"
    async with alice.http.post(url, data=b"{", headers=alice.headers) as got:
        assert got.status == 400
