"""Runs over batches: alone, beside live endpoints, and after a kill."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from batches import AT_ONCE, GPT, QUICK, batch_over
from graphs import build, molecules, right_answers

from langgraph_hpc_fanout import (
    FanOutError,
    FirstBatchEndpoint,
    FirstEndpoint,
    Journal,
    Limits,
    Pool,
    Prompt,
)
from langgraph_hpc_fanout.testing.first import ColdStart, Fault

TASK = Prompt("Is {smiles} soluble?", max_tokens=64)
HERE = Path(__file__).parent


def asked(fake, tmp_path):
    """How often each item was answered: by live models, and in results of batches."""
    counts = Counter(row.prompt for row in fake.record().requests if row.reason == "served")
    for path in tmp_path.glob("*.results.jsonl"):
        for line in path.read_bytes().splitlines():
            body = json.loads(line)["response"]["body"]
            counts[body["choices"][0]["message"]["content"]] += 1
    return counts


@pytest.mark.parametrize("faults", [(), (Fault("batch_loses", rate=0.05, route="batches"),)])
def test_a_mixed_pool_answers_every_item_once(gateway, tmp_path, faults):
    slow = replace(QUICK, tokens_per_second=20_000.0)
    fake = gateway(batching=slow, faults=faults, latency=0.05)
    token = fake.token()
    live = FirstEndpoint(
        "metis", model=GPT, base_url=fake.url, token=token, limits=Limits(concurrency=4)
    )
    batch = batch_over(fake, tmp_path, token=token, least=100)
    items = molecules(1_000)
    with Pool([live, batch]) as pool:
        graph = build(pool, task=TASK, journal=Journal(tmp_path / "run"))
        state = graph.invoke({"molecules": items})
    assert right_answers(state["predictions"], items)
    counts = asked(fake, tmp_path)
    assert counts.total() == 1_000, "nothing was paid twice"
    record = fake.record()
    first, *_ = record.batches
    assert 500 <= first.lines <= 800, "the bulk, of what live lanes had left by then"
    assert record.served >= 100, "live lanes had the rest"
    assert not record.reasons["quota_exceeded"], "one batch at a time"
    assert state["report"]["endpoints"].keys() == {live.name, batch.name}


@pytest.mark.parametrize("is_mixed", [True, False])
def test_what_is_too_long_for_a_batch_is_asked_elsewhere(gateway, tmp_path, is_mixed):
    """Batches have a smaller context than live models; alone, only what is too long fails."""
    fake = gateway(batching=replace(QUICK, context=200), latency=0.02)
    token = fake.token()
    live = FirstEndpoint(
        "metis", model=GPT, base_url=fake.url, token=token, limits=Limits(concurrency=4)
    )
    batch = batch_over(fake, tmp_path, token=token)
    items = [{"smiles": f"C{number}" + "x" * 2_000 * (number < 3)} for number in range(200)]
    with Pool([batch, live] if is_mixed else [batch]) as pool:
        state = build(pool, task=TASK, order="longest_first").invoke({"molecules": items})
    if is_mixed:
        assert all(state["predictions"])
        return
    assert state["predictions"].count(None) == 3
    assert {each["error"]["kind"] for each in state["failures"]} == {"permanent"}
    assert len(fake.record().batches) == 1, "it is not tried there again"


def test_a_batch_endpoint_that_is_of_no_use_is_said_while_others_do_its_work(
    gateway, tmp_path, caplog
):
    fake = gateway(latency=0.1)
    token = fake.token()
    live = FirstEndpoint(
        "metis", model=GPT, base_url=fake.url, token=token, limits=Limits(concurrency=4)
    )
    batch = FirstBatchEndpoint(
        "sophia", model="gpt-oss-12b", directory=tmp_path, base_url=fake.url, token=token
    )
    with Pool([live, batch]) as pool:
        assert all(build(pool).invoke({"molecules": molecules(150)})["predictions"])
    (said,) = [each for each in caplog.messages if each.startswith("Left alone")]
    assert "did you mean" in said


def test_few_items_are_no_batch(gateway, tmp_path):
    fake = gateway()
    token = fake.token()
    live = FirstEndpoint(
        "metis", model=GPT, base_url=fake.url, token=token, limits=Limits(concurrency=4)
    )
    items = molecules(50)
    with Pool([live, batch_over(fake, tmp_path, token=token, least=100)]) as pool:
        state = build(pool, task=TASK).invoke({"molecules": items})
    assert right_answers(state["predictions"], items)
    assert not fake.record().batches


def test_a_batch_alone_takes_all_at_once_from_a_file(gateway, tmp_path):
    """Items of a file are read a thousand ahead, and a batch holds them all."""
    fake = gateway()
    path = tmp_path / "molecules.jsonl"
    items = molecules(5_000)
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    with Pool(batch_over(fake, tmp_path)) as pool:
        state = build(pool, task=TASK, items=str(path)).invoke({})
    assert right_answers(state["predictions"], items)
    assert [batch.lines for batch in fake.record().batches] == [5_000]


def test_a_failed_batch_is_another_batch_or_live(gateway, tmp_path):
    fake = gateway(faults=[Fault("batch_fails", route="batches", times=1)])
    items = molecules(1_000)
    with Pool(batch_over(fake, tmp_path)) as pool:
        state = build(pool, task=TASK).invoke({"molecules": items})
    assert right_answers(state["predictions"], items)
    lines = [batch.lines for batch in fake.record().batches]
    assert lines == [200, 800], "what the first had answered is not asked again"


def test_a_run_waits_for_a_batch_of_somebody_else(gateway, tmp_path):
    fake = gateway(cold_start=ColdStart(queued=4e4, starting=0.0))
    token = fake.token()
    foreign = tmp_path / "foreign.jsonl"
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions"}
    body = {"model": "openai/gpt-oss-120b", "messages": [{"role": "user", "content": "hi"}]}
    foreign.write_text(json.dumps({**line, "body": body}) + "\n")
    submit(fake, token, foreign)
    endpoint = batch_over(fake, tmp_path, token=token)
    probe, probes, waited = endpoint.probe, [], threading.Event()

    async def counted():
        probes.append(health := await probe())
        if len(probes) == 3:
            waited.set()
        return health

    endpoint.probe = counted
    items = molecules(20)
    with Pool(endpoint) as pool, ThreadPoolExecutor(1) as executor:
        running = executor.submit(build(pool, task=TASK).invoke, {"molecules": items})
        assert waited.wait(20)
        fake.advance(5e4)  # the foreign batch begins, and ends
        fake.wait(lambda record: len(record.batches) == 2)
        fake.advance(5e4)
        state = running.result(30)
    assert right_answers(state["predictions"], items)
    assert "foreign.jsonl" in probes[0].failure.message
    assert len(probes) >= 3


def submit(fake, token, path):
    """Submit somebody's batch."""
    request = urllib.request.Request(
        f"{fake.url}/sophia/vllm/v1/batches",
        json.dumps({"input_file": str(path), "model": "openai/gpt-oss-120b"}).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200


# After a kill


class Program:
    """The program, as often as it is started."""

    def __init__(self, fake, token, directory, count):
        self._arguments = [fake.url, token, str(directory), str(count)]

    def run(self, moment):
        """Run it to its end; returns its exit code and what it said last."""
        command = [sys.executable, str(HERE / "batch_program.py"), *self._arguments, moment]
        paths = [str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        return done.returncode, done.stdout.removeprefix("ready\n"), done.stderr


@pytest.mark.timeout(200)
@pytest.mark.parametrize("moment", ["noted", "submitted"])
def test_after_a_kill_nothing_is_paid_twice(gateway, tmp_path, moment):
    fake = gateway(cold_start=AT_ONCE)
    program = Program(fake, fake.token(), tmp_path, 300)
    code, *_ = program.run(moment)
    assert code == -9
    assert len(fake.record().batches) == (moment == "submitted")
    code, said, error = program.run("never")
    assert code == 0, error
    told = json.loads(said)
    assert told["right"]
    assert told["report"]["ok"] == 300
    counts = asked(fake, tmp_path)
    assert counts.total() == len(counts) == 300
    assert len(fake.record().batches) == 1


@pytest.mark.timeout(200)
def test_a_batch_that_is_still_under_way_is_waited_for(gateway, tmp_path):
    slow = replace(QUICK, tokens_per_second=2_000.0)
    fake = gateway(batching=slow)
    program = Program(fake, fake.token(), tmp_path, 600)
    assert program.run("submitted")[0] == -9
    assert fake.record().batches[0].status == "pending"
    code, said, error = program.run("never")
    assert code == 0, error
    assert json.loads(said)["right"]
    assert asked(fake, tmp_path).total() == 600
    assert len(fake.record().batches) == 1


def test_a_run_that_ends_before_its_batch_leaves_it_to_the_next(gateway, tmp_path, caplog):
    fake = gateway(cold_start=ColdStart(queued=4e4, starting=0.0))
    items = molecules(40)
    with Pool(batch_over(fake, tmp_path)) as pool, caplog.at_level(logging.WARNING):
        journal = Journal(tmp_path / "run")
        early = build(pool, task=TASK, journal=journal, deadline=2.0)
        state = early.invoke({"molecules": items})
        assert state["report"]["ok"] == 0
        assert len(fake.record().batches) == 1
        assert sum("goes on" in record.message for record in caplog.records) == 1
        fake.advance(5e4)
        state = build(pool, task=TASK, journal=journal).invoke({"molecules": items})
    assert right_answers(state["predictions"], items)
    assert len(fake.record().batches) == 1


def test_a_pool_that_is_closed_waits_for_no_batch(gateway, tmp_path):
    fake = gateway(cold_start=ColdStart(queued=4e4, starting=0.0))
    with ThreadPoolExecutor(1) as executor:
        with Pool(batch_over(fake, tmp_path, poll=600.0)) as pool:
            graph = build(pool, task=TASK)
            running = executor.submit(graph.invoke, {"molecules": molecules(5)})
            fake.wait(lambda record: record.batches)
        with pytest.raises(FanOutError):
            running.result(20)
