"""A coordinator is killed, another fetches what it has paid for: the real SDK and endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from coordinator import chat
from globus_compute import QUICK, endpoint_of, quiet_sdk

from langgraph_hpc_fanout import Losses, Pool, Retry
from langgraph_hpc_fanout.endpoints.protocol import FUNCTIONS, Resumable, Sent
from langgraph_hpc_fanout.records import Request
from langgraph_hpc_fanout.testing import FakeFleet
from langgraph_hpc_fanout.testing.globus import GlobusStack

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket"),
    pytest.mark.filterwarnings("ignore:\\s*Environment differences"),
]
PATIENT = Losses(grace=60.0)


both_engines = pytest.mark.parametrize("stack", ["htex", "threads"], indirect=True)


@pytest.fixture(scope="module")
def stack(request):
    quiet_sdk()
    engine = getattr(request, "param", "threads")
    with GlobusStack(engine, workers=2, env={"PYTHONPATH": str(HERE)}) as stack:
        yield stack


@pytest.fixture(scope="module")
def fleet():
    with FakeFleet(latency=0.5, capacity=2_000, processes=1) as fleet:
        yield fleet


@pytest.fixture(autouse=True)
def as_new(stack, fleet):
    fleet.reset_record()
    yield
    gc.collect()
    stack.service.set_limits(retention=1800.0)
    stack.service.reset()


@pytest.fixture
def killed(stack, fleet, tmp_path):
    """A function that lets a coordinator send bundles, kills it, and returns its notes.

    Args: how many bundles; requests in each; how many requests or bundles are to be answered
    before it is killed.
    """

    def kill(bundles, requests, *, served=0, ended=0, **settings):
        name = uuid4().hex[:8]  # short, for the fleet's answers begin with the question
        notes = tmp_path / name
        notes.touch()
        given = [stack.url, stack.endpoint_id, fleet.urls[0], notes, name, bundles, requests]
        command = [sys.executable, str(HERE / "coordinator.py"), *map(str, given)]
        results = stack.service.record().results
        with subprocess.Popen([*command, json.dumps(settings)]) as coordinator:
            try:
                eventually(lambda: notes.read_bytes().count(b"\n") == bundles)
                eventually(lambda: len(asked_by(name, fleet)) >= served)
                eventually(lambda: stack.service.record().results >= results + ended)
            finally:
                coordinator.kill()
        noted = [json.loads(line) for line in notes.read_text().splitlines()]
        return [Sent(**{**each, "keys": tuple(each["keys"])}) for each in noted]

    return kill


def asked_by(name, fleet):
    """Prompts that were answered to a coordinator's bundles; others may still be at work."""
    return [row.prompt for row in fleet.record().requests if name in row.prompt]


def once_each(sent, fleet):
    """Whether each request of these bundles was asked once."""
    (name,) = {key.partition("-")[0] for key in keys_of(sent)}
    return sorted(asked_by(name, fleet)) == sorted(f"Is {key} soluble?" for key in keys_of(sent))


def eventually(holds, patience=60):
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


async def fetched(endpoint, sent):
    """Replies by key; each key comes once."""
    replies = {}
    async with contextlib.aclosing(endpoint.reattach(sent)) as found:
        async for key, reply in found:
            assert key not in replies
            replies[key] = reply
    return replies


def reattached(endpoint, sent):
    """Reattach on a loop of its own, and close."""

    async def main():
        try:
            return await fetched(endpoint, sent)
        finally:
            await endpoint.close()

    return asyncio.run(main())


def keys_of(sent):
    return [key for each in sent for key in each.keys]


def right(replies):
    """Whether each reply is the answer to its key's question."""
    return all(
        f"Is {key} soluble?" in each.body["choices"][0]["message"]["content"]
        for key, each in replies.items()
    )


