"""FirstFake: models that must be woken, and what that costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
from first_client import COLD, HOT, Client, content

from langgraph_hpc_fanout.testing.first import ColdStart, Fault, Quotas
from langgraph_hpc_fanout.testing.fleet import echo

ClientFactory = Callable[..., Client]
KEY = f"sophia/{COLD}"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


@pytest.fixture
def client(http, first_fake) -> ClientFactory:
    def make(**options) -> Client:
        quotas = Quotas(requests=None, user_tokens=None, model_tokens=None)
        return Client(http, first_fake(**{"time_scale": 0.0, "quotas": quotas, **options}))

    return make


async def ask_and_wait(alice: Client, count: int = 1) -> list[asyncio.Future]:
    """Ask the cold model so many questions; returns when all wait for it."""
    asked = [asyncio.ensure_future(alice.chat(f"{n}", model=COLD)) for n in range(count)]
    await alice.fake.until(lambda record: record.models[KEY].in_flight == count)
    return asked


async def status_of(alice: Client, model: str = COLD) -> str:
    _, jobs = await alice.get("/sophia/jobs")
    for state in ("running", "queued"):
        for job in jobs[state]:
            if job["Models"] == model:
                return job["Model Status"]
    return "offline"


async def test_a_probe_times_out_and_its_task_runs_for_nobody(client):
    alice = client()
    [probe] = await ask_and_wait(alice)
    alice.fake.advance(299.0)
    assert not probe.done()
    alice.fake.advance(1.0)
    status, body = await probe
    assert (status, body["error"]["code"]) == (408, "request_timeout")
    model = alice.fake.record().models[KEY]
    assert (model.tasks, model.wasted, model.wakeups) == (0, 0, 1)
    alice.fake.advance(420.0)
    record = alice.fake.record()
    assert (record.models[KEY].tasks, record.wasted) == (1, 1)
    assert record.requests[0].task == body["error"]["info"]["task_id"]


async def test_a_burst_is_queued_whole_and_the_rest_is_told_to_wait(client):
    alice = client()
    burst = await ask_and_wait(alice, 20)
    alice.fake.advance(1.0)
    status, body = await alice.chat(model=COLD)
    assert (status, body["error"]["code"]) == (503, "internal_endpoint_error")
    assert "online but not ready to receive tasks" in body["error"]["message"]
    alice.fake.advance(299.0)
    assert [status for status, _ in await asyncio.gather(*burst)] == [408] * 20
    alice.fake.advance(420.0)
    model = alice.fake.record().models[KEY]
    assert (model.tasks, model.wasted, model.wakeups) == (20, 20, 1)
    assert model.refused == {"not_ready": 1, "timeout": 20}


async def test_after_ten_minutes_a_request_may_wait_again_and_be_served(client):
    alice = client()
    [probe] = await ask_and_wait(alice)
    alice.fake.advance(300.0)
    await probe
    alice.fake.advance(299.0)
    assert (await alice.chat(model=COLD))[0] == 503
    alice.fake.advance(1.5)
    [second] = await ask_and_wait(alice)
    alice.fake.advance(120.0)
    status, body = await second
    assert (status, content(body)) == (200, echo("0"))


async def test_jobs_show_it_queued_starting_running_and_say_the_same_for_a_minute(client):
    alice = client()
    assert await status_of(alice) == "offline"
    await ask_and_wait(alice)
    assert await status_of(alice) == "offline"
    alice.fake.advance(60.0)
    _, jobs = await alice.get("/sophia/jobs")
    [job] = jobs["queued"]
    assert job["Model Status"] == "queued"
    assert job["Job State"] == "Q"
    assert job["Estimated Start Time"].endswith("(Chicago time)")
    alice.fake.advance(60.0)
    assert await status_of(alice) == "starting"
    alice.fake.advance(599.0)
    assert await status_of(alice) == "starting"
    alice.fake.advance(59.0)
    assert await status_of(alice) == "starting"
    assert await status_of(Client(alice.http, alice.fake, "bob")) == "running"
    alice.fake.advance(1.0)
    assert await status_of(alice) == "running"
    assert jobs["cluster_status"] == {"free_nodes": 5}
    assert await status_of(alice, HOT) == "running"


async def test_the_recommended_way_wastes_one_task(client):
    alice = client()
    await ask_and_wait(alice)
    for _ in range(14):
        alice.fake.advance(60.0)
    assert await status_of(alice) == "running"
    answers = await asyncio.gather(*(alice.chat(f"{n}", model=COLD) for n in range(30)))
    assert {status for status, _ in answers} == {200}
    model = alice.fake.record().models[KEY]
    assert (model.wasted, model.served, model.wakeups) == (1, 30, 1)


async def test_an_idle_model_is_unloaded_after_two_hours(client):
    alice = client()
    await ask_and_wait(alice)
    alice.fake.advance(800.0)
    assert (await alice.chat(model=COLD))[0] == 200
    alice.fake.advance(7199.0)
    assert await status_of(alice) == "running"
    alice.fake.advance(61.0)
    assert await status_of(alice) == "offline"
    assert await status_of(alice, HOT) == "running"


@pytest.mark.parametrize("begins", [0.1, 0.7, 1e3 / 3, 12_345.678, 1e7 / 7])
async def test_those_who_wait_are_served_whenever_the_clock_began(client, begins):
    alice = client(cold_start=ColdStart(queued=0.1, starting=0.2))
    alice.fake.advance(begins)
    alice.token = alice.fake.token()
    [asked] = await ask_and_wait(alice)
    alice.fake.advance(0.5)
    assert (await asked)[0] == 200


async def test_a_short_cold_start_serves_those_who_wait(client):
    alice = client(cold_start=ColdStart(queued=10.0, starting=20.0))
    burst = await ask_and_wait(alice, 5)
    alice.fake.advance(30.0)
    assert {status for status, _ in await asyncio.gather(*burst)} == {200}
    assert alice.fake.record().wasted == 0


async def test_who_leaves_early_leaves_a_task_that_runs(client):
    alice = client()
    [probe] = await ask_and_wait(alice)
    probe.cancel()
    await alice.fake.until(lambda record: record.models[KEY].in_flight == 0)
    alice.fake.advance(720.0)
    model = alice.fake.record().models[KEY]
    assert (model.tasks, model.wasted, model.refused) == (1, 1, {"left": 1})


async def test_who_leaves_a_hot_model_early_leaves_a_task_that_runs(client):
    alice = client(latency=10.0)
    asked = asyncio.ensure_future(alice.chat())
    await alice.fake.until(lambda record: record.models[f"sophia/{HOT}"].in_flight == 1)
    asked.cancel()
    await alice.fake.until(lambda record: record.models[f"sophia/{HOT}"].in_flight == 0)
    alice.fake.advance(10.0)
    assert alice.fake.record().wasted == 1


async def test_a_stream_of_a_cold_model_ends_after_thirty_seconds(client):
    alice = client()
    reading = asyncio.ensure_future(alice.stream(model=COLD))
    await alice.fake.until(lambda record: record.models[KEY].in_flight == 1)
    alice.fake.advance(30.0)
    _, events = await reading
    assert [events[0]["code"], events[-1]] == [504, "[DONE]"]
    alice.fake.advance(690.0)
    assert alice.fake.record().wasted == 1


async def test_a_timeout_can_be_injected_and_wastes_its_task(client):
    alice = client(faults=(Fault("request_timeout", times=1),))
    asked = asyncio.ensure_future(alice.chat())
    await alice.fake.until(lambda record: record.models[f"sophia/{HOT}"].in_flight == 1)
    alice.fake.advance(300.0)
    status, body = await asked
    assert (status, body["error"]["code"]) == (408, "request_timeout")
    model = alice.fake.record().models[f"sophia/{HOT}"]
    assert (model.tasks, model.wasted, model.refused) == (1, 1, {"request_timeout": 1})


async def test_a_model_may_be_made_hot_while_requests_wait(client):
    alice = client()
    [asked] = await ask_and_wait(alice)
    alice.fake.set_state("sophia", COLD, "hot")
    assert (await asked)[0] == 200
