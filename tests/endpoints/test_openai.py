"""OpenAIEndpoint: each answer as the dispatcher gets it, and no secret in any of them."""

from __future__ import annotations

import asyncio
import inspect
import re
import socket
import threading
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field

import orjson
import pytest
from tls import https_server

from langgraph_hpc_fanout import Endpoint, Health, Limits, OpenAIEndpoint, Request, Usage
from langgraph_hpc_fanout.endpoints import http as module
from langgraph_hpc_fanout.testing.fleet import FakeEndpoint, Fault, echo

SECRET = "sk-very-secret-0123456789"
PASSWORD = "hunter2"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
async def endpoint_at():
    """A factory of endpoints that are closed when the test ends."""
    made = []

    def make(url, **options):
        made.append(OpenAIEndpoint(url, **options))
        return made[-1]

    yield make
    for endpoint in made:
        await endpoint.close()


def question(prompt="hello", model="tiny", **body):
    messages = [{"role": "user", "content": prompt}]
    return Request(prompt, model, {"messages": messages, **body}, prompt_tokens=len(prompt))


async def ask(endpoint, *requests):
    """The replies to a bundle."""
    return [reply async for reply in endpoint.send(requests or (question(),))]


async def fails(endpoint, *requests):
    """The failure of the one request that was sent."""
    (reply,) = await ask(endpoint, *requests)
    assert (reply.body, reply.usage) == (None, None)
    assert reply.failure.endpoint == endpoint.name
    assert reply.failure.retryable == (reply.failure.kind not in ("permanent", "auth"))
    return reply.failure


def text(reply):
    assert reply.failure is None, reply.failure
    return reply.body["choices"][0]["message"]["content"]


# -- a server of our own words ----------------------------------------------------------------


