"""FirstFake: batches, from the file on the cluster to the file on the cluster."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from first_client import COLD, HOT, Client, content

from langgraph_hpc_fanout.testing.first import Batching, Cluster, Fault, Model, Quotas
from langgraph_hpc_fanout.testing.fleet import FakeFleet, echo

ClientFactory = Callable[..., Client]
POST = "/sophia/vllm/v1/batches"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def client(http, first_fake, tmp_path) -> ClientFactory:
    """A client of a new fake on whose clock a day passes in nine seconds."""

    def make(*clusters: Cluster, **options) -> Client:
        (tmp_path / "eagle").mkdir(exist_ok=True)
        quotas = Quotas(requests=None)
        options = {"time_scale": 10_000.0, "quotas": quotas, "files": tmp_path, **options}
        return Client(http, first_fake(clusters or None, **options))

    return make


def line(number: int, model: str = HOT, **more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": f"molecule {number}"}
    return {
        "custom_id": f"id-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": model, "messages": [message], **more},
    }


def write(root: Path, lines: list[Any], name: str = "in.jsonl") -> str:
    (root / "eagle" / name).write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in lines))
    return f"/eagle/{name}"


def read(root: Path, path: str) -> list[Any]:
    return [orjson.loads(each) for each in (root / path.lstrip("/")).read_bytes().splitlines()]


async def submit(alice: Client, path: str, model: str = HOT, **more: Any) -> tuple[int, Any]:
    return await alice.post(POST, {"input_file": path, "model": model, **more})


async def ended(alice: Client, identity: str) -> str:
    """Ask for the status until the batch is over."""
    while (got := await alice.get(f"/v1/batches/{identity}"))[1] == "pending":
        await asyncio.sleep(0.002)
    assert got[0] == 200
    return str(got[1])


async def test_a_batch_answers_every_line_into_a_file_beside_the_input(client, tmp_path):
    alice = client()
    status, made = await submit(alice, write(tmp_path, [line(n) for n in range(450)]))
    assert (status, made["status"], made["input_file"]) == (200, "pending", "/eagle/in.jsonl")
    assert await ended(alice, made["batch_id"]) == "completed"
    _, text = await alice.get(f"/v1/batches/{made['batch_id']}/result")
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(text)
    result = ast.literal_eval(text)
    assert (result["num_responses"], result["lines_processed"]) == (450, 450)
    assert result["results_file"].startswith("/eagle/in_")
    assert result["results_file"].endswith(".results.jsonl")
    answers = {each["custom_id"]: each for each in read(tmp_path, result["results_file"])}
    assert {name: content(each["response"]["body"]) for name, each in answers.items()} == {
        f"id-{n}": echo(f"molecule {n}") for n in range(450)
    }
    assert result["total_tokens"] == sum(
        each["response"]["body"]["usage"]["total_tokens"] for each in answers.values()
    )
    [progress] = read(tmp_path, result["progress_file"])
    assert progress["lines_processed"] == 450
    [record] = alice.fake.record().batches
    assert (record.status, record.lines, record.responses) == ("completed", 450, 450)


async def test_the_result_as_the_user_guide_shows_it(client, tmp_path):
    alice = client(batching=Batching(result="metrics"))
    (tmp_path / "out").mkdir()
    path = write(tmp_path, [line(1)])
    _, made = await submit(alice, path, output_folder_path="/out/here")
    await ended(alice, made["batch_id"])
    _, text = await alice.get(f"/v1/batches/{made['batch_id']}/result")
    result = orjson.loads(text)
    assert result["metrics"]["lines_processed"] == 1
    assert result["metrics"]["throughput_tokens_per_second"] > 0
    assert result["results_file"].startswith("/out/here/in_")
    assert len(read(tmp_path, result["results_file"])) == 1


async def test_while_a_batch_runs(client, tmp_path):
    alice = client(time_scale=0.0)
    _, made = await submit(alice, write(tmp_path, [line(1)]))
    identity = made["batch_id"]
    assert await alice.get(f"/v1/batches/{identity}") == (200, "pending")
    status, body = await alice.get(f"/v1/batches/{identity}/result")
    assert (status, body["error"]["code"]) == (400, "batch_ongoing")
    _, jobs = await alice.get("/sophia/jobs")
    assert [job["Batch ID"] for job in jobs["private_batch_queued"]] == [identity]
    _, [listed] = await alice.get("/v1/batches")
    assert (listed["batch_id"], listed["status"]) == (identity, "pending")
    assert listed["completed_at"] is None
    alice.fake.advance(120.0)
    _, jobs = await alice.get("/sophia/jobs")
    assert [job["Batch ID"] for job in jobs["private_batch_running"]] == [identity]


async def test_one_batch_at_a_time_until_its_end_is_asked_for(client, tmp_path):
    alice = client()
    first, second = (write(tmp_path, [line(1)], f"{n}.jsonl") for n in range(2))
    _, made = await submit(alice, first)
    status, body = await submit(alice, second)
    assert (status, body["error"]["code"]) == (400, "quota_exceeded")
    await alice.fake.until(lambda record: record.batches[0].status == "completed")
    assert (await submit(alice, second))[0] == 400
    await ended(alice, made["batch_id"])
    assert (await submit(alice, second))[0] == 200
    bob = Client(alice.http, alice.fake, "bob")
    assert (await submit(bob, first))[0] == 200


async def test_one_file_is_in_one_batch_only(client, tmp_path):
    alice = client(quotas=Quotas(batches=2))
    path = write(tmp_path, [line(1)])
    assert (await submit(alice, path))[0] == 200
    status, body = await submit(alice, path)
    assert (status, body["error"]["code"]) == (400, "batch_ongoing")
    assert (await submit(alice, write(tmp_path, [line(1)], "b.jsonl")))[0] == 200
    status, body = await submit(alice, write(tmp_path, [line(1)], "c.jsonl"))
    assert (status, body["error"]["code"]) == (400, "quota_exceeded")


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (
            {"input_file_path": "/eagle/in.jsonl", "input_file": "x", "model": HOT},
            "input_file_path",
        ),
        ({"model": HOT}, "input_file"),
        ({"input_file": "x"}, "model"),
        ({"input_file": "x", "model": HOT, "output_folder_path": 3}, "output_folder_path"),
    ],
)
async def test_the_body_of_a_batch_is_checked(client, body, where):
    status, answer = await client().post(POST, body)
    assert status == 422
    assert [each["loc"][-1] for each in answer["detail"]] == [where]


async def test_a_batch_where_there_is_none(client, tmp_path):
    alice = client(
        Cluster("sophia", "vllm", (Model("plain"), Model("mine", batch=True, users=frozenset())))
    )
    status, body = await submit(alice, "/eagle/in.jsonl", "plain")
    assert (status, body["error"]["code"]) == (400, "batch_unavailable")
    assert (await submit(alice, "/eagle/in.jsonl", "mine"))[0] == 401
    status, body = await submit(alice, "/eagle/in.jsonl", "none")
    assert (status, body["error"]["code"]) == (404, "endpoint_not_found")
    status, body = await alice.post("/polaris/vllm/v1/batches", {"input_file": "x", "model": "m"})
    assert (status, body["error"]["code"]) == (404, "cluster_not_found")
    alice.fake.set_maintenance("sophia")
    assert (await submit(alice, "/eagle/in.jsonl", "plain"))[0] == 503


@pytest.mark.parametrize("tail", ["", "/result"])
async def test_batches_of_others_and_of_nobody(client, tmp_path, tail):
    alice = client()
    _, made = await submit(alice, write(tmp_path, [line(1)]))
    bob = Client(alice.http, alice.fake, "bob")
    status, body = await bob.get(f"/v1/batches/{made['batch_id']}{tail}")
    assert (status, body["error"]["code"]) == (403, "access_denied")
    status, body = await bob.get(f"/v1/batches/none{tail}")
    assert (status, body["error"]["code"]) == (404, "batch_not_found")
    assert await bob.get("/v1/batches") == (200, [])


async def test_there_is_no_cancel(client, tmp_path):
    alice = client()
    _, made = await submit(alice, write(tmp_path, [line(1)]))
    assert (await alice.post(f"/v1/batches/{made['batch_id']}/cancel", {}))[0] == 404
    assert (await alice.post(f"/v1/batches/{made['batch_id']}", {}))[0] == 405


async def test_lists_of_one_status(client, tmp_path):
    alice = client()
    _, made = await submit(alice, write(tmp_path, [line(1)]))
    await ended(alice, made["batch_id"])
    _, done = await alice.get("/v1/batches?status=completed")
    assert [each["batch_id"] for each in done] == [made["batch_id"]]
    assert done[0]["completed_at"] is not None
    assert await alice.get("/v1/batches?status=pending") == (200, [])
    assert (await alice.get("/v1/batches?status=nonsense"))[0] == 422


@pytest.mark.parametrize(
    ("path", "lines", "reason"),
    [
        ("/eagle/none.jsonl", [], "No such file"),
        ("/../../etc/passwd", [], "No such file"),
        ("/eagle/in.jsonl", [{"messages": []}], "Line 1: validation error"),
        ("/eagle/in.jsonl", [line(n) for n in range(4)], "a batch takes 3"),
    ],
)
async def test_batches_that_fail(client, tmp_path, path, lines, reason):
    alice = client(batching=Batching(lines=3))
    write(tmp_path, lines)
    _, made = await submit(alice, path)
    assert await ended(alice, made["batch_id"]) == "failed"
    status, body = await alice.get(f"/v1/batches/{made['batch_id']}/result")
    assert (status, body["error"]["code"]) == (400, "batch_failed")
    assert reason in body["error"]["message"]
    assert (await alice.get("/v1/batches?status=failed"))[1][0]["failed_at"] is not None


async def test_a_file_that_is_no_json_fails(client, tmp_path):
    alice = client()
    path = write(tmp_path, [])
    (tmp_path / "eagle/in.jsonl").write_bytes(b"{\n")
    _, made = await submit(alice, path)
    assert await ended(alice, made["batch_id"]) == "failed"


async def test_lines_may_be_lost_and_a_batch_may_fail(client, tmp_path):
    alice = client(
        faults=(
            Fault("batch_loses", rate=0.2, route="batches", times=1),
            Fault("batch_fails", route="batches", times=1),
            Fault("internal_error", route="batches", times=1),
        )
    )
    path = write(tmp_path, [line(n) for n in range(300)])
    _, made = await submit(alice, path)
    await ended(alice, made["batch_id"])
    _, text = await alice.get(f"/v1/batches/{made['batch_id']}/result")
    result = ast.literal_eval(text)
    assert result["lines_processed"] == 300
    assert 200 < result["num_responses"] < 280
    assert len(read(tmp_path, result["results_file"])) == result["num_responses"]
    _, made = await submit(alice, path)
    assert await ended(alice, made["batch_id"]) == "failed"
    assert (await submit(alice, path))[0] == 500
    assert (await submit(alice, path))[0] == 200


async def test_a_line_that_cannot_be_served_has_an_error(client, tmp_path):
    alice = client()
    odd = [line(1, model="another"), line(2, max_tokens=0), {**line(3), "url": "/v1/images"}]
    _, made = await submit(alice, write(tmp_path, [*odd, line(4)]))
    await ended(alice, made["batch_id"])
    _, text = await alice.get(f"/v1/batches/{made['batch_id']}/result")
    answers = read(tmp_path, ast.literal_eval(text)["results_file"])
    statuses = [each["response"]["status_code"] for each in answers]
    assert statuses == [404, 400, 400, 200]
    assert [each["error"] is None for each in answers] == [False, False, False, True]


async def test_each_chunk_loads_the_model_anew(client, tmp_path):
    alice = client(batching=Batching(chunk=10))
    _, made = await submit(alice, write(tmp_path, [line(n, COLD) for n in range(25)]), COLD)
    await ended(alice, made["batch_id"])
    _, text = await alice.get(f"/v1/batches/{made['batch_id']}/result")
    assert ast.literal_eval(text)["duration_sec"] >= 3 * 600.0


async def test_two_batches_of_a_cluster_run_at_once(client, tmp_path):
    alice = client(time_scale=0.0, quotas=Quotas(batches=3))
    for n in range(3):
        await submit(alice, write(tmp_path, [line(1)], f"{n}.jsonl"))
    alice.fake.advance(120.0)
    _, jobs = await alice.get("/sophia/jobs")
    assert len(jobs["private_batch_running"]) == 2
    assert len(jobs["private_batch_queued"]) == 1


async def test_who_has_just_asked_a_model_cannot_submit_a_batch_for_it(client, tmp_path):
    alice = client(time_scale=0.0, quotas=Quotas(requests=None, batches=2))
    path = write(tmp_path, [line(1)])
    assert (await alice.chat())[0] == 200
    alice.fake.advance(1.0)
    status, body = await submit(alice, path)
    assert (status, body["error"]["code"]) == (503, "internal_endpoint_error")
    assert "not ready to receive tasks" in body["error"]["message"]
    assert (await submit(alice, path, COLD))[0] == 200
    alice.fake.advance(120.0)
    assert (await submit(alice, write(tmp_path, [line(1)], "b.jsonl")))[0] == 200


async def test_ten_minutes_after_the_last_request_a_batch_is_taken(client, tmp_path):
    alice = client(time_scale=0.0)
    path = write(tmp_path, [line(1)])
    await alice.chat()
    alice.fake.advance(599.0)
    assert (await submit(alice, path))[0] == 503
    alice.fake.advance(1.0)
    assert (await submit(alice, path))[0] == 200
    assert len(alice.fake.record().batches) == 1


async def test_after_a_week_a_batch_counts_as_failed(client, tmp_path):
    alice = client(time_scale=0.0, batching=Batching(blocks=1), quotas=Quotas(batches=2))
    await submit(alice, write(tmp_path, [line(1)], "a.jsonl"))
    _, made = await submit(alice, write(tmp_path, [line(1)], "b.jsonl"))
    assert await alice.get(f"/v1/batches/{made['batch_id']}") == (200, "pending")
    alice.fake.advance(7 * 86_400.0)
    alice.token = alice.fake.token()
    assert await alice.get(f"/v1/batches/{made['batch_id']}") == (200, "failed")
    status, body = await alice.get(f"/v1/batches/{made['batch_id']}/result")
    assert (status, body["error"]["code"]) == (400, "batch_failed")
    assert "Timeout after 7 days." in body["error"]["message"]


async def test_a_real_server_may_answer_the_lines(client, tmp_path):
    with FakeFleet() as fleet:
        alice = client(backend=fleet.urls[0])
        _, made = await submit(alice, write(tmp_path, [line(n) for n in range(20)]))
        await ended(alice, made["batch_id"])
        assert fleet.record().statuses == {200: 20}
        _, text = await alice.get(f"/v1/batches/{made['batch_id']}/result")
    answers = read(tmp_path, ast.literal_eval(text)["results_file"])
    assert content(answers[7]["response"]["body"]) == echo("molecule 7")


def test_batching_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="chunk"):
        Batching(chunk=0)
