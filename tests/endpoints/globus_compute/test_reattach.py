"""A coordinator is killed, another fetches what it has paid for: the real SDK and endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from globus_compute import QUICK, endpoint_of, quiet_sdk

from langgraph_hpc_fanout import Losses
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


@pytest.fixture(scope="module", params=["htex", "threads"])
def stack(request):
    quiet_sdk()
    with GlobusStack(request.param, workers=2, env={"PYTHONPATH": str(HERE)}) as stack:
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
    """A function that lets a coordinator send bundles, kills it, and returns its notes."""

    def kill(bundles, requests, when, **settings):
        notes = tmp_path / f"notes-{uuid4()}"
        notes.touch()
        given = [stack.url, stack.endpoint_id, fleet.urls[0], notes, bundles, requests]
        command = [sys.executable, str(HERE / "coordinator.py"), *map(str, given)]
        with subprocess.Popen([*command, json.dumps(settings)]) as coordinator:
            try:
                eventually(lambda: notes.read_bytes().count(b"\n") == bundles)
                eventually(lambda: when(fleet.record()))
            finally:
                coordinator.kill()
        lines = notes.read_text().splitlines()
        noted = [json.loads(line) for line in lines]
        return [Sent(each["task_id"], each["task_group_id"], tuple(each["keys"])) for each in noted]

    return kill


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


def asked_of(fleet):
    return sorted(row.prompt for row in fleet.record().requests)


def test_what_has_ended_and_what_is_running_is_fetched_and_nothing_asked_twice(
    stack, fleet, killed
):
    """Six bundles, of which two are worked on at once: some have ended, two run, two wait."""
    sent = killed(6, 8, lambda record: record.served >= 20, window=4)
    assert fleet.record().served < 48
    assert [len(each.keys) for each in sent] == [8] * 6
    endpoint = endpoint_of(stack, fleet, losses=PATIENT)
    assert isinstance(endpoint, Resumable)
    replies = reattached(endpoint, sent)
    assert sorted(replies) == sorted(keys_of(sent))
    assert right(replies)
    assert all(each.usage.total_tokens > 0 and each.seconds > 0.4 for each in replies.values())
    assert len(asked_of(fleet)) == len(set(asked_of(fleet))) == 48
    assert (endpoint.traffic.recalled, endpoint.traffic.requests) == (6, 0)
    assert endpoint.outstanding == ()


def test_results_that_were_abandoned_are_not_waited_for(stack, fleet, killed):
    stack.service.set_limits(retention=0.5)
    sent = killed(2, 4, lambda record: stack.service.record().results >= 2)
    time.sleep(0.6)
    assert reattached(endpoint_of(stack, fleet, losses=PATIENT), sent) == {}
    stack.service.set_limits(retention=1800.0)
    assert reattached(endpoint_of(stack, fleet, losses=PATIENT), sent) == {}, "it is final"


def test_two_reattach_at_once_and_new_bundles_are_sent_meanwhile(stack, fleet, killed):
    sent = killed(4, 8, lambda record: record.served >= 10, window=4)
    endpoint = endpoint_of(stack, fleet, losses=PATIENT)
    told = []
    endpoint.listen(told.append)

    async def main():
        mine = [Request("mine", "default", {"messages": [{"role": "user", "content": "Mine?"}]})]
        first, second, new = await asyncio.gather(
            fetched(endpoint, sent),
            fetched(endpoint, sent[1:]),
            anext(endpoint.send(mine)),
        )
        await endpoint.close()
        return first, second, new

    first, second, new = asyncio.run(main())
    assert sorted(first) == sorted(keys_of(sent))
    assert sorted(second) == sorted(keys_of(sent[1:]))
    assert new.failure is None
    assert len(asked_of(fleet)) == len(set(asked_of(fleet))) == 33
    assert endpoint.traffic.recalled == 4
    (noted,) = told
    assert noted.keys == ("mine",)
    assert noted.task_group_id not in {each.task_group_id for each in sent}


def test_functions_values_are_fetched(stack, fleet):
    """A second endpoint in this process fetches what the first has let go of."""
    first, second = endpoint_of(stack, fleet), endpoint_of(stack, fleet, losses=PATIENT)
    noted = []
    first.listen(noted.append)

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
    sent = killed(4, 8, lambda record: stack.service.record().results >= 1, window=4)
    stack.pause()
    try:
        replies = reattached(endpoint_of(stack, fleet, losses=QUICK), sent)
    finally:
        stack.resume()
    assert set() < set(replies) < set(keys_of(sent))


def test_an_endpoint_that_is_gone(stack, fleet, killed):
    """Its id is unknown to the service, as when it was deleted, and so are the tasks' ends."""
    sent = killed(3, 8, lambda record: record.arrived >= 1, window=1)
    gone = endpoint_of(stack, fleet, losses=replace(QUICK, deadline=1_000.0))
    gone.endpoint_id = UUID(int=7)
    assert len(reattached(gone, sent)) < 24


def test_tasks_of_a_user_endpoint_that_was_killed_are_given_up(stack, fleet, killed):
    sent = killed(4, 8, lambda record: record.served >= 16, window=4)
    stack.kill_user_endpoint()
    replies = reattached(endpoint_of(stack, fleet, losses=QUICK), sent)
    assert set(replies) <= set(keys_of(sent))
    assert right(replies)


def test_a_reattach_ends_at_once_when_it_is_cancelled_or_the_endpoint_closed(stack, fleet, killed):
    sent = killed(2, 8, lambda record: record.arrived >= 1, window=1)
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
    sent = killed(2, 4, lambda record: stack.service.record().results >= 2)
    stack.service.inject("http_503", times=2, route="batch_status")
    replies = reattached(endpoint_of(stack, fleet, losses=PATIENT), sent)
    assert sorted(replies) == sorted(keys_of(sent))