@both_engines
def test_what_has_ended_and_what_is_running_is_fetched_and_nothing_asked_twice(
    stack, fleet, killed
):
    """Six bundles, of which two are worked on at once: some have ended, two run, two wait."""
    sent = killed(6, 8, served=20, window=4)
    assert not once_each(sent, fleet)
    assert [len(each.keys) for each in sent] == [8] * 6
    endpoint = endpoint_of(stack, fleet, losses=PATIENT)
    assert isinstance(endpoint, Resumable)
    replies = reattached(endpoint, sent)
    assert sorted(replies) == sorted(keys_of(sent))
    assert right(replies)
    assert all(each.usage.total_tokens > 0 and each.seconds > 0.4 for each in replies.values())
    assert once_each(sent, fleet)
    assert (endpoint.traffic.recalled, endpoint.traffic.requests) == (6, 0)
    assert endpoint.outstanding == ()


def test_results_that_were_abandoned_are_not_waited_for(stack, fleet, killed):
    stack.service.set_limits(retention=0.5)
    sent = killed(2, 4, ended=2)
    time.sleep(0.6)
    assert reattached(endpoint_of(stack, fleet, losses=PATIENT), sent) == {}
    stack.service.set_limits(retention=1800.0)
    assert reattached(endpoint_of(stack, fleet, losses=PATIENT), sent) == {}, "it is final"


def test_two_reattach_at_once_and_new_bundles_are_sent_meanwhile(stack, fleet, killed):
    sent = killed(4, 8, served=10, window=4)
    endpoint = endpoint_of(stack, fleet, losses=PATIENT)
    told = []
    endpoint.listen(told.extend)

    async def main():
        first, second, new = await asyncio.gather(
            fetched(endpoint, sent),
            fetched(endpoint, sent[1:]),
            anext(endpoint.send([chat("mine")])),
        )
        await endpoint.close()
        return first, second, new

    first, second, new = asyncio.run(main())
    assert sorted(first) == sorted(keys_of(sent))
    assert sorted(second) == sorted(keys_of(sent[1:]))
    assert new.failure is None
    assert once_each(sent, fleet)
    assert endpoint.traffic.recalled == 4
    (noted,) = told
    assert noted.keys == ("mine",)
    assert noted.task_group_id not in {each.task_group_id for each in sent}


def test_functions_values_are_fetched(stack, fleet):
    """A second endpoint in this process fetches what the first has let go of."""
    first, second = endpoint_of(stack, fleet), endpoint_of(stack, fleet, losses=PATIENT)
    noted = []
    first.listen(noted.extend)

    async def main():
        requests = [
            Request(str(n), FUNCTIONS, {"item": 0.5 + n}, function="node_tasks:sleep")
            for n in range(2)
        ]
        sending = asyncio.ensure_future(anext(first.send(requests)))
        while not noted:
            await asyncio.sleep(0.02)
        assert first.outstanding == tuple(noted)
        sending.cancel()
        await first.close()
        replies = await fetched(second, noted)
        await second.close()
        return replies

    replies = asyncio.run(main())
    assert {key: each.body["value"] for key, each in replies.items()} == {"0": 0.5, "1": 1.5}


def test_an_endpoint_that_is_offline_ends_the_wait_for_what_it_had(stack, fleet, killed):
    sent = killed(4, 8, ended=1, window=4)
    stack.pause()
    try:
        replies = reattached(endpoint_of(stack, fleet, losses=QUICK), sent)
    finally:
        stack.resume()
    assert set() < set(replies) < set(keys_of(sent))


def test_an_endpoint_that_is_gone(stack, fleet, killed):
    """Its id is unknown to the service, as when it was deleted, and so are the tasks' ends."""
    sent = killed(5, 8, served=1, window=1)
    gone = endpoint_of(stack, fleet, losses=replace(QUICK, deadline=1_000.0))
    gone.endpoint_id = UUID(int=7)
    assert len(reattached(gone, sent)) < 40


@both_engines
def test_tasks_of_a_user_endpoint_that_was_killed_are_given_up(stack, fleet, killed):
    sent = killed(4, 8, served=10, window=4)
    stack.kill_user_endpoint()
    replies = reattached(endpoint_of(stack, fleet, losses=QUICK), sent)
    assert set(replies) <= set(keys_of(sent))
    assert right(replies)


