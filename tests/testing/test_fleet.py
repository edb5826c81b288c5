"""FakeFleet: each fault as a client sees it, and the record of it."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from langgraph_hpc_fanout.endpoints.gauges import Gauges, read_gauges
from langgraph_hpc_fanout.testing.fleet import (
    Constant,
    FakeEndpoint,
    FakeFleet,
    Fault,
    Lognormal,
    Uniform,
    echo,
    prompt_id,
)
from langgraph_hpc_fanout.testing.fleet.__main__ import main, parse_fault, parse_latency
from langgraph_hpc_fanout.testing.fleet.faults import Attempt, Dice
from langgraph_hpc_fanout.testing.fleet.host import HostSpec, LocalHost
from langgraph_hpc_fanout.testing.fleet.pipe import obey
from langgraph_hpc_fanout.testing.fleet.record import HostRecord, merge

pytest_plugins = ["langgraph_hpc_fanout.testing.fixtures"]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


def chat(prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": prompt}], **more}


async def ask(
    http: aiohttp.ClientSession, url: str, prompt: str = "hello", **more: Any
) -> tuple[int, Any]:
    async with http.post(f"{url}/chat/completions", json=chat(prompt, **more)) as response:
        return response.status, await response.json()


async def statuses_of(http: aiohttp.ClientSession, url: str, prompts: list[str]) -> dict[str, int]:
    return {prompt: (await ask(http, url, prompt))[0] for prompt in prompts}


def content(answer: Mapping[str, Any]) -> Any:
    return answer["choices"][0]["message"]["content"]


def shout(body: Mapping[str, Any]) -> str:
    return str(body["messages"][-1]["content"]).upper()


# Good answers


async def test_every_prompt_gets_its_own_answer(http, fake_fleet):
    fleet = fake_fleet(endpoints=2, latency=0.005)
    prompts = [f"Is molecule {i} soluble?" for i in range(50)]
    answers = await asyncio.gather(
        *(ask(http, fleet.urls[i % 2], prompt) for i, prompt in enumerate(prompts))
    )
    assert [content(answer) for _, answer in answers] == [echo(prompt) for prompt in prompts]
    record = fleet.record()
    assert record.served == record.arrived == 50
    assert record.statuses == {200: 50}
    assert sorted(row.prompt for row in record.requests) == sorted(prompts)
    assert [endpoint.served for endpoint in record.endpoints] == [25, 25]


async def test_a_completion_has_openais_shape_and_counts_tokens(http, fake_fleet):
    fleet = fake_fleet(answer="a" * 40)
    status, answer = await ask(http, fleet.urls[0], "b" * 10)
    assert status == 200
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "tiny"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "a" * 40},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 10, "total_tokens": 13}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_max_tokens_cuts_the_answer(http, fake_fleet, name):
    fleet = fake_fleet(answer="a" * 40)
    _, answer = await ask(http, fleet.urls[0], **{name: 3})
    assert content(answer) == "a" * 12
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3
    _, answer = await ask(http, fleet.urls[0], **{"max_completion_tokens": None, name: 10})
    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_the_answer_rule_may_be_a_function(http, fake_fleet):
    fleet = fake_fleet(answer=shout)
    assert content((await ask(http, fleet.urls[0], "loud"))[1]) == "LOUD"


async def test_an_answer_rule_that_raises_is_a_500_that_says_so(http, fake_fleet):
    fleet = fake_fleet(answer=lambda body: body["nothing"])
    status, answer = await ask(http, fleet.urls[0])
    assert status == 500
    assert "KeyError('nothing')" in answer["error"]["message"]


async def test_content_parts_are_read_as_text(http, fake_fleet):
    fleet = fake_fleet()
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "x"}]
    _, answer = await ask(http, fleet.urls[0], messages=messages)
    assert content(answer) == echo("one two")
    await ask(http, fleet.urls[0], messages=[{"role": "system", "content": None}])
    assert [row.prompt for row in fleet.record().requests] == ["one two", ""]


# Routes, keys, models, flaws


async def test_models_and_health_are_probes(http, fake_fleet):
    fleet = fake_fleet(models=("tiny", "large"))
    async with http.get(f"{fleet.urls[0]}/models") as response:
        listed = await response.json()
    assert [model["id"] for model in listed["data"]] == ["tiny", "large"]
    async with http.get(fleet.urls[0].removesuffix("/v1") + "/health") as response:
        assert response.status == 200
    async with http.get(f"{fleet.urls[0]}/embeddings") as response:
        assert response.status == 404
    async with http.get(f"{fleet.urls[0]}/chat/completions?x=1") as response:
        assert response.status == 405
    record = fleet.record()
    assert (record.probes, record.served) == (4, 0)


async def test_metrics_tell_what_runs_and_what_waits(http, fake_fleet):
    fleet = fake_fleet(models=("tiny", "large"), capacity=2, latency=30.0, api_key="sk-right")
    headers = {"Authorization": "Bearer sk-right"}
    url = f"{fleet.urls[0]}/chat/completions"
    asked = [
        asyncio.create_task(http.post(url, json=chat(f"{number}"), headers=headers))
        for number in range(5)
    ]
    try:
        while fleet.record().peak_in_flight < 5:
            await asyncio.sleep(0.01)
        async with http.get(fleet.urls[0].removesuffix("/v1") + "/metrics") as response:
            page = await response.read()
            assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    finally:
        for each in asked:
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    assert b'vllm:num_requests_waiting{engine="0",model_name="tiny"} 3.0\n' in page
    assert read_gauges(page) == Gauges(waiting=3, running=2)


async def test_metrics_of_an_idle_endpoint_are_a_probe_of_zeros(http, fake_fleet):
    fleet = fake_fleet()
    async with http.get(fleet.urls[0].removesuffix("/v1") + "/metrics") as response:
        assert read_gauges(await response.read()) == Gauges(0, 0)
    async with http.post(fleet.urls[0].removesuffix("/v1") + "/metrics") as response:
        assert response.status == 404
    assert fleet.record().probes == 2


async def test_another_model_is_vllms_404(http, fake_fleet):
    fleet = fake_fleet()
    status, answer = await ask(http, fleet.urls[0], model="huge")
    assert status == 404
    assert answer == {
        "error": {
            "message": "The model `huge` does not exist.",
            "type": "NotFoundError",
            "param": "model",
            "code": 404,
        }
    }


async def test_a_key_is_required_when_there_is_one(http, fake_fleet):
    fleet = fake_fleet(api_key="sk-right")
    status, answer = await ask(http, fleet.urls[0])
    assert status == 401
    assert answer["error"]["code"] == "invalid_api_key"
    async with http.get(f"{fleet.urls[0]}/models") as response:
        assert response.status == 401
    wrong = {"Authorization": "Bearer sk-wrong-secret"}
    async with http.get(f"{fleet.urls[0]}/models", headers=wrong) as response:
        assert "sk-***" in (await response.json())["error"]["message"]
    right = {"Authorization": "Bearer sk-right"}
    url = f"{fleet.urls[0]}/chat/completions"
    async with http.post(url, json=chat("x"), headers=right) as response:
        assert response.status == 200
    assert fleet.record().statuses == {401: 1, 200: 1}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "JSON decode error"),
        (b"[]", "valid dictionary"),
        (b'{"model": "tiny"}', "messages must be"),
        (b'{"messages": []}', "model must be"),
        (b'{"model": "tiny", "messages": [], "max_tokens": 0}', "at least 1, got 0"),
        (b'{"model": "tiny", "messages": [], "stream": true}', "does not stream"),
    ],
)
async def test_a_flawed_body_is_a_400(http, fake_fleet, body, says):
    fleet = fake_fleet()
    async with http.post(f"{fleet.urls[0]}/chat/completions", data=body) as response:
        assert response.status == 400
        assert says in (await response.json())["error"]["message"]
    assert fleet.record().statuses == {400: 1}


def raw(fleet: FakeFleet, data: bytes) -> bytes:
    """What the first endpoint sends to a client that sends `data`, until it closes."""
    host, port = fleet.urls[0].removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        sock.sendall(data)
        received = b""
        while piece := sock.recv(65536):
            received += piece
        return received


def drain(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


def test_connection_close_is_honoured(fake_fleet):
    answer = raw(fake_fleet(), b"GET /health HTTP/1.1\r\nconnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close" in answer


@pytest.mark.parametrize(
    "data",
    [b"nonsense\r\n\r\n", b"GET /health HTTP/1.1\r\n\r\n" * 2],
    ids=["no_http", "pipelined"],
)
def test_what_is_not_spoken_here_closes_the_connection(fake_fleet, data):
    assert raw(fake_fleet(), data) == b""


# Faults with a status


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [
        ("http_400", 400, {"type": "BadRequestError", "param": "input_tokens", "code": 400}),
        ("http_401", 401, {"type": "invalid_request_error", "code": "invalid_api_key"}),
        ("http_429", 429, {"type": "requests", "code": "rate_limit_exceeded"}),
        ("http_500", 500, {"type": "InternalServerError", "code": 500}),
        ("http_503", 503, {"type": "unavailable_error", "message": "Loading model"}),
    ],
)
async def test_errors_have_their_servers_shape(http, fake_fleet, kind, status, error):
    fleet = fake_fleet(faults=(Fault(kind),))
    async with http.post(f"{fleet.urls[0]}/chat/completions", json=chat("x")) as response:
        assert response.status == status
        assert "Retry-After" not in response.headers
        answer = await response.json()
    assert error.items() <= answer["error"].items()
    record = fleet.record()
    assert record.statuses == {status: 1}
    assert record.faults == {kind: 1}
    assert record.requests[0].fault == kind


@pytest.mark.parametrize("kind", ["http_429", "http_503"])
async def test_retry_after_is_sent_when_given(http, fake_fleet, kind):
    fleet = fake_fleet(faults=(Fault(kind, retry_after=1.5),))
    async with http.post(f"{fleet.urls[0]}/chat/completions", json=chat("x")) as response:
        assert response.headers["Retry-After"] == "1.5"


@pytest.mark.parametrize(("kind", "status"), [("html_502", 502), ("html_200", 200)])
async def test_html_pages(http, fake_fleet, kind, status):
    fleet = fake_fleet(faults=(Fault(kind),))
    async with http.post(f"{fleet.urls[0]}/chat/completions", json=chat("x")) as response:
        assert response.status == status
        assert response.content_type == "text/html"
        assert "<html>" in await response.text()


async def test_a_schema_is_refused_only_where_there_is_one(http, fake_fleet):
    fleet = fake_fleet(faults=(Fault("schema_refused"),))
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    status, answer = await ask(http, fleet.urls[0], response_format=schema)
    assert status == 400
    assert "not supported by xgrammar" in answer["error"]["message"]
    for other in (None, {"type": "json_object"}):
        assert (await ask(http, fleet.urls[0], response_format=other))[0] == 200
    assert fleet.record().faults == {"schema_refused": 1}


# Faults of the connection


async def test_hang_never_answers_and_notices_at_once_that_the_client_left(http, fake_fleet):
    fleet = fake_fleet(faults=(Fault("hang", contains="stuck"),))
    hanging = asyncio.create_task(ask(http, fleet.urls[0], "stuck"))
    await fleet.until(lambda record: record.in_flight == 1)
    assert (await ask(http, fleet.urls[0], "free"))[0] == 200
    assert not hanging.done()
    hanging.cancel()
    record = await fleet.until(lambda record: record.in_flight == 0)
    row = record.requests[-1]
    assert (row.prompt, row.status, row.fault, row.closed_early) == ("stuck", 0, "hang", True)
    assert record.closed_early == 1


async def test_slow_answers_well_but_late(http, fake_fleet):
    fleet = fake_fleet(faults=(Fault("slow", seconds=0.15),))
    assert (await ask(http, fleet.urls[0]))[0] == 200
    row = fleet.record().requests[0]
    assert row.ended - row.arrived >= 0.14


async def test_disconnect_closes_without_a_byte(http, fake_fleet):
    fleet = fake_fleet(faults=(Fault("disconnect"),))
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await ask(http, fleet.urls[0])
    record = fleet.record()
    assert record.statuses == {0: 1}
    assert record.closed_early == 0


def test_reset_is_a_tcp_rst_after_half_an_answer(fake_fleet):
    fleet = fake_fleet(faults=(Fault("reset"),))
    body = json.dumps(chat("x")).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n"
    port = int(fleet.urls[0].split(":")[2].removesuffix("/v1"))
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(head.encode() + body)
        received = sock.recv(65536)
        with pytest.raises(ConnectionResetError):
            drain(sock)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert fleet.record().faults == {"reset": 1}


async def test_reset_fails_an_http_client(http, fake_fleet):
    fleet = fake_fleet(faults=(Fault("reset"),))
    with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError)):
        await ask(http, fleet.urls[0])


async def test_drip_comes_in_pieces_and_whole(http, fake_fleet):
    fleet = fake_fleet(answer="x" * 400, faults=(Fault("drip", seconds=0.3),))
    async with http.post(f"{fleet.urls[0]}/chat/completions", json=chat("x")) as response:
        pieces = [piece async for piece in response.content.iter_any()]
    assert len(pieces) > 2
    assert content(json.loads(b"".join(pieces))) == "x" * 400
    row = fleet.record().requests[0]
    assert row.ended - row.arrived >= 0.25
    assert (await ask(http, fleet.urls[0]))[0] == 200
    assert fleet.record().requests[1].reused


async def test_a_client_that_leaves_in_a_drip_is_noticed(http, fake_fleet):
    fleet = fake_fleet(faults=(Fault("drip", seconds=30),))
    async with http.post(f"{fleet.urls[0]}/chat/completions", json=chat("x")) as response:
        assert response.status == 200
        response.close()
    record = await fleet.until(lambda record: record.served == 1)
    row = record.requests[0]
    assert (row.status, row.closed_early) == (200, True)


async def test_malformed_json(http, fake_fleet):
    fleet = fake_fleet(faults=(Fault("malformed_json"),))
    async with http.post(f"{fleet.urls[0]}/chat/completions", json=chat("x")) as response:
        text = await response.text()
    assert response.status == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


async def test_truncated_body(http, fake_fleet):
    fleet = fake_fleet(faults=(Fault("truncated_body"),))
    with pytest.raises(aiohttp.ClientPayloadError):
        await ask(http, fleet.urls[0])
    assert fleet.record().statuses == {200: 1}


# Faults of the answer


async def odd(http: aiohttp.ClientSession, fleet: FakeFleet) -> dict[str, Any]:
    status, answer = await ask(http, fleet.urls[0])
    assert status == 200
    assert isinstance(answer, dict)
    return answer


async def test_wrong_model(http, fake_fleet):
    answer = await odd(http, fake_fleet(faults=(Fault("wrong_model"),)))
    assert answer["model"] == "not-tiny"
    assert content(answer) == echo("hello")


async def test_length(http, fake_fleet):
    answer = await odd(http, fake_fleet(answer="ab" * 10, faults=(Fault("length"),)))
    assert answer["choices"][0]["finish_reason"] == "length"
    assert content(answer) == "ab" * 5
    assert answer["usage"]["completion_tokens"] == 3


async def test_empty(http, fake_fleet):
    answer = await odd(http, fake_fleet(faults=(Fault("empty"),)))
    assert content(answer) == ""
    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_refusal(http, fake_fleet):
    answer = await odd(http, fake_fleet(faults=(Fault("refusal"),)))
    message = answer["choices"][0]["message"]
    assert message["content"] is None
    assert message["refusal"].startswith("I'm sorry")


async def test_reasoning_only(http, fake_fleet):
    answer = await odd(http, fake_fleet(faults=(Fault("reasoning_only"),)))
    message = answer["choices"][0]["message"]
    assert message["content"] is None
    assert message["reasoning_content"] == echo("hello")


def call_a_tool(body: Mapping[str, Any]) -> Mapping[str, Any]:
    function = {"name": "magic", "arguments": '{"input": 3}'}
    return {"content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}


async def test_the_answer_rule_may_return_a_message(http, fake_fleet):
    answer = await odd(http, fake_fleet(answer=call_a_tool))
    assert answer["choices"][0]["message"] == {"role": "assistant", **call_a_tool({})}
    assert answer["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("kind", "content", "reason"),
    [
        ("length", "", "length"),
        ("empty", "", "stop"),
        ("refusal", None, "stop"),
        ("reasoning_only", None, "stop"),
    ],
)
async def test_odd_answers_call_no_tools(http, fake_fleet, kind, content, reason):
    answer = await odd(http, fake_fleet(answer=call_a_tool, faults=(Fault(kind),)))
    (choice,) = answer["choices"]
    assert "tool_calls" not in choice["message"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (content, reason)


async def test_many_choices(http, fake_fleet):
    answer = await odd(http, fake_fleet(faults=(Fault("many_choices"),)))
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert content(answer) == echo("hello")


async def test_no_usage(http, fake_fleet):
    assert "usage" not in await odd(http, fake_fleet(faults=(Fault("no_usage"),)))


# Which requests a fault strikes


async def test_a_rate_strikes_the_same_prompts_in_any_order(http, fake_fleet):
    prompts = [f"item {i}" for i in range(200)]
    faults = (Fault("http_500", rate=0.2),)
    forward = await statuses_of(http, fake_fleet(faults=faults, seed=7).urls[0], prompts)
    backward = await statuses_of(http, fake_fleet(faults=faults, seed=7).urls[0], prompts[::-1])
    other = await statuses_of(http, fake_fleet(faults=faults, seed=8).urls[0], prompts)
    assert forward == backward
    assert forward != other
    assert 20 <= list(forward.values()).count(500) <= 60


async def test_a_second_attempt_throws_the_dice_again(http, fake_fleet):
    fleet = fake_fleet(faults=(Fault("http_500", rate=0.5),))
    statuses = [(await ask(http, fleet.urls[0], "same"))[0] for _ in range(30)]
    assert set(statuses) == {200, 500}


async def test_times_counts_the_attempts_at_one_prompt_over_all_endpoints(http, fake_fleet):
    fleet = fake_fleet(endpoints=2, faults=(Fault("http_503", times=2),))
    statuses = [(await ask(http, fleet.urls[i % 2], "a"))[0] for i in range(4)]
    assert statuses == [503, 503, 200, 200]
    assert (await ask(http, fleet.urls[0], "b"))[0] == 503


async def test_first_counts_the_requests_of_one_endpoint(http, fake_fleet):
    fleet = fake_fleet(endpoints=2, faults=(Fault("http_503", first=1),))
    statuses = [(await ask(http, url, f"{i}"))[0] for i in range(2) for url in fleet.urls]
    assert statuses == [503, 503, 200, 200]


async def test_conditions_look_at_prompt_and_body_and_the_first_fault_wins(http, fake_fleet):
    fleet = fake_fleet(
        faults=(
            Fault("http_429", contains="benzene"),
            Fault("http_500", when=lambda body: body.get("temperature") == 1),
        )
    )
    url = fleet.urls[0]
    assert (await ask(http, url, "water"))[0] == 200
    assert (await ask(http, url, "water", temperature=1))[0] == 500
    assert (await ask(http, url, "benzene", temperature=1))[0] == 429


async def test_a_condition_that_raises_is_a_500_that_says_so(http, fake_fleet):
    fleet = fake_fleet(faults=(Fault("hang", when=lambda body: body["nothing"]),))
    status, answer = await ask(http, fleet.urls[0])
    assert status == 500
    assert "KeyError('nothing')" in answer["error"]["message"]


# Latency, slots and the queue


async def test_requests_beyond_capacity_wait_in_order(http, fake_fleet):
    fleet = fake_fleet(capacity=1, latency=0.02)
    tasks = []
    for i in range(4):
        tasks.append(asyncio.create_task(ask(http, fleet.urls[0], f"{i}")))
        await fleet.until(lambda record, i=i: record.arrived > i)
    await asyncio.gather(*tasks)
    rows = fleet.record().requests
    assert [row.prompt for row in rows] == ["0", "1", "2", "3"]
    assert rows[3].ended - rows[0].arrived >= 0.07


@pytest.mark.parametrize("overload", [503, 429])
async def test_requests_beyond_the_queue_are_turned_away(http, fake_fleet, overload):
    fleet = fake_fleet(
        capacity=1, max_queue=1, overload=overload, faults=(Fault("hang", contains="stuck"),)
    )
    stuck = asyncio.create_task(ask(http, fleet.urls[0], "stuck"))
    await fleet.until(lambda record: record.arrived == 1)
    waiting = asyncio.create_task(ask(http, fleet.urls[0], "waits"))
    await fleet.until(lambda record: record.arrived == 2)
    assert (await ask(http, fleet.urls[0], "one too many"))[0] == overload
    stuck.cancel()  # frees the slot
    assert (await waiting)[0] == 200


async def test_a_client_that_leaves_the_queue_takes_no_slot(http, fake_fleet):
    fleet = fake_fleet(capacity=1, faults=(Fault("hang", contains="stuck"),))
    stuck = asyncio.create_task(ask(http, fleet.urls[0], "stuck"))
    await fleet.until(lambda record: record.in_flight == 1)
    waiting = asyncio.create_task(ask(http, fleet.urls[0], "waits"))
    await fleet.until(lambda record: record.in_flight == 2)
    waiting.cancel()
    record = await fleet.until(lambda record: record.served == 1)
    row = record.requests[0]
    assert (row.prompt, row.closed_early, row.fault) == ("waits", True, None)
    stuck.cancel()
    await fleet.until(lambda record: record.served == 2)
    assert (await ask(http, fleet.urls[0], "next"))[0] == 200


async def test_a_client_that_leaves_during_the_latency_is_noticed(http, fake_fleet):
    fleet = fake_fleet(latency=30, capacity=1)
    task = asyncio.create_task(ask(http, fleet.urls[0]))
    await fleet.until(lambda record: record.in_flight == 1)
    task.cancel()
    record = await fleet.until(lambda record: record.served == 1)
    assert record.closed_early == 1


async def test_a_long_queue_is_no_deep_stack(http, fake_fleet):
    fleet = fake_fleet(capacity=1, faults=(Fault("hang", contains="stuck"),))
    stuck = asyncio.create_task(ask(http, fleet.urls[0], "stuck"))
    await fleet.until(lambda record: record.in_flight == 1)
    tasks = [asyncio.create_task(ask(http, fleet.urls[0], f"{i}")) for i in range(600)]
    await fleet.until(lambda record: record.in_flight == 601)
    stuck.cancel()
    assert {status for status, _ in await asyncio.gather(*tasks)} == {200}
    assert fleet.record().peak_in_flight == 601


async def test_latency_per_token(http, fake_fleet):
    fleet = fake_fleet(latency=Constant(0.0, per_token=0.01), answer="a" * 40)
    await ask(http, fleet.urls[0])
    await ask(http, fleet.urls[0], max_tokens=2)
    long, short = fleet.record().requests
    assert long.ended - long.arrived >= 0.09
    assert short.ended - short.arrived >= 0.015


def test_laws_follow_the_chance():
    assert Uniform(1, 3, per_token=0.5).seconds(0.5, 4) == 4.0
    assert Lognormal(2.0, sigma=0.5).seconds(0.5, 0) == pytest.approx(2.0)
    assert Lognormal(2.0, sigma=0.5).seconds(0.99, 0) == pytest.approx(6.4, rel=0.01)


async def test_a_random_law_is_seeded(http, fake_fleet):
    fleet = fake_fleet(latency=Uniform(0.0, 0.2), seed=3)
    await asyncio.gather(*(ask(http, fleet.urls[0], f"{i}") for i in range(10)))
    for row in fleet.record().requests:
        attempt = Attempt({}, row.prompt, 0, 0)
        expected = 0.2 * Dice("3").chance(attempt, "latency")
        assert row.ended - row.arrived >= expected - 0.002


def test_dice_are_even():
    dice = Dice("0")
    chances = [dice.chance(Attempt({}, f"{i}", 0, 0), "x") for i in range(2000)]
    assert 0.45 < sum(chances) / len(chances) < 0.55
    assert 0 < min(chances) < 0.01
    assert 0.99 < max(chances) < 1


# The record


async def test_the_record_knows_reused_connections(http, fake_fleet):
    fleet = fake_fleet()
    for i in range(3):
        await ask(http, fleet.urls[0], f"{i}")
    record = fleet.record()
    assert [row.reused for row in record.requests] == [False, True, True]
    assert record.connections == 1
    assert record.endpoints[0].reused == 2


async def test_peaks_are_per_endpoint_and_over_the_fleet(http, fake_fleet):
    fleet = fake_fleet(endpoints=2, faults=(Fault("hang", contains="stuck"),))
    counts = [3, 2]
    tasks = [
        asyncio.create_task(ask(http, url, "stuck"))
        for url, count in zip(fleet.urls, counts, strict=True)
        for _ in range(count)
    ]
    await fleet.until(lambda record: record.in_flight == 5)
    for task in tasks:
        task.cancel()
    record = await fleet.until(lambda record: record.in_flight == 0)
    assert [endpoint.peak_in_flight for endpoint in record.endpoints] == counts
    assert record.peak_in_flight == 5


async def test_long_prompts_are_recorded_as_hashes(http, fake_fleet):
    fleet = fake_fleet()
    long = "long " * 100
    await ask(http, fleet.urls[0], long)
    (row,) = fleet.record().requests
    assert row.prompt == prompt_id(long)
    assert row.prompt.startswith("sha256:")


async def test_counts_keep_no_requests(http, fake_fleet):
    fleet = fake_fleet(record="counts")
    await ask(http, fleet.urls[0])
    record = fleet.record()
    assert (record.served, record.peak_in_flight) == (1, 1)
    with pytest.raises(ValueError, match="record='full'"):
        _ = record.requests


async def test_a_reset_record_starts_from_what_is_in_flight(http, fake_fleet):
    fleet = fake_fleet(faults=(Fault("hang", contains="stuck"), Fault("http_500", times=1)))
    assert (await ask(http, fleet.urls[0], "a"))[0] == 500
    stuck = asyncio.create_task(ask(http, fleet.urls[0], "stuck"))
    await fleet.until(lambda record: record.in_flight == 1)
    fleet.reset_record()
    record = fleet.record()
    assert (record.served, record.in_flight, record.peak_in_flight) == (0, 1, 1)
    assert (record.requests, record.faults) == ((), {})
    assert (await ask(http, fleet.urls[0], "a"))[0] == 200  # faults remember
    stuck.cancel()
    record = await fleet.until(lambda record: record.in_flight == 0)
    assert record.served == 2


def test_waiting_in_vain_says_where_it_stands(fake_fleet):
    fleet = fake_fleet()
    with pytest.raises(TimeoutError, match="0 requests ended, 0 are in flight"):
        fleet.wait(lambda record: record.served == 1, timeout=0.01)
    assert fleet.wait(lambda record: record.served == 0).served == 0


async def test_waiting_in_vain_in_async_tests(fake_fleet):
    fleet = fake_fleet()
    with pytest.raises(TimeoutError):
        await fleet.until(lambda record: record.served == 1, timeout=0.01)


# Life


@pytest.mark.parametrize("processes", [0, 1])
async def test_a_killed_endpoint_refuses_until_it_is_revived(http, fake_fleet, processes):
    fleet = fake_fleet(endpoints=2, latency=30, processes=processes)
    url = fleet.urls[0]
    task = asyncio.create_task(ask(http, url))
    await fleet.until(lambda record: record.in_flight == 1)
    fleet.kill(0)
    fleet.kill(0)
    with pytest.raises(aiohttp.ClientError):
        await task
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask(http, url)
    (row,) = fleet.record().requests
    assert (row.status, row.fault, row.closed_early) == (0, "killed", False)
    fleet.revive(0)
    fleet.change(0, latency=0.0)
    assert fleet.urls[0] == url
    assert (await ask(http, url))[0] == 200


async def test_change_applies_from_the_next_request_on(http, fake_fleet):
    fleet = fake_fleet(endpoints=2)
    fleet.change(0, faults=(Fault("http_503"),))
    assert [(await ask(http, url))[0] for url in fleet.urls] == [503, 200]
    fleet.change(0, faults=(), capacity=1)
    assert (await ask(http, fleet.urls[0]))[0] == 200


async def test_more_capacity_lets_the_waiting_in(http, fake_fleet):
    fleet = fake_fleet(capacity=1, faults=(Fault("hang", contains="stuck"),))
    stuck = asyncio.create_task(ask(http, fleet.urls[0], "stuck"))
    await fleet.until(lambda record: record.in_flight == 1)
    waiting = asyncio.create_task(ask(http, fleet.urls[0], "waits"))
    await fleet.until(lambda record: record.in_flight == 2)
    fleet.change(0, capacity=2)
    assert (await waiting)[0] == 200
    stuck.cancel()


async def test_endpoints_may_differ(http, fake_fleet):
    fleet = fake_fleet([FakeEndpoint(answer="one"), FakeEndpoint(answer="two")])
    assert [content((await ask(http, url))[1]) for url in fleet.urls] == ["one", "two"]
    assert len(fleet) == 2


async def test_async_with_and_a_second_start():
    fleet = FakeFleet()
    for _ in range(2):
        async with fleet, aiohttp.ClientSession() as session:
            assert (await ask(session, fleet.urls[0]))[0] == 200
            assert fleet.record().served == 1
    with pytest.raises(RuntimeError, match="not running"):
        _ = fleet.urls


def test_nothing_is_left_behind():
    threads = set(threading.enumerate())
    files = set(Path("/proc/self/fd").iterdir()) if Path("/proc/self/fd").exists() else set()
    with FakeFleet(3) as fleet, FakeFleet(2, processes=2) as remote:
        ports = [int(url.split(":")[2].removesuffix("/v1")) for url in fleet.urls + remote.urls]
        pids = remote.pids
        assert len(pids) == 2
    assert set(threading.enumerate()) <= threads
    for port in ports:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    if files:
        assert len(set(Path("/proc/self/fd").iterdir())) <= len(files) + 1


def test_a_port_can_be_chosen_and_is_not_shared():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with FakeFleet(port=port) as fleet:
        assert fleet.urls == [f"http://127.0.0.1:{port}/v1"]
        for processes in (0, 1):
            with pytest.raises(OSError, match="in use"):
                FakeFleet(port=port, processes=processes).start()
        with pytest.raises(RuntimeError, match="running already"):
            fleet.start()
    with FakeFleet(port=port):
        pass


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: FakeFleet(0), "at least one endpoint"),
        (lambda: FakeFleet([FakeEndpoint()], latency=1.0), "put latency into"),
        (lambda: FakeEndpoint(capacity=0), "capacity=0"),
        (lambda: FakeEndpoint(latency=-1.0), "latency=-1.0"),
        (lambda: FakeEndpoint(max_queue=-1), "max_queue=-1"),
        (lambda: FakeEndpoint(models="tiny"), "tuple of names"),
        (lambda: Fault("http_999"), "unknown"),
        (lambda: Fault("http_500", rate=2), "between 0 and 1"),
        (lambda: Fault("http_500", retry_after=1), "no Retry-After"),
        (lambda: Fault("http_500", seconds=1), "takes no seconds"),
        (lambda: Fault("slow"), "needs seconds"),
    ],
)
def test_what_would_have_no_meaning_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_mistakes_with_a_running_fleet(fake_fleet):
    fleet = fake_fleet()
    with pytest.raises(IndexError, match="no endpoint 1"):
        fleet.kill(1)
    with pytest.raises(ValueError, match="keeps its port"):
        fleet.change(0, port=1)


def test_a_key_does_not_show():
    assert "secret" not in repr(FakeEndpoint(api_key="sk-secret"))


# Processes


async def test_processes_serve_and_aggregate(http, fake_fleet):
    faults = (Fault("hang", contains="stuck"), Fault("http_500", times=1))
    fleet = fake_fleet(endpoints=3, processes=2, faults=faults)
    assert [(await ask(http, url, "same"))[0] for url in fleet.urls] == [500, 500, 200]
    record = fleet.record()  # endpoints 0 and 2 share a process, in which `times` is counted
    assert record.statuses == {500: 2, 200: 1}
    assert [row.endpoint for row in record.requests] == [0, 1, 2]
    assert record.peak_in_flight == 1
    stuck = [asyncio.create_task(ask(http, url, "stuck")) for url in fleet.urls]
    record = await fleet.until(lambda record: record.in_flight == 3)
    assert record.peak_in_flight == 3
    for task in stuck:
        task.cancel()
    record = await fleet.until(lambda record: record.in_flight == 0)
    assert (record.served, record.closed_early, record.peak_in_flight) == (6, 3, 3)
    fleet.reset_record()
    assert fleet.record().served == 0


def test_functions_of_a_process_must_be_importable():
    with pytest.raises(ValueError, match="importable module"):
        FakeFleet(processes=1, answer=lambda _: "x").start()
    with (
        FakeFleet(processes=1) as fleet,
        pytest.raises(ValueError, match="importable module"),
    ):
        fleet.change(0, answer=lambda _: "x")


async def test_functions_of_modules_reach_a_process(http, fake_fleet, tmp_path, monkeypatch):
    (tmp_path / "rules_for_fleet.py").write_text(
        "def rule(body):\n    print('x')\n    return 'y'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rule = __import__("rules_for_fleet").rule
    fleet = fake_fleet(processes=1, answer=rule)
    assert content((await ask(http, fleet.urls[0]))[1]) == "y"
    assert fleet.record().served == 1


def test_a_process_that_died_is_told():
    with FakeFleet(processes=1) as fleet:
        os.kill(fleet.pids[0], signal.SIGKILL)
        with pytest.raises(RuntimeError, match="has died"):
            fleet.wait(lambda _: False)
        with pytest.raises(RuntimeError, match="has died"):
            fleet.reset_record()
    with pytest.raises(RuntimeError, match="not running"):
        fleet.record()


def test_a_process_obeys_until_its_pipe_ends(tmp_path):
    spec = HostSpec({4: FakeEndpoint()}, "0", "full")
    commands = [spec, ("record", ()), ("kill", (9,))]
    (tmp_path / "in").write_bytes(b"".join(map(pickle.dumps, commands)))
    with (tmp_path / "in").open("rb") as commanded, (tmp_path / "out").open("wb") as answered:
        obey(LocalHost, commanded, answered)
    with (tmp_path / "out").open("rb") as answered:
        ports, record, error = (pickle.load(answered) for _ in range(3))
    assert list(ports) == [4]
    assert record.endpoints[4].served == 0
    assert isinstance(error, KeyError)


def test_peaks_of_several_processes_that_only_count_are_a_bound():
    hosts = [HostRecord({}, None, (), 3), HostRecord({}, None, (), 4)]
    assert merge(hosts).peak_in_flight == 7


def test_the_fleet_imports_no_langgraph_and_no_langchain():
    code = (
        "import sys, langgraph_hpc_fanout.testing.fleet;"
        "print([name for name in sys.modules if name.split('.')[0] in"
        " ('langgraph', 'langchain_core', 'langchain', 'aiohttp', 'pydantic')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# The command


def test_the_command_serves_until_it_is_told_to_stop():
    command = [sys.executable, "-m", "langgraph_hpc_fanout.testing.fleet"]
    options = ["--endpoints", "2", "--fault", "http_500=0.1", "--latency", "0.01"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        urls = [process.stdout.readline().strip() for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
    assert all(url.startswith("http://127.0.0.1:") and url.endswith("/v1") for url in urls)
    assert process.returncode == 0
    assert rest.startswith("served 0, peak in flight 0")


def test_the_command_may_do_what_requests_ask_for():
    async def answer(url: str) -> Any:
        schema = {"type": "json_schema", "json_schema": {"schema": {"type": "integer"}}}
        async with aiohttp.ClientSession() as session:
            return content((await ask(session, url, "Is it 7?", response_format=schema))[1])

    command = [sys.executable, "-m", "langgraph_hpc_fanout.testing.fleet", "--scripted"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert asyncio.run(answer(process.stdout.readline().strip())) == "7"
        process.send_signal(signal.SIGTERM)


@pytest.fixture
def handlers():
    """Puts signal handlers back, and gives what waits for the command's own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop_when_ready() -> None:
        while signal.getsignal(signal.SIGINT) == before[signal.SIGINT]:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    yield stop_when_ready
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_command_prints_what_it_served(capsys, handlers):
    stopper = threading.Thread(target=handlers)
    stopper.start()
    main(["--model", "a", "--model", "b"])
    stopper.join()
    url, last = capsys.readouterr().out.splitlines()
    assert url.startswith("http://127.0.0.1:")
    assert last == "served 0, peak in flight 0, statuses {}, faults {}"


def test_the_command_tells_what_it_cannot_serve(capsys, handlers):
    with pytest.raises(SystemExit):
        main(["--capacity", "0"])
    assert "capacity=0" in capsys.readouterr().err


def test_latencies_and_faults_are_read_from_text():
    assert parse_latency("0.05") == Constant(0.05)
    assert parse_latency("uniform:0.01:0.1") == Uniform(0.01, 0.1)
    assert parse_latency("lognormal:0.05:0.5:0.001") == Lognormal(0.05, 0.5, 0.001)
    assert parse_fault("hang") == Fault("hang")
    assert parse_fault("http_429=0.1,retry_after=2,contains=CCO,times=1") == Fault(
        "http_429", rate=0.1, retry_after=2.0, contains="CCO", times=1
    )


@pytest.mark.parametrize("text", ["http_999", "http_500=x", "http_500,foo=1", "slow"])
def test_bad_faults_are_told(text, capsys, handlers):
    with pytest.raises(SystemExit):
        main(["--fault", text])
    assert "--fault" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["x", "gamma:1", "uniform:1"])
def test_bad_latencies_are_told(text, capsys, handlers):
    with pytest.raises(SystemExit):
        main(["--latency", text])
    assert "--latency" in capsys.readouterr().err
