"""Batches over the fake gateway, with a worker that answers them."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from dataclasses import replace

import pytest
from batches import (
    GPT,
    QUICK,
    batch_over,
    is_right,
    requests_of,
    send,
)

from langgraph_hpc_fanout import FirstBatchEndpoint
from langgraph_hpc_fanout.endpoints.first.batches.routes import BatchRoutes
from langgraph_hpc_fanout.endpoints.http import Answer
from langgraph_hpc_fanout.endpoints.protocol import Resumable, Sent
from langgraph_hpc_fanout.testing.conformance import EndpointConformance
from langgraph_hpc_fanout.testing.first import ColdStart, Fault

LONG = ColdStart(queued=1e5, starting=0.0)


class TestConformance(EndpointConformance):
    at_once = 8

    @pytest.fixture
    def endpoint(self, gateway, tmp_path):
        fake = gateway()
        token = fake.token()
        self.secrets = (token,)
        return batch_over(fake, tmp_path, token=token)


async def test_a_bundle_is_one_batch(gateway, opened, tmp_path):
    fake = gateway()
    endpoint, health = await opened(fake)
    assert health.ok
    requests = requests_of(300)
    replies = await send(endpoint, requests)
    assert all(map(is_right, requests, replies))
    assert all(reply.usage.completion_tokens and not reply.usage.estimated for reply in replies)
    (batch,) = fake.record().batches
    assert (batch.lines, batch.model) == (300, "openai/gpt-oss-120b")
    assert not list(tmp_path.glob("*[!s].jsonl")), "the prompts are removed"
    assert len(list(tmp_path.glob("*.results.jsonl"))) == 1, "results stay"


@pytest.mark.parametrize("result", ["repr", "metrics"])
async def test_both_results_are_understood(gateway, opened, result):
    endpoint, _ = await opened(gateway(batching=replace(QUICK, result=result)))
    replies = await send(endpoint, requests_of(3))
    assert all(reply.failure is None and reply.seconds is not None for reply in replies)


async def test_lines_that_are_missing_are_tried_again(gateway, opened):
    fake = gateway(faults=[Fault("batch_loses", rate=0.3, route="batches")])
    endpoint, _ = await opened(fake)
    replies = await send(endpoint, requests_of(200))
    kinds = {reply.failure.kind for reply in replies if reply.failure is not None}
    assert kinds == {"transient"}
    (batch,) = fake.record().batches
    assert sum(reply.failure is None for reply in replies) == batch.responses < 200


async def test_what_is_too_long_for_a_batch_fails_when_it_comes_back(gateway, opened):
    fake = gateway(batching=replace(QUICK, context=100))
    endpoint, _ = await opened(fake)
    long = requests_of(1, prefix="x" * 2_000)
    first = await send(endpoint, requests_of(3) + long)
    assert [reply.failure and reply.failure.kind for reply in first] == [None] * 3 + ["transient"]
    (second,) = await send(endpoint, long)
    assert second.failure.kind == "permanent"
    assert "maximum context length" in second.failure.message
    assert len(fake.record().batches) == 1


async def test_what_a_failed_batch_has_answered_counts(gateway, opened):
    """The worker answers 200 lines at a time, and dies after the first."""
    fake = gateway(faults=[Fault("batch_fails", route="batches", times=1)])
    endpoint, _ = await opened(fake)
    replies = await send(endpoint, requests_of(500))
    failures = [reply.failure for reply in replies if reply.failure is not None]
    assert len(failures) == 300
    assert {failure.kind for failure in failures} == {"transient"}
    assert "WorkerLost" in failures[0].message


async def test_a_batch_that_brings_nothing_is_tried_again_later_and_later(gateway, opened):
    fake = gateway(batching=replace(QUICK, lines=2))
    endpoint, _ = await opened(fake)
    delays = []
    for _ in range(3):
        replies = await send(endpoint, requests_of(3))
        assert {reply.failure.kind for reply in replies} == {"transient"}
        assert "a batch takes 2" in replies[0].failure.message
        delays.append(replies[0].retry_after)
    assert delays == [0.02, 0.04, 0.08]


async def test_files_are_carried_there_and_back(gateway, tmp_path):
    there = tmp_path / "eagle"
    there.mkdir()
    fake = gateway()
    threads = set()

    def upload(path):
        threads.add(threading.current_thread())
        shutil.copy(path, there / path.name)
        return f"/eagle/{path.name}"

    async def fetch(path):
        return tmp_path / path.lstrip("/")

    endpoint = batch_over(fake, tmp_path / "here", upload=upload, fetch=fetch)
    await endpoint.open()
    assert (await endpoint.probe()).ok
    requests = requests_of(20)
    assert all(map(is_right, requests, await send(endpoint, requests)))
    assert threading.current_thread() not in threads
    assert not list((tmp_path / "here").iterdir())
    await endpoint.close()


async def test_results_that_come_late_are_waited_for(gateway, tmp_path):
    there, tries = tmp_path / "there", []
    there.mkdir()

    def upload(path):
        shutil.copy(path, there / path.name)
        return f"/there/{path.name}"

    def fetch(path):
        tries.append(path)
        if len(tries) == 1:
            raise ConnectionError("no route")
        return tmp_path / ("late" if len(tries) == 2 else path.lstrip("/"))

    fake = gateway()
    endpoint = batch_over(fake, None, upload=upload, fetch=fetch)
    await endpoint.open()
    await endpoint.probe()
    requests = requests_of(3)
    assert all(map(is_right, requests, await send(endpoint, requests)))
    assert len(tries) == 3
    assert len(fake.record().batches) == 1
    await endpoint.close()


async def test_an_upload_that_fails_costs_an_attempt(gateway, tmp_path):
    def upload(path):
        raise ConnectionError("no route")

    endpoint = batch_over(gateway(), tmp_path, upload=upload, fetch=lambda path: path)
    await endpoint.open()
    assert (await endpoint.probe()).ok
    (reply,) = await send(endpoint, requests_of(1))
    assert reply.failure.kind == "transient"
    assert "cannot be carried to the cluster: ConnectionError('no route')" in reply.failure.message
    assert reply.tries == 0, "nothing was submitted, so it costs nothing"
    assert (await endpoint.probe()).ok, "it may be otherwise in a while"
    await endpoint.close()


async def test_an_upload_keeps_the_files_name(gateway, tmp_path):
    endpoint = batch_over(
        gateway(), tmp_path, upload=lambda path: "/eagle/in.jsonl", fetch=lambda path: path
    )
    await endpoint.open()
    await endpoint.probe()
    (reply,) = await send(endpoint, requests_of(1))
    assert reply.failure.kind == "transient"
    assert "must keep its name" in reply.failure.message
    await endpoint.close()


# One at a time


async def test_endpoints_of_one_user_take_turns(gateway, opened):
    fake = gateway()
    token = fake.token()
    endpoints = [(await opened(fake, token=token, name=f"e{n}"))[0] for n in range(3)]
    requests = [requests_of(20, prefix=f"e{n}") for n in range(3)]
    answers = await asyncio.gather(*map(send, endpoints, requests))
    assert all(
        all(map(is_right, mine, replies)) for mine, replies in zip(requests, answers, strict=True)
    )
    record = fake.record()
    assert len(record.batches) == 3
    assert not record.reasons["quota_exceeded"]


async def test_somebody_elses_batch_is_waited_for_in_words(gateway, opened):
    fake = gateway(cold_start=LONG)
    token = fake.token()
    first, _ = await opened(fake, token=token)
    sending = asyncio.create_task(send(first, requests_of(5)))
    await fake.until(lambda record: record.batches)
    sending.cancel()
    await asyncio.wait([sending])
    await first.close()
    await first.open()

    health = await first.probe()
    assert not health.ok
    assert health.retry_after == 0.02
    (batch,) = fake.record().batches
    assert f"waits for batch {batch.id}" in health.failure.message
    assert first.models, "a run may wait for it"
    replies = await send(first, requests_of(2))
    assert {reply.failure.kind for reply in replies} == {"cold"}
    assert "waits for batch" in replies[0].failure.message
    await asyncio.to_thread(fake.advance, 1.5e5)
    while not (await first.probe()).ok:
        await asyncio.sleep(0.01)


# What cannot be


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "gpt-oss-20b"}, "unavailable"),
        ({"model": "gpt-oss-120"}, "did you mean"),
    ],
)
async def test_a_model_without_batches_is_left_alone(gateway, tmp_path, settings, words):
    fake = gateway()
    endpoint = FirstBatchEndpoint(
        "sophia",
        directory=tmp_path,
        base_url=fake.url,
        token=fake.token(),
        poll=0.02,
        **settings,
    )
    await endpoint.open()
    health = await endpoint.probe()
    if health.ok:
        (reply,) = await send(endpoint, requests_of(1, model=settings["model"]))
        assert reply.failure.kind == "cold", "it says nothing of the item"
        health = await endpoint.probe()
    assert not health.ok
    assert health.retry_after is None
    assert words in health.failure.message
    await endpoint.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("policies", "auth"), ("unauthorized", "auth"), ("not_permitted", "cold")],
)
async def test_who_may_not_submit_is_told(gateway, opened, kind, expected):
    fake = gateway(faults=[Fault(kind, route="batches")])
    endpoint, _ = await opened(fake)
    replies = await send(endpoint, requests_of(2))
    assert {reply.failure.kind for reply in replies} == {expected}
    assert {reply.tries for reply in replies} == {0}
    assert not fake.record().batches


@pytest.mark.parametrize("kind", ["throttled", "internal_error", "html_503", "disconnect"])
async def test_a_submit_is_tried_again(gateway, opened, kind):
    fake = gateway(faults=[Fault(kind, route="batches", times=1)])
    endpoint, _ = await opened(fake)
    requests = requests_of(5)
    assert all(map(is_right, requests, await send(endpoint, requests)))
    assert len(fake.record().batches) == 1


async def test_a_submit_whose_answer_was_lost_is_not_made_again(gateway, opened, monkeypatch):
    fake = gateway()
    endpoint, _ = await opened(fake)
    submit = BatchRoutes.submit

    async def lost(routes, *arguments):
        await submit(routes, *arguments)
        raise TimeoutError

    monkeypatch.setattr(BatchRoutes, "submit", lost)
    requests = requests_of(5)
    assert all(map(is_right, requests, await send(endpoint, requests)))
    assert len(fake.record().batches) == 1


@pytest.mark.parametrize(
    ("answer", "tries"),
    [
        (TimeoutError(), 1),
        (Answer(502, b"", None), 1),
        (Answer(408, b"", None), 1),
        (Answer(200, b"{}", None), 1),
        (Answer(503, b"", None), 0),
        (Answer(429, b"", None), 0),
    ],
)
async def test_only_what_was_surely_not_submitted_costs_nothing(
    gateway, opened, monkeypatch, answer, tries
):
    async def submit(*arguments):
        if isinstance(answer, Exception):
            raise answer
        return answer

    endpoint, _ = await opened(gateway())
    monkeypatch.setattr(BatchRoutes, "submit", submit)
    (reply,) = await send(endpoint, requests_of(1))
    assert reply.tries == tries


async def test_a_directory_that_only_this_machine_sees_costs_one_batch(gateway, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    fake = gateway(files=tmp_path / "there")
    endpoint = batch_over(fake, tmp_path / "here")
    await endpoint.open()
    assert (await endpoint.probe()).ok
    (reply,) = await send(endpoint, requests_of(1))
    assert reply.failure.kind == "cold"
    assert "Give a directory= that this machine and the cluster both see" in reply.failure.message
    assert not (await endpoint.probe()).ok
    await endpoint.close()


async def test_a_directory_that_cannot_be_written_is_told(gateway, tmp_path):
    (tmp_path / "file").touch()
    fake = gateway()
    endpoint = batch_over(fake, tmp_path / "file" / "below")
    await endpoint.open()
    assert (await endpoint.probe()).ok
    (reply,) = await send(endpoint, requests_of(1))
    assert reply.failure.kind == "cold"
    assert "Not a directory" in reply.failure.message
    assert "directory= must be there" in reply.failure.message
    assert reply.tries == 0
    assert not (await endpoint.probe()).ok
    await endpoint.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"directory": None}, "absolute path"),
        ({"directory": "here"}, "absolute path"),
        ({"upload": str}, "upload= and fetch="),
        ({"poll": 0.0}, "poll=0.0"),
        ({"least": 1}, "least=1"),
        ({"model": None}, "names no model"),
        ({"base_url": "https://first.example/api"}, "version 2 of the gateway and has no batches"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings, words, monkeypatch):
    monkeypatch.delenv("FIRST_MODEL", raising=False)
    given = {"model": GPT, "directory": "/eagle/x", "token": "t", **settings}
    with pytest.raises(ValueError, match=words):
        FirstBatchEndpoint("sophia", **given)


# Outliving a process


async def test_a_cancelled_batch_goes_on_and_is_taken_later(gateway, opened, caplog):
    fake = gateway(cold_start=LONG)
    token = fake.token()
    first, _ = await opened(fake, token=token)
    noted = []
    first.listen(noted.extend)
    requests = requests_of(30)
    sending = asyncio.create_task(send(first, requests))
    await fake.until(lambda record: record.batches)
    with caplog.at_level(logging.WARNING):
        sending.cancel()
        await asyncio.wait([sending])
    assert sending.cancelled()
    await first.close()
    assert sum("goes on" in record.message for record in caplog.records) == 1

    second, _ = await opened(fake, token=token, name="another")
    assert isinstance(second, Resumable)
    found = asyncio.create_task(fetched(second, noted))
    await asyncio.sleep(0)
    await asyncio.to_thread(fake.advance, 1.5e5)
    replies = await found
    assert replies.keys() == {request.key for request in requests}
    assert all(is_right(request, replies[request.key]) for request in requests)
    assert len(fake.record().batches) == 1


async def fetched(endpoint, sent):
    return {key: reply async for key, reply in endpoint.reattach(sent)}


async def test_a_batch_is_noted_before_it_is_submitted(gateway, opened):
    fake = gateway()
    endpoint, _ = await opened(fake)
    seen = []
    endpoint.listen(lambda sent: seen.append((sent, fake.record().batches)))
    requests = requests_of(3)
    await send(endpoint, requests)
    ((sent, batches),) = seen
    assert [each.keys for each in sent] == [tuple(request.key for request in requests)]
    assert batches == ()


async def test_what_was_noted_and_never_submitted_is_asked_again(gateway, opened):
    endpoint, _ = await opened(gateway())
    never = Sent("0" * 16, "/eagle/hpc-fanout-0.jsonl", ("k",), 1.0)
    assert await fetched(endpoint, [never]) == {}


async def test_a_close_ends_what_waits(gateway, opened):
    fake = gateway(cold_start=LONG)
    endpoint, _ = await opened(fake, poll=600.0)
    sending = asyncio.create_task(send(endpoint, requests_of(3)))
    await fake.until(lambda record: record.batches)
    await endpoint.close()
    replies = await sending
    assert {reply.failure.kind for reply in replies} == {"permanent"}, "it goes on: not elsewhere"
    assert all(reply.failure.retryable for reply in replies), "the next run may ask"
