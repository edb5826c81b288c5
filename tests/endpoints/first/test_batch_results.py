"""Results that come late, in part or never, and files that are carried: nothing is paid twice."""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
import sys
import threading
from functools import partial

import pytest
from batches import batch_over, is_right, requests_of, send
from graphs import build, molecules, right_answers

from langgraph_hpc_fanout import Budget, FanOutError, Journal, Limits, Pool, Prompt
from langgraph_hpc_fanout.endpoints.first.batches import follower
from langgraph_hpc_fanout.endpoints.first.batches.results import Ended, read_ended
from langgraph_hpc_fanout.endpoints.first.batches.routes import BatchRoutes
from langgraph_hpc_fanout.endpoints.first.endpoint import FirstEndpoint
from langgraph_hpc_fanout.endpoints.http import Answer
from langgraph_hpc_fanout.testing.first import ColdStart, Fault

TASK = Prompt("Is {smiles} soluble?", max_tokens=64)


class Carrier:
    """Carries files to a cluster and back; what comes back may be damaged on the way."""

    def __init__(self, root):
        self.root = root
        self.there = root / "there"
        self.there.mkdir()
        self.fetched = []
        self.damage = lambda tries, raw: raw

    def upload(self, path):
        shutil.copy(path, self.there / path.name)
        return f"/there/{path.name}"

    def fetch(self, path):
        self.fetched.append(path)
        here = self.root / f"fetched-{len(self.fetched)}"
        here.write_bytes(self.damage(len(self.fetched), (self.root / path[1:]).read_bytes()))
        return here

    def endpoint(self, fake, **settings):
        here = self.root / "here"
        return batch_over(fake, here, upload=self.upload, fetch=self.fetch, **settings)


@pytest.fixture
def carrier(tmp_path):
    return Carrier(tmp_path)


@pytest.fixture
def opened(opened_well, carrier):
    """Opens endpoints whose files are carried."""
    return partial(opened_well, make=carrier.endpoint)


def half(raw):
    lines = raw.splitlines(keepends=True)
    return b"".join(lines[: len(lines) // 2])


def refused(tries, raw):
    raise PermissionError(13, "Permission denied")


# Completed, and read


async def test_a_file_that_grows_is_read_until_it_is_whole(gateway, opened, carrier, caplog):
    carrier.damage = lambda tries, raw: [b"", half(raw)[:-5], half(raw), raw][min(tries, 4) - 1]
    endpoint, requests = await opened(gateway()), requests_of(40)
    with caplog.at_level(logging.WARNING):
        replies = await send(endpoint, requests)
    assert all(map(is_right, requests, replies))
    assert len(carrier.fetched) == 4
    (warning,) = [each.message for each in caplog.records]
    assert "read again: it has 0 of 40 lines" in warning


async def test_lines_that_never_come_are_lost(gateway, opened, carrier):
    carrier.damage = lambda tries, raw: half(raw)
    replies = await send(await opened(gateway()), requests_of(40))
    failures = [reply.failure for reply in replies if reply.failure is not None]
    assert {failure.kind for failure in failures} == {"transient"}
    assert len(failures) == 20
    assert len(carrier.fetched) == 7


async def test_where_the_lines_are_not_told_a_file_is_taken_as_it_is(
    gateway, opened, carrier, monkeypatch
):
    def untold(raw):
        return Ended(read_ended(raw).results_file)

    monkeypatch.setattr(follower, "read_ended", untold)
    carrier.damage = lambda tries, raw: b""
    endpoint = await opened(gateway())
    delays = []
    for _ in range(3):
        replies = await send(endpoint, requests_of(2))
        assert {reply.failure.kind for reply in replies} == {"transient"}
        delays.append(replies[0].retry_after)
    assert delays == [0.02, 0.04, 0.08], "later and later"
    assert len(carrier.fetched) == 3


async def test_a_batch_of_errors_is_tried_again_later_and_later(gateway, opened, carrier):
    def broken(tries, raw):
        return raw.replace(b'"status_code":200', b'"status_code":500')

    carrier.damage = broken
    endpoint = await opened(gateway())
    delays = [(await send(endpoint, requests_of(2)))[0].retry_after for _ in range(2)]
    assert delays == [0.02, 0.04]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (refused, "Permission denied"),
        (lambda tries, raw: b"", "it has 0 of 5 lines"),
        (lambda tries, raw: raw.replace(b'"custom_id":"', b'"custom_id":"x'), "5 that cannot be"),
    ],
)
async def test_what_cannot_be_read_is_not_submitted_again(gateway, opened, carrier, damage, words):
    fake = gateway()
    endpoint = await opened(fake)
    carrier.damage = damage
    for is_again in (False, True):
        replies = await send(endpoint, requests_of(5))
        assert {reply.failure.kind for reply in replies} == {"cold"}
        assert {reply.may_cost for reply in replies} == {not is_again}
        assert {reply.tries for reply in replies} == {int(not is_again)}
        assert words in replies[0].failure.message
        assert carrier.fetched[0] in replies[0].failure.message, "where they lie"
    health = await endpoint.probe()
    assert not health.ok
    assert health.retry_after is None
    assert len(fake.record().batches) == 1
    await endpoint.close()
    await endpoint.open()
    assert (await endpoint.probe()).ok