@dataclass
class Got:
    """A request that has arrived."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def prompt(self):
        return orjson.loads(self.body)["messages"][-1]["content"] if self.body else ""


@dataclass
class RawServer:
    """Answers each request with the bytes that a function of it returns."""

    port: int = 0
    got: list[Got] = field(default_factory=list)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def url_with_user(self):
        return f"http://me:{PASSWORD}@127.0.0.1:{self.port}/v1"


@pytest.fixture
async def serve():
    """A function that starts a RawServer."""
    servers = []

    async def start(answer):
        raw = RawServer()

        async def handle(reader, writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *fields = head.strip().split("\r\n")
            headers = dict(each.lower().split(": ", 1) for each in fields)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            raw.got.append(Got(line, dict(each.split(": ", 1) for each in fields), body))
            answered = answer(raw.got[-1])
            writer.write(await answered if inspect.isawaitable(answered) else answered)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        raw.port = server.sockets[0].getsockname()[1]
        servers.append(server)
        return raw

    yield start
    for server in servers:
        server.close()
        await server.wait_closed()


def http(status, body=b"", **headers):
    body = body if isinstance(body, bytes) else orjson.dumps(body)
    fields = {"Content-Length": len(body), "Connection": "close", **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([f"HTTP/1.1 {status} Said", *lines, "\r\n"]).encode() + body


def completion(content="yes"):
    return {"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}


# -- names and URLs ---------------------------------------------------------------------------


def test_it_is_an_endpoint():
    assert isinstance(OpenAIEndpoint("http://127.0.0.1:8000/v1"), Endpoint)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://127.0.0.1:8000/v1", "127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/", "127.0.0.1:8000"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/chat/completions", "127.0.0.1:8000"),
        ("https://api.example.org/v1", "api.example.org"),
        ("https://api.example.org:8443/v1", "api.example.org:8443"),
        ("https://gate.example.org/sophia/vllm/v1", "gate.example.org/sophia/vllm"),
        (f"https://me:{PASSWORD}@api.example.org/v1?key={SECRET}", "api.example.org"),
    ],
)
def test_it_is_named_after_its_host_port_and_path(url, name):
    assert OpenAIEndpoint(url).name == name
    assert OpenAIEndpoint(url, name="mine").name == "mine"


def test_the_repr_shows_the_url_and_the_limits_but_no_secret():
    url = f"http://me:{PASSWORD}@127.0.0.1:8000/v1?key={SECRET}"
    endpoint = OpenAIEndpoint(url, limits=Limits(concurrency=8, requests="10/s"))
    shown = "OpenAIEndpoint('http://127.0.0.1:8000/v1', 8 at once, 10/s requests)"
    assert repr(endpoint) == str(endpoint) == shown
    assert SECRET not in repr(OpenAIEndpoint("http://127.0.0.1:8000/v1", api_key=SECRET))


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000/v1", "ftp://127.0.0.1/v1", "/v1", "localhost", "http:///v1"]
)
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ValueError, match=r"(?i)url"):
        OpenAIEndpoint(url)


def test_a_url_of_another_scheme_is_refused_without_its_user():
    with pytest.raises(ValueError, match="is no URL of a chat server") as caught:
        OpenAIEndpoint(f"ftp://me:{PASSWORD}@127.0.0.1/v1")
    assert PASSWORD not in str(caught.value)


def test_a_url_without_scheme_is_refused_without_its_user():
    with pytest.raises(ValueError, match="is no URL of a chat server") as caught:
        OpenAIEndpoint(f"me:{PASSWORD}@127.0.0.1:8000/v1")
    assert PASSWORD not in str(caught.value)


def test_a_user_in_the_url_and_a_key_are_one_too_many():
    with pytest.raises(ValueError, match="give one of the two") as caught:
        OpenAIEndpoint(f"http://me:{PASSWORD}@127.0.0.1/v1", api_key=SECRET)
    assert not {PASSWORD, SECRET, "me"} & set(re.split(r"\W", str(caught.value)))


# -- models -----------------------------------------------------------------------------------


async def test_models_are_discovered(fake_fleet, endpoint_at):
    fleet = fake_fleet(models=("tiny", "org/large"))
    endpoint = endpoint_at(fleet.urls[0])
    assert endpoint.models == {}
    assert await endpoint.probe() == Health(ok=True)
    assert endpoint.models == {"tiny": "tiny", "org/large": "org/large"}
    (reply,) = await ask(endpoint, question(model="org/large"))
    assert reply.body["model"] == "org/large"
    assert (fleet.record().probes, fleet.record().statuses) == (1, {200: 1})


async def test_discovery_follows_the_server(fake_fleet, endpoint_at):
    fleet = fake_fleet(models=("tiny",))
    endpoint = endpoint_at(fleet.urls[0])
    await endpoint.probe()
    fleet.change(0, models=("large",))
    assert (await endpoint.probe()).ok
    assert endpoint.models == {"large": "large"}


@pytest.mark.parametrize(
    ("models", "mapping"),
    [
        ({"logical": "org/tiny"}, {"logical": "org/tiny"}),
        (["org/tiny"], {"org/tiny": "org/tiny"}),
        ("org/tiny", {"org/tiny": "org/tiny"}),
    ],
)
async def test_models_may_be_given(fake_fleet, endpoint_at, models, mapping):
    fleet = fake_fleet(models=("org/tiny", "other"))
    endpoint = endpoint_at(fleet.urls[0], models=models)
    assert endpoint.models == mapping
    assert await endpoint.probe() == Health(ok=True)
    assert endpoint.models == mapping
    (reply,) = await ask(endpoint, question(model=next(iter(mapping))))
    assert reply.body["model"] == "org/tiny"


async def test_of_given_models_only_those_that_are_there_count(fake_fleet, endpoint_at):
    endpoint = endpoint_at(fake_fleet(models=("tiny", "other")).urls[0], models=["tiny", "gone"])
    assert endpoint.models == {"tiny": "tiny", "gone": "gone"}
    assert await endpoint.probe() == Health(ok=True)
    assert endpoint.models == {"tiny": "tiny"}


async def test_given_models_that_the_server_does_not_serve(fake_fleet, endpoint_at):
    endpoint = endpoint_at(fake_fleet(models=("tiny", "large")).urls[0], models={"a": "huge"})
    health = await endpoint.probe()
    assert (health.ok, health.failure.kind, health.failure.retryable) == (False, "cold", True)
    says = f"{endpoint.name} does not serve huge; it serves tiny, large."
    assert health.failure.message == says


async def test_a_model_that_the_server_does_not_know_is_cold(fake_fleet, endpoint_at):
    fleet = fake_fleet(models=("tiny",))
    endpoint = endpoint_at(fleet.urls[0], models={"a": "huge"})
    failure = await fails(endpoint, question(model="a"))
    assert (failure.kind, failure.status) == ("cold", 404)
    assert failure.message == f"{endpoint.name}: The model `huge` does not exist."
    assert fleet.record().statuses == {404: 1}


async def test_a_model_that_the_endpoint_does_not_know_is_never_sent(fake_fleet, endpoint_at):
    fleet = fake_fleet(models=("tiny", "large"))
    endpoint = endpoint_at(fleet.urls[0], models=("tiny", "large"))
    for model in ("huge", None):
        failure = await fails(endpoint, question(model=model))
        assert failure.kind == "cold"
        assert failure.message == f"{endpoint.name} does not serve the model {model!r}."
    assert fleet.record().arrived == 0


async def test_the_only_model_is_meant_where_none_is_named(fake_fleet, endpoint_at):
    endpoint = endpoint_at(fake_fleet(models=("tiny",)).urls[0])
    await endpoint.probe()
    (reply,) = await ask(endpoint, question(model=None))
    assert reply.body["model"] == "tiny"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, {"detail": "Not Found"}),
        (200, b"<html><title>Sign in</title></html>"),
        (200, {"data": []}),
        (200, {"data": [{"name": "tiny"}]}),
        (200, {"data": None}),
        (200, []),
        (302, b""),
    ],
)
async def test_a_server_that_lists_no_models(serve, endpoint_at, status, body):
    server = await serve(lambda got: http(status, body))
    endpoint = endpoint_at(server.url)
    failure = (await endpoint.probe()).failure
    assert (failure.kind, failure.status) == ("cold", status)
    assert failure.message == (
        f"{endpoint.name} lists no models at {server.url}/models ({status}); "
        "is the URL right? It usually ends in /v1; or say models= yourself."
    )
    given = endpoint_at(server.url, models=["tiny"])
    listed_nothing = status == 200 and body == {"data": []}
    assert (await given.probe()).ok == (not listed_nothing)


@pytest.mark.parametrize(
    ("status", "kind", "ok_when_given"),
    [
        (401, "auth", False),
        (403, "auth", False),
        (429, "rate_limited", False),
        (500, "transient", True),
        (502, "transient", True),
        (503, "overloaded", False),
    ],
)
async def test_a_server_that_is_not_well(serve, endpoint_at, status, kind, ok_when_given):
    server = await serve(lambda got: http(status, {"error": {"message": "Not now."}}))
    failure = (await endpoint_at(server.url).probe()).failure
    assert (failure.kind, failure.status) == (kind, status)
    assert "Not now." in failure.message
    given = await endpoint_at(server.url, models=["tiny"]).probe()
    assert given.ok == ok_when_given
    assert ok_when_given or given.failure.kind == kind


# -- good answers -----------------------------------------------------------------------------


async def test_a_bundle_is_answered_in_turn(fake_fleet, endpoint_at):
    fleet = fake_fleet()
    endpoint = endpoint_at(fleet.urls[0], models=["tiny"])
    prompts = ["a", "b", "c"]
    replies = await ask(endpoint, *map(question, prompts))
    assert [reply.position for reply in replies] == [0, 1, 2]
    assert [text(reply) for reply in replies] == [echo(prompt) for prompt in prompts]
    record = fleet.record()
    assert (record.connections, record.endpoints[0].reused) == (1, 2)


async def test_an_empty_bundle_has_no_replies(fake_fleet, endpoint_at):
    fleet = fake_fleet()
    endpoint = endpoint_at(fleet.urls[0], models=["tiny"])
    assert [reply async for reply in endpoint.send([])] == []
    assert fleet.record().arrived == 0


async def test_a_bundle_goes_on_after_a_failure(fake_fleet, endpoint_at):
    fleet = fake_fleet(faults=(Fault("http_500", contains="b"),))
    endpoint = endpoint_at(fleet.urls[0], models=["tiny"])
    replies = await ask(endpoint, *map(question, "abc"))
    assert [reply.failure is None for reply in replies] == [True, False, True]


async def test_what_is_sent(serve, endpoint_at):
    server = await serve(lambda got: http(200, completion(), Set_Cookie="session=1"))
    url = server.url.replace("127.0.0.1", "localhost")  # aiohttp keeps no cookies of addresses
    endpoint = endpoint_at(url, models={"tiny": "org/tiny"}, api_key=SECRET)
    for _ in range(2):
        (reply,) = await ask(endpoint, question("hello", max_tokens=3))
        assert text(reply) == "yes"
    for got in server.got:
        assert got.line == "POST /v1/chat/completions HTTP/1.1"
        assert got.headers["Content-Type"] == "application/json"
        assert got.headers["Authorization"] == f"Bearer {SECRET}"
        assert "Cookie" not in got.headers
        assert orjson.loads(got.body) == {
            "model": "org/tiny",
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 3,
            "stream": False,
        }


async def test_a_user_in_the_url_is_sent(serve, endpoint_at):
    server = await serve(lambda got: http(200, completion()))
    endpoint = endpoint_at(server.url_with_user, models=["tiny"])
    assert text((await ask(endpoint))[0]) == "yes"
    assert server.got[0].headers["Authorization"] == "Basic bWU6aHVudGVyMg=="


async def test_usage_is_reported(fake_fleet, endpoint_at):
    endpoint = endpoint_at(fake_fleet(answer="a" * 40).urls[0], models=["tiny"])
    (reply,) = await ask(endpoint, question("b" * 10))
    assert (reply.usage, reply.retry_after) == (Usage(3, 10, estimated=False), None)


async def test_usage_is_estimated_where_there_is_none(fake_fleet, endpoint_at):
    fleet = fake_fleet(answer="a" * 41, faults=(Fault("no_usage"),))
    (reply,) = await ask(endpoint_at(fleet.urls[0], models=["tiny"]), question("b" * 10))
    assert reply.usage == Usage(10, 11, estimated=True)


@pytest.mark.parametrize(
    "kind", ["length", "empty", "refusal", "reasoning_only", "many_choices", "wrong_model"]
)
async def test_what_an_answer_is_worth_is_the_tasks_business(fake_fleet, endpoint_at, kind):
    endpoint = endpoint_at(fake_fleet(faults=(Fault(kind),)).urls[0], models=["tiny"])
    (reply,) = await ask(endpoint)
    assert (reply.failure, type(reply.usage)) == (None, Usage)
    assert reply.body["choices"]


@pytest.mark.parametrize("kind", ["slow", "drip"])
async def test_a_late_answer_is_an_answer(fake_fleet, endpoint_at, kind):
    fleet = fake_fleet(faults=(Fault(kind, seconds=0.1),))
    assert text((await ask(endpoint_at(fleet.urls[0], models=["tiny"])))[0]) == echo("hello")


# -- faults -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind", "status", "says"),
    [
        (Fault("http_400"), "permanent", 400, "answered 400: This model's maximum context length"),
        (Fault("http_429"), "rate_limited", 429, "answered 429: Rate limit reached"),
        (Fault("http_500"), "transient", 500, "answered 500: EngineCore encountered an issue"),
        (Fault("http_503"), "overloaded", 503, "answered 503: Loading model"),
        (Fault("html_502"), "transient", 502, "answered 502: HTML page '502 Bad Gateway'"),
        (Fault("html_200"), "transient", 200, "answered not JSON but \"HTML page 'Sign in'\"."),
        (Fault("malformed_json"), "transient", 200, "answered not JSON but '{"),
        (Fault("truncated_body"), "transient", None, "Response payload is not completed"),
        (Fault("reset"), "transient", None, "reset by peer"),
        (Fault("disconnect"), "transient", None, "Server disconnected"),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
async def test_faults(fake_fleet, endpoint_at, fault, kind, status, says):
    fleet = fake_fleet(faults=(fault,))
    endpoint = endpoint_at(fleet.urls[0], models=["tiny"])
    failure = await fails(endpoint)
    assert (failure.kind, failure.status) == (kind, status)
    assert failure.message.startswith(endpoint.name)
    assert says in failure.message
    fleet.change(0, faults=())
    assert text((await ask(endpoint))[0]) == echo("hello")
    assert fleet.record().served == 2  # nothing was retried underneath


@pytest.mark.parametrize("kind", ["http_429", "http_503"])
@pytest.mark.parametrize("seconds", [None, 0.0, 2.5, 30.0])
async def test_retry_after(fake_fleet, endpoint_at, kind, seconds):
    fleet = fake_fleet(faults=(Fault(kind, retry_after=seconds),))
    (reply,) = await ask(endpoint_at(fleet.urls[0], models=["tiny"]))
    assert reply.retry_after == seconds


@pytest.mark.parametrize(("overload", "kind"), [(429, "rate_limited"), (503, "overloaded")])
async def test_a_full_queue(fake_fleet, endpoint_at, overload, kind):
    fleet = fake_fleet(capacity=1, max_queue=0, overload=overload, faults=(Fault("hang"),))
    endpoint = endpoint_at(fleet.urls[0], models=["tiny"])
    first = asyncio.create_task(ask(endpoint))
    await fleet.until(lambda record: record.in_flight == 1)
    assert (await fails(endpoint)).kind == kind
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_a_request_that_is_cancelled_lets_go_of_its_connection(fake_fleet, endpoint_at):
    fleet = fake_fleet(faults=(Fault("hang", contains="hang"),))
    endpoint = endpoint_at(fleet.urls[0], models=["tiny"])
    sending = asyncio.create_task(ask(endpoint, question("hang")))
    await fleet.until(lambda record: record.in_flight == 1)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    record = await fleet.until(lambda record: record.in_flight == 0)
    assert (record.closed_early, record.faults) == (1, {"hang": 1})
    assert text((await ask(endpoint))[0]) == echo("hello")


async def test_as_many_connections_as_requests(fake_fleet, endpoint_at):
    fleet = fake_fleet(capacity=200, faults=(Fault("hang"),))
    endpoint = endpoint_at(fleet.urls[0], models=["tiny"])
    sending = [asyncio.create_task(ask(endpoint)) for _ in range(150)]
    assert (await fleet.until(lambda record: record.in_flight == 150)).connections == 150
    for each in sending:
        each.cancel()
    await asyncio.gather(*sending, return_exceptions=True)
    assert (await fleet.until(lambda record: record.in_flight == 0)).closed_early == 150


async def test_a_timeout_lets_go_of_its_connection(fake_fleet, endpoint_at):
    fleet = fake_fleet(faults=(Fault("hang"),))
    endpoint = endpoint_at(fleet.urls[0], models=["tiny"])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await ask(endpoint)
    assert (await fleet.until(lambda record: record.in_flight == 0)).closed_early == 1


async def test_a_bundle_that_is_left_early_sends_no_more(fake_fleet, endpoint_at):
    fleet = fake_fleet()
    endpoint = endpoint_at(fleet.urls[0], models=["tiny"])
    async with aclosing(endpoint.send([question("a"), question("b")])) as replies:
        assert text(await anext(replies)) == echo("a")
    assert fleet.record().arrived == 1


async def test_no_server_at_the_url(fake_fleet, endpoint_at):
    fleet = fake_fleet()
    endpoint = endpoint_at(fleet.urls[0])
    fleet.kill(0)
    health = await endpoint.probe()
    assert (health.ok, health.failure.kind, health.failure.retryable) == (False, "cold", True)
    says = f"{endpoint.name}: nobody answers at {fleet.urls[0]} ("
    assert health.failure.message.startswith(says)
    failure = await fails(endpoint_at(fleet.urls[0], models=["tiny"]))
    assert failure.kind == "cold"
    assert failure.message.startswith(says)
    fleet.revive(0)
    assert (await endpoint.probe()).ok
    assert text((await ask(endpoint))[0]) == echo("hello")


async def test_a_server_that_dies_over_a_request(fake_fleet, endpoint_at):
    fleet = fake_fleet(faults=(Fault("hang", contains="last words"),))
    endpoint = endpoint_at(fleet.urls[0], models=["tiny"])
    assert text((await ask(endpoint))[0]) == echo("hello")
    asking = asyncio.create_task(fails(endpoint, question("last words")))
    await fleet.until(lambda record: record.in_flight == 1)
    fleet.kill(0)
    assert (await asking).kind == "transient"
    assert (await fails(endpoint)).kind == "cold"


async def test_a_server_that_does_not_take_the_connection(endpoint_at, monkeypatch):
    monkeypatch.setattr(module, "_CONNECT_SECONDS", 0.2)
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # fills the queue; the kernel drops who comes next
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        endpoint = endpoint_at(f"http://127.0.0.1:{full.getsockname()[1]}/v1", models=["tiny"])
        failure = await fails(endpoint)
    assert failure.kind == "cold"
    assert "nobody answers at" in failure.message
    assert "timeout" in failure.message


async def test_tls_where_none_is_spoken(fake_fleet, endpoint_at):
    url = fake_fleet().urls[0].replace("http:", "https:")
    endpoint = endpoint_at(url, models=["tiny"])
    failure = await fails(endpoint)
    assert failure.kind == "cold"
    assert failure.message.startswith(f"{endpoint.name}: nobody answers at {url} (")


async def test_redirects_are_not_followed(serve, endpoint_at):
    elsewhere = await serve(lambda got: http(200, completion()))
    server = await serve(lambda got: http(307, Location=f"{elsewhere.url}/chat/completions"))
    failure = await fails(endpoint_at(server.url, models=["tiny"], api_key=SECRET))
    assert (failure.kind, failure.status) == ("permanent", 307)
    assert failure.message.endswith("Is the URL right? It usually ends in /v1.")
    assert elsewhere.got == []


ODD_ANSWERS = {
    "garbage": b"garbage\r\n\r\n",
    "nothing": b"",
    "gzip": http(200, b"not gzip", Content_Encoding="gzip"),
    "unknown encoding": http(200, b"?", Content_Encoding="br"),
    "long header": http(200, b"{}", X_Long="x" * 20_000),
    "redirect": http(302, Location="http://127.0.0.1:1/"),
    "not found": http(404, {"detail": "Not Found"}),
    "html": http(200, b"<html><title>Sign in</title></html>"),
    "no completion": http(200, {"object": "list"}),
    "unauthorized": http(401, {"error": {"message": f"Wrong: {PASSWORD}"}}),
    "forbidden": http(403, b""),
}


@pytest.mark.parametrize("odd", ODD_ANSWERS)
async def test_odd_answers_are_failures_and_show_no_user(serve, endpoint_at, odd):
    server = await serve(lambda got: ODD_ANSWERS[odd])
    endpoint = endpoint_at(server.url_with_user, models=["tiny"])
    failure = await fails(endpoint)
    assert failure.message.startswith(f"127.0.0.1:{server.port}")
    discovering = endpoint_at(server.url_with_user)
    health = await discovering.probe()
    assert not health.ok
    for shown in (failure.message, health.failure.message, endpoint.name, repr(endpoint)):
        assert PASSWORD not in shown
        assert "me:" not in shown
        assert "me@" not in shown


async def test_a_dead_server_shows_no_user(fake_fleet, endpoint_at):
    fleet = fake_fleet()
    endpoint = endpoint_at(fleet.urls[0].replace("//", f"//me:{PASSWORD}@"), models=["tiny"])
    fleet.kill(0)
    for failure in (await fails(endpoint), (await endpoint.probe()).failure):
        assert failure.kind == "cold"
        assert PASSWORD not in failure.message
        assert "me:" not in failure.message


# -- keys -------------------------------------------------------------------------------------


async def asked_both_ways(endpoint):
    """The failures of a probe and of a request, which must be of one kind."""
    failures = [(await endpoint.probe()).failure, await fails(endpoint)]
    for failure in failures:
        assert (failure.kind, failure.retryable) == ("auth", False)
        assert endpoint.name in failure.message
        assert SECRET not in failure.message
    return failures


HOW = "set api_key= of this endpoint to a valid token, to the name of the environment variable"


async def test_a_wrong_key(fake_fleet, endpoint_at):
    fleet = fake_fleet(api_key="sk-right")
    endpoint = endpoint_at(fleet.urls[0], models=["tiny"], api_key=SECRET, name="argonne")
    for failure in await asked_both_ways(endpoint):
        assert failure.status == 401
        assert failure.message.startswith("argonne answered 401: Incorrect API key provided")
        assert "It was asked with api_key=; " in failure.message
        assert HOW in failure.message
    assert (fleet.record().probes, fleet.record().statuses) == (1, {401: 1})


async def test_no_key(fake_fleet, endpoint_at):
    endpoint = endpoint_at(fake_fleet(api_key="sk-right").urls[0], models=["tiny"])
    for failure in await asked_both_ways(endpoint):
        assert "It was asked with no api_key=; " in failure.message
        assert HOW in failure.message


async def test_the_right_key(fake_fleet, endpoint_at, monkeypatch):
    fleet = fake_fleet(api_key=SECRET)
    monkeypatch.setenv("SITE_API_KEY", SECRET)
    for key in (SECRET, "SITE_API_KEY", lambda: SECRET):
        endpoint = endpoint_at(fleet.urls[0], api_key=key)
        assert (await endpoint.probe()).ok
        assert text((await ask(endpoint))[0]) == echo("hello")
    assert fleet.record().statuses == {200: 3}


async def test_an_environment_variable_that_is_not_set(fake_fleet, endpoint_at, monkeypatch):
    monkeypatch.delenv("SITE_API_KEY", raising=False)
    fleet = fake_fleet(api_key=SECRET)
    endpoint = endpoint_at(fleet.urls[0], models=["tiny"], api_key="SITE_API_KEY")
    for failure in await asked_both_ways(endpoint):
        assert failure.status is None
        says = (
            f"{endpoint.name}: the environment variable SITE_API_KEY, named by api_key=, is not set"
        )
        assert failure.message == says
    assert (fleet.record().probes, fleet.record().arrived) == (0, 0)
    monkeypatch.setenv("SITE_API_KEY", SECRET)
    assert text((await ask(endpoint))[0]) == echo("hello")


async def test_an_environment_variable_with_a_wrong_key(fake_fleet, endpoint_at, monkeypatch):
    monkeypatch.setenv("SITE_API_KEY", SECRET)
    fleet = fake_fleet(api_key="sk-right")
    endpoint = endpoint_at(fleet.urls[0], models=["tiny"], api_key="SITE_API_KEY")
    for failure in await asked_both_ways(endpoint):
        assert "asked with the environment variable SITE_API_KEY; " in failure.message


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_that_the_server_echoes_is_blotted_out(serve, endpoint_at, status):
    server = await serve(lambda got: http(status, {"error": f"No: {got.headers['Authorization']}"}))
    endpoint = endpoint_at(server.url, models=["tiny"], api_key=SECRET)
    for failure in await asked_both_ways(endpoint):
        assert f"{status}: No: Bearer ***" in failure.message


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_a_key_that_the_server_echoes_in_another_error(serve, endpoint_at, status):
    server = await serve(lambda got: http(status, {"error": f"No: {got.headers['Authorization']}"}))
    endpoint = endpoint_at(server.url, api_key=SECRET)
    health = await endpoint.probe()
    assert SECRET not in health.failure.message
    endpoint = endpoint_at(server.url, models=["tiny"], api_key=SECRET)
    assert SECRET not in (await fails(endpoint)).message


async def test_a_key_that_the_server_echoes_in_a_good_status(serve, endpoint_at):
    server = await serve(lambda got: http(200, got.headers["Authorization"].encode()))
    failure = await fails(endpoint_at(server.url, models=["tiny"], api_key=SECRET))
    assert failure.message.endswith("not JSON but 'Bearer ***'.")


# -- keys that are renewed --------------------------------------------------------------------


class Provider:
    """Hands out numbered tokens; from the second on only when it may."""

    def __init__(self):
        self.calls = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(self):
        self.calls += 1
        if self.calls > 1:
            assert self.may_go_on.wait(10)
        return f"token-{self.calls}"


async def test_a_refused_token_is_renewed_once(fake_fleet, endpoint_at):
    fleet = fake_fleet(api_key="token-2")
    provider = Provider()
    endpoint = endpoint_at(fleet.urls[0], models=["tiny"], api_key=provider)
    assert text((await ask(endpoint))[0]) == echo("hello")
    assert provider.calls == 2
    assert fleet.record().statuses == {401: 1, 200: 1}
    assert text((await ask(endpoint))[0]) == echo("hello")
    assert provider.calls == 2


async def test_a_probe_renews_too(fake_fleet, endpoint_at):
    fleet = fake_fleet(api_key="token-2")
    endpoint = endpoint_at(fleet.urls[0], api_key=Provider())
    assert (await endpoint.probe()).ok
    assert fleet.record().probes == 2


async def test_an_async_function_may_renew(fake_fleet, endpoint_at):
    fleet = fake_fleet(api_key="token-2")
    provider = Provider()

    async def provide():
        return provider()

    endpoint = endpoint_at(fleet.urls[0], models=["tiny"], api_key=provide)
    assert text((await ask(endpoint))[0]) == echo("hello")


async def test_a_token_that_stays_wrong_is_not_renewed_for_ever(fake_fleet, endpoint_at):
    fleet = fake_fleet(api_key="sk-right")
    provider = Provider()
    endpoint = endpoint_at(fleet.urls[0], models=["tiny"], api_key=provider)
    failure = await fails(endpoint)
    assert failure.kind == "auth"
    assert "It was asked with the function Provider; " in failure.message
    assert "token-2" not in failure.message
    assert (provider.calls, fleet.record().statuses) == (2, {401: 2})


async def test_a_given_token_is_not_sent_twice(fake_fleet, endpoint_at):
    fleet = fake_fleet(api_key="sk-right")
    await fails(endpoint_at(fleet.urls[0], models=["tiny"], api_key=SECRET))
    assert fleet.record().statuses == {401: 1}


async def test_a_function_that_fails(fake_fleet, endpoint_at):
    def provide():
        raise OSError("no route to the token service")

    fleet = fake_fleet(api_key="sk-right")
    endpoint = endpoint_at(fleet.urls[0], models=["tiny"], api_key=provide)
    for failure in await asked_both_ways(endpoint):
        assert "provide raised OSError: no route to the token service" in failure.message
    assert (fleet.record().probes, fleet.record().arrived) == (0, 0)


async def test_a_hundred_requests_share_one_token_and_one_renewal(fake_fleet, endpoint_at):
    fleet = fake_fleet(api_key="token-1", capacity=200)
    provider = Provider()
    endpoint = endpoint_at(fleet.urls[0], models=["tiny"], api_key=provider)
    prompts = [f"question {number}" for number in range(100)]

    async def all_of_them():
        replies = await asyncio.gather(*(ask(endpoint, question(each)) for each in prompts))
        return [text(reply) for (reply,) in replies]

    expected = [echo(prompt) for prompt in prompts]
    assert await all_of_them() == expected
    assert provider.calls == 1

    fleet.change(0, api_key="token-2")
    fleet.reset_record()
    provider.may_go_on.clear()
    asking = asyncio.create_task(all_of_them())
    await fleet.until(lambda record: record.statuses == {401: 100})
    await asyncio.sleep(0.1)  # until all of them have read their 401
    provider.may_go_on.set()
    assert await asking == expected
    assert provider.calls == 2
    assert fleet.record().statuses == {401: 100, 200: 100}


async def test_a_late_refusal_of_the_old_token_does_not_cost_the_new_one(serve, endpoint_at):
    renewed = asyncio.Event()

    async def answer(got):
        if got.headers["Authorization"] != "Bearer token-1":
            return http(200, completion())
        if got.prompt == "slow":
            await renewed.wait()
        return http(401, {"error": "expired"})

    server = await serve(answer)
    provider = Provider()
    endpoint = endpoint_at(server.url, models=["tiny"], api_key=provider)
    slow = asyncio.create_task(ask(endpoint, question("slow")))
    while not server.got:
        await asyncio.sleep(0.001)
    assert text((await ask(endpoint, question("quick")))[0]) == "yes"
    renewed.set()
    assert text((await slow)[0]) == "yes"
    assert provider.calls == 2


# -- proxies ----------------------------------------------------------------------------------


async def test_a_proxy_of_the_environment_is_used(serve, endpoint_at, monkeypatch):
    proxy = await serve(lambda got: http(200, completion("by proxy")))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    endpoint = endpoint_at("http://llm.invalid/v1", models=["tiny"])
    assert text((await ask(endpoint))[0]) == "by proxy"
    assert proxy.got[0].line == "POST http://llm.invalid/v1/chat/completions HTTP/1.1"


async def test_a_host_that_needs_no_proxy(fake_fleet, endpoint_at, monkeypatch, serve):
    proxy = await serve(lambda got: http(502))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    endpoint = endpoint_at(fake_fleet().urls[0])
    assert (await endpoint.probe()).ok
    assert text((await ask(endpoint))[0]) == echo("hello")
    assert proxy.got == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_loopback_needs_no_proxy(fake_fleet, endpoint_at, monkeypatch, serve, host):
    proxy = await serve(lambda got: http(502))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    endpoint = endpoint_at(fake_fleet().urls[0].replace("127.0.0.1", host))
    assert (await endpoint.probe()).ok
    assert text((await ask(endpoint))[0]) == echo("hello")
    assert proxy.got == []


async def test_a_proxy_without_a_scheme(serve, endpoint_at, monkeypatch):
    proxy = await serve(lambda got: http(200, completion("by proxy")))
    monkeypatch.setenv("http_proxy", f"127.0.0.1:{proxy.port}")
    (reply,) = await ask(endpoint_at("http://llm.invalid/v1", models=["tiny"]))
    assert text(reply) == "by proxy"


async def test_a_proxy_that_refuses_shows_no_password(serve, endpoint_at, monkeypatch):
    proxy = await serve(lambda got: http(407, Proxy_Authenticate="Basic"))
    monkeypatch.setenv("https_proxy", f"http://me:{PASSWORD}@127.0.0.1:{proxy.port}")
    failure = await fails(endpoint_at("https://llm.invalid/v1", models=["tiny"]))
    assert proxy.got[0].line == "CONNECT llm.invalid:443 HTTP/1.1"
    assert PASSWORD not in failure.message


# -- opening and closing ----------------------------------------------------------------------


async def test_opening_makes_no_traffic_and_closing_ends_the_connection(fake_fleet, endpoint_at):
    fleet = fake_fleet()
    endpoint = endpoint_at(fleet.urls[0], models=["tiny"])
    await endpoint.close()
    await endpoint.open()
    await endpoint.open()
    assert fleet.record().connections == 0
    for turn in (1, 2):
        await ask(endpoint)
        await ask(endpoint)
        assert fleet.record().connections == turn
        await endpoint.close()
        await endpoint.close()
    # Asking opens what was closed.
    assert text((await ask(endpoint))[0]) == echo("hello")


def test_it_is_used_on_one_loop_after_another(fake_fleet):
    fleet = fake_fleet([FakeEndpoint(api_key="token-1")])
    endpoint = OpenAIEndpoint(fleet.urls[0], api_key=Provider())

    async def use():
        await endpoint.open()
        assert (await endpoint.probe()).ok
        (reply,) = await ask(endpoint)
        await endpoint.close()
        return text(reply)

    assert [asyncio.run(use()) for _ in range(3)] == [echo("hello")] * 3
    assert fleet.record().statuses == {200: 3}


def test_a_session_of_another_loop_is_left_alone(fake_fleet, monkeypatch):
    monkeypatch.setattr(module, "_orphans", orphans := [])
    endpoint = OpenAIEndpoint(fake_fleet().urls[0], models=["tiny"])
    asyncio.run(endpoint.open())  # not closed: its loop is gone, as after a fork

    async def use():
        await endpoint.open()
        (reply,) = await ask(endpoint)
        await endpoint.close()
        return text(reply)

    assert asyncio.run(use()) == echo("hello")
    (orphan,) = orphans
    assert not orphan.closed
    asyncio.run(orphan.close())


# -- certificates -----------------------------------------------------------------------------


async def test_a_servers_own_certificate_is_accepted_if_so_told(tmp_path, endpoint_at):
    with https_server(tmp_path) as url:
        endpoint = endpoint_at(url, verify=False)
        assert await endpoint.probe() == Health(ok=True)
        (reply,) = await ask(endpoint)
        assert text(reply) == "HELLO"


async def test_otherwise_it_is_not_asked(tmp_path, endpoint_at):
    with https_server(tmp_path) as url:
        endpoint = endpoint_at(url, models=["tiny"])
        for failure in ((await endpoint.probe()).failure, await fails(endpoint)):
            assert failure.kind == "permanent"
            assert failure.message.startswith(
                f"{endpoint.name}: the certificate of {url} is not trusted here ("
            )
            assert failure.message.endswith("if it is the server's own, say verify=False.")


async def test_https_where_only_http_is_spoken(endpoint_at):
    async def refuse(reader, writer):
        await reader.read(1 << 16)
        writer.write(http(400))
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        failure = (await endpoint_at(url).probe()).failure
    assert failure.kind == "cold"
    assert failure.message.endswith(f"no TLS with {url}; does the server speak https?")