def test_a_reattach_ends_at_once_when_it_is_cancelled_or_the_endpoint_closed(stack, fleet, killed):
    sent = killed(2, 8, window=1)
    endpoint = endpoint_of(stack, fleet, losses=PATIENT)

    async def main():
        cancelled, closed = (asyncio.ensure_future(fetched(endpoint, sent)) for _ in range(2))
        while len(endpoint.outstanding) < 2:
            await asyncio.sleep(0.02)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert endpoint.outstanding == tuple(sent)
        await endpoint.close()
        return await closed

    assert set(asyncio.run(main())) < set(keys_of(sent))


def test_a_service_that_falters_while_it_is_asked(stack, fleet, killed):
    sent = killed(2, 4, ended=2)
    stack.service.inject("http_503", times=2, route="batch_status")
    replies = reattached(endpoint_of(stack, fleet, losses=PATIENT), sent)
    assert sorted(replies) == sorted(keys_of(sent))


def test_results_that_are_not_ours_are_neither_opened_nor_waited_for(stack, fleet):
    """Results of another program, by dill, which would run code; and of one that raised."""
    client = stack.client()
    functions = [client.register_function(function) for function in (abs, len)]
    tasks = [client.run(-3, endpoint_id=stack.endpoint_id, function_id=f) for f in functions]
    eventually(lambda: stack.service.record().results >= 2)
    sent = [Sent(task, str(uuid4()), ("key",), 1.0) for task in tasks]
    endpoint = endpoint_of(stack, fleet, losses=PATIENT)
    assert reattached(endpoint, sent) == {}
    assert endpoint.traffic.recalled == 0


@pytest.mark.parametrize("stack", ["htex"], indirect=True)
def test_a_worker_that_died_under_an_earlier_process_makes_its_requests_suspect(
    stack, fleet, caplog
):
    caplog.set_level("INFO", "langgraph_hpc_fanout")
    first = endpoint_of(stack, fleet)
    second = endpoint_of(stack, fleet, losses=PATIENT, window=16)
    noted = []
    first.listen(noted.extend)
    items = [*(f"C{n}" for n in range(20)), "poison"]
    requests = [Request(i, FUNCTIONS, {"item": i}, function="node_tasks:may_kill") for i in items]

    async def main():
        sending = asyncio.ensure_future(anext(first.send(requests)))
        while not noted:
            await asyncio.sleep(0.02)
        sending.cancel()
        await first.close()
        assert await fetched(second, noted) == {}
        replies = [reply async for reply in second.send(requests[:20])]
        traffic = second.traffic
        await second.close()
        return replies, traffic

    replies, traffic = asyncio.run(main())
    assert "A worker of the Globus Compute endpoint node died under its bundle" in caplog.text
    assert all(reply.failure is None for reply in replies)
    assert traffic.bundles > 1, "they were cut smaller"


def test_a_bundle_is_told_of_before_anything_comes_of_it(stack, fleet):
    endpoint = endpoint_of(stack, fleet)
    told = []

    def slow(bundles):
        (sent,) = bundles
        time.sleep(1.5)  # longer than the bundle takes
        told.append((sent, endpoint.traffic.bundles, threading.current_thread().name))

    endpoint.listen(slow)
    end = endpoint.listen(told.extend)

    async def main():
        (first,) = [reply async for reply in endpoint.send([chat("one")])]
        assert len(told) == 2, "the reply came after both knew"
        end()
        await endpoint.close()
        (second,) = [reply async for reply in endpoint.send([chat("two")])]
        await endpoint.close()
        return first, second

    assert all(reply.failure is None for reply in asyncio.run(main()))
    (first, bundles, thread), also, (second, _, _) = told
    assert (first.keys, second.keys, also) == (("one",), ("two",), first)
    assert (bundles, thread) == (0, "hpc-fanout-node-submit")


def test_a_bundle_that_is_sent_again_is_told_again_and_an_empty_one_is_not(stack, fleet):
    stack.service.inject("lost_result")
    with Pool([endpoint_of(stack, fleet)]) as pool:
        told = []
        pool.endpoints[0].listen(told.extend)
        reply = asyncio.run(pool.ask(chat("again"), Retry(base=0.01)))
    assert reply.failure is None
    assert [each.keys for each in told] == [("again",), ("again",)]
    assert told[0].task_id != told[1].task_id
    assert stack.service.record().tasks > 2, "an empty bundle asked whether anybody works"