def test_what_could_not_be_read_is_taken_by_the_next_run(gateway, carrier, tmp_path):
    fake, items, journal = gateway(), molecules(30), Journal(tmp_path / "run")
    token = fake.token()
    carrier.damage = refused
    with (
        Pool(carrier.endpoint(fake, token=token)) as pool,
        pytest.raises(FanOutError, match="paid for, and its results"),
    ):
        build(pool, task=TASK, journal=journal).invoke({"molecules": items})
    carrier.damage = lambda tries, raw: raw
    with Pool(carrier.endpoint(fake, token=token)) as pool:
        state = build(pool, task=TASK, journal=journal).invoke({"molecules": items})
    assert right_answers(state["predictions"], items)
    assert len(fake.record().batches) == 1


# Files


async def test_results_are_written_beside_the_file(gateway, opened, monkeypatch):
    submit, folders = BatchRoutes.submit, []

    async def watched(routes, served, path, folder):
        folders.append(folder)
        return await submit(routes, served, path, folder)

    monkeypatch.setattr(BatchRoutes, "submit", watched)
    await send(await opened(gateway()), requests_of(2))
    assert folders == ["/there"]


async def test_what_a_failed_batch_left_in_a_folder_of_its_own_counts(
    gateway, tmp_path, monkeypatch
):
    """Where FIRST's function puts it."""
    fake = gateway(faults=[Fault("batch_fails", route="batches", times=1)])
    endpoint = batch_over(fake, tmp_path)
    await endpoint.open()
    await endpoint.probe()
    result = BatchRoutes.result

    def move(batch_id):
        for path in tmp_path.glob("*.results.jsonl"):
            folder = tmp_path / f"{path.name.split('_')[0]}_gpt-oss-120b_{batch_id}"
            folder.mkdir()
            path.rename(folder / path.name)

    async def moved(routes, batch_id):
        await asyncio.to_thread(move, batch_id)
        return await result(routes, batch_id)

    monkeypatch.setattr(BatchRoutes, "result", moved)
    replies = await send(endpoint, requests_of(500))
    assert sum(reply.failure is None for reply in replies) == 200
    await endpoint.close()


async def test_prompts_are_removed_though_nobody_waits_for_the_end(gateway, tmp_path):
    endpoint = batch_over(gateway(), tmp_path)
    await endpoint.open()
    await endpoint.probe()
    replies = endpoint.send(requests_of(20))
    await anext(replies)
    await replies.aclose()
    assert not list(tmp_path.glob("*[!s].jsonl"))
    await endpoint.close()


BLOCKED = """
import asyncio, sys
from pathlib import Path
from langgraph_hpc_fanout.endpoints.first.batches.storage import Storage

async def main():
    storage = Storage(None, lambda path: threading.Event().wait(), lambda path: path)
    try:
        await asyncio.wait_for(storage.carry(Path(sys.argv[1])), 0.05)
    except TimeoutError:
        print("late")

import threading
asyncio.run(main())
"""


def test_an_upload_that_never_returns_keeps_no_process_alive(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(tmp_path / "file")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "late\n"


async def test_what_a_thread_brings_too_late_is_no_fault(carrier, gateway, opened):
    may_go_on, has_gone_on = threading.Event(), threading.Event()

    def upload(path):
        may_go_on.wait(10)
        has_gone_on.set()
        raise OSError

    carrier.upload = upload
    sending = asyncio.create_task(send(await opened(gateway()), requests_of(2)))
    await asyncio.sleep(0.1)
    sending.cancel()
    await asyncio.wait([sending])
    may_go_on.set()
    assert await asyncio.to_thread(has_gone_on.wait, 10)


def test_what_never_reached_the_gateway_uses_no_budget(gateway, carrier):
    upload, tries = carrier.upload, []

    def falters(path):
        tries.append(path)
        if len(tries) == 1:
            raise ConnectionError("no route")
        return upload(path)

    carrier.upload = falters
    with Pool(carrier.endpoint(gateway())) as pool:
        graph = build(pool, task=TASK, budget=Budget(tokens=50 * 400))
        state = graph.invoke({"molecules": molecules(50)})
    assert state["report"]["ok"] == 50


def test_what_cannot_be_read_is_charged_as_reserved(gateway, carrier):
    fake, items = gateway(latency=0.03), molecules(300)
    token = fake.token()
    carrier.damage = refused
    live = FirstEndpoint(
        "metis", base_url=fake.url, token=token, model="gpt-oss-120b", limits=Limits(concurrency=4)
    )
    with Pool([live, carrier.endpoint(fake, token=token, least=10)]) as pool:
        graph = build(pool, task=TASK, budget=Budget(tokens=1_000_000))
        events = list(graph.stream({"molecules": items}, stream_mode="custom"))
    assert events[-1]["ok"] == 300
    (batch,) = fake.record().batches
    unconfirmed = events[-1]["cost"]["unconfirmed"]
    assert unconfirmed["attempts"] == batch.lines
    assert unconfirmed["tokens"] >= batch.lines * (64 + 256)


# The gateway's silence


def test_a_batch_of_unknown_fate_is_not_paid_twice(gateway, tmp_path, monkeypatch, caplog):
    fake = gateway(cold_start=ColdStart(queued=4e4, starting=0.0))
    token, items, journal = fake.token(), molecules(20), Journal(tmp_path / "run")
    with Pool(batch_over(fake, tmp_path, token=token)) as pool:
        build(pool, task=TASK, journal=journal, deadline=1.5).invoke({"molecules": items})
    assert len(fake.record().batches) == 1
    listed, asked = BatchRoutes.listed, []

    async def silent(routes):
        asked.append(routes)
        return Answer(500, b'{"error": {"message": "a database"}}', None)

    monkeypatch.setattr(BatchRoutes, "listed", silent)
    live = FirstEndpoint(
        "metis", base_url=fake.url, token=token, model="gpt-oss-120b", limits=Limits(concurrency=4)
    )
    with (
        Pool([live, batch_over(fake, tmp_path, token=token)]) as pool,
        caplog.at_level(logging.WARNING),
    ):
        state = build(pool, task=TASK, journal=journal).invoke({"molecules": items})
    assert state["predictions"] == [None] * 20
    (failure,) = {each["error"]["message"] for each in state["failures"]}
    for words in ("is unknown", str(tmp_path), "a database", "start the same program again"):
        assert words in failure
    assert {each["error"]["kind"] for each in state["failures"]} == {"transient"}
    assert len(asked) >= 20
    assert sum("20 items wait to learn" in each.message for each in caplog.records) == 1

    monkeypatch.setattr(BatchRoutes, "listed", listed)
    fake.advance(5e4)
    with Pool(batch_over(fake, tmp_path, token=token)) as pool:
        state = build(pool, task=TASK, journal=journal).invoke({"molecules": items})
    assert right_answers(state["predictions"], items)
    record = fake.record()
    assert (len(record.batches), record.served) == (1, 0)


async def test_a_batch_that_is_not_told_of_is_given_up_after_days(gateway, opened, monkeypatch):
    async def silent(*arguments):
        return Answer(500, b"", None)

    monkeypatch.setattr(BatchRoutes, "status", silent)
    monkeypatch.setattr(follower, "FAILS_SECONDS", 0.2)
    (reply,) = await send(await opened(gateway()), requests_of(1))
    assert reply.failure.kind == "permanent", "it is asked nowhere else"
    assert "what has become of batch" in reply.failure.message
    assert reply.tries == 1, "it may have been worked on"
