"""Whole graphs over the real Globus Compute SDK and endpoint, with Parsl's workers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from globus_compute import QUICK, endpoint_of, quiet_sdk, throttled
from graphs import build, molecules, right_answers

from langgraph_hpc_fanout import (
    FanOutError,
    GlobusComputeEndpoint,
    Journal,
    Limits,
    Losses,
    OpenAIEndpoint,
    Prompt,
    Retry,
    reducers,
)
from langgraph_hpc_fanout.runs.recovery import NOTE
from langgraph_hpc_fanout.testing import FakeFleet
from langgraph_hpc_fanout.testing.globus import GlobusStack

pytestmark = [
    pytest.mark.timeout(180),
    # The SDK never closes the loop of a connection that it has replaced.
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket"),
    pytest.mark.filterwarnings("ignore:\\s*Environment differences"),
]
HERE = Path(__file__).parent
NODE_TASKS = str(HERE / "endpoints" / "globus_compute")
SOLUBLE = Prompt("Is {smiles} soluble?", max_tokens=64)


def outcomes_of(endpoints, count, **fan_out):
    """The outcomes of a graph over these endpoints, each for its item."""
    graph = build(endpoints, task=SOLUBLE, reduce={"reducer": reducers.outcomes}, **fan_out)
    items = molecules(count)
    outcomes = graph.invoke({"molecules": items})["predictions"]
    assert right_answers([each["value"] for each in outcomes], items)
    assert [each["index"] for each in outcomes] == list(range(count))
    return outcomes


@pytest.fixture(scope="module")
def stack():
    quiet_sdk()
    with GlobusStack("htex", workers=2, env={"PYTHONPATH": NODE_TASKS}) as stack:
        yield stack


@pytest.fixture(autouse=True)
def as_new(request):
    yield
    gc.collect()
    if "stack" in request.fixturenames:
        request.getfixturevalue("stack").service.reset()


@pytest.fixture(scope="module")
def fleet():
    with FakeFleet(latency=0.2, capacity=2_000, processes=1) as fleet:
        yield fleet


def test_five_thousand_items_through_parsl_workers(stack, fleet, pool_over):
    fleet.reset_record()
    endpoint = endpoint_of(stack, fleet, window=256)
    outcomes = outcomes_of(pool_over([endpoint]), 5_000)
    assert all(each["attempts"] == 1 for each in outcomes)
    assert fleet.record().arrived == 5_000
    assert endpoint.traffic.requests == 5_000
    assert (endpoint.traffic.lost, endpoint.traffic.late) == (0, 0)
    assert endpoint.outstanding == ()
    # Each outcome has the time that its own request took, not that of its bundle.
    assert 0.15 < sorted(each["latency"] for each in outcomes)[2_500] < 5


@pytest.mark.real_llm
def test_the_real_llm_behind_parsl_workers(stack, real_llm, pool_over):
    endpoint = GlobusComputeEndpoint(
        stack.endpoint_id, url=real_llm.url, client=stack.client(), window=4
    )
    graph = build(
        pool_over([endpoint]),
        task=Prompt("Name the colour of {item}.", max_tokens=8, allow_truncated=True),
        reduce={"reducer": reducers.outcomes},
    )
    outcomes = graph.invoke({"molecules": ["snow", "grass", "blood"]})["predictions"]
    assert len(outcomes) == 3
    for each in outcomes:
        assert each["ok"]
        assert each["value"].strip()
        assert each["usage"]["completion_tokens"] >= 1
        assert each["model"]


async def test_two_graphs_at_once_share_an_endpoint(stack, fleet, pool_over):
    client = await asyncio.to_thread(stack.client)
    pool = pool_over([endpoint_of(stack, fleet, client=client)])
    graphs = build(pool, task=SOLUBLE), build(pool, task=SOLUBLE)
    runs = [
        graph.ainvoke({"molecules": molecules(count)})
        for graph, count in zip(graphs, (150, 100), strict=True)
    ]
    for found, count in zip(await asyncio.gather(*runs), (150, 100), strict=True):
        assert right_answers(found["predictions"], molecules(count))


def test_one_item_fan_outs_in_a_row_are_not_throttled(stack, fleet, pool_over, caplog):
    endpoint = endpoint_of(stack, fleet, losses=Losses())
    graph = build(pool_over([endpoint]), task=SOLUBLE)
    for number in range(12):
        assert graph.invoke({"molecules": [{"smiles": f"N{number}"}]})["predictions"][0]
    assert throttled(caplog.records) == []
    record = stack.service.record()
    assert len(record.submits) == 12
    assert record.most_in_window <= 20
    assert set(record.statuses) == {200}


def once_asked(fleet, count, act):
    """A thread that does something terrible when the fleet has been asked so often."""
    fleet.reset_record()

    def run():
        end = time.monotonic() + 60
        while fleet.record().arrived < count and time.monotonic() < end:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("victim", ["worker", "user endpoint"])
def test_a_kill_in_the_middle(stack, fleet, pool_over, victim):
    endpoint = endpoint_of(stack, fleet, window=16, bundle_seconds=2.0)
    kill = stack.kill_worker if victim == "worker" else stack.kill_user_endpoint
    killing = once_asked(fleet, 50, kill)
    outcomes = outcomes_of(pool_over([endpoint]), 800, retry=Retry(base=0.05))
    killing.join()
    traffic = endpoint.traffic
    assert traffic.requests == 800 + traffic.resent
    again = [each for each in outcomes if each["attempts"] > 1]
    assert len(again) <= traffic.resent
    if victim == "worker":
        assert traffic.lost >= 1
        assert again
    else:  # what it had not acknowledged yet is delivered to the next one, and not lost
        assert traffic.lost >= 1 or fleet.record().arrived > 800


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_kills(stack, fleet, pool_over):
    """By turns a worker and the whole user endpoint, each time 400 more requests were served."""
    endpoint = endpoint_of(stack, fleet, window=16, bundle_seconds=2.0)
    fleet.reset_record()
    over, kills = threading.Event(), []

    def kill():
        for number in range(6):
            act = stack.kill_user_endpoint if number % 2 else stack.kill_worker
            while fleet.record().served < 400 * (number + 1) and not over.wait(0.05):
                pass
            while len(kills) == number and not over.wait(0.05):
                with contextlib.suppress(RuntimeError):  # there is none at the moment
                    kills.append(act())

    killing = threading.Thread(target=kill)
    killing.start()
    try:
        retry = Retry(base=0.05, attempts=50)
        outcomes_of(pool_over([endpoint]), 3_000, retry=retry)
    finally:
        over.set()
        killing.join()
    traffic = endpoint.traffic
    assert len(kills) == 6
    assert traffic.requests == 3_000 + traffic.resent


class Program:
    """A program that may be killed and started again, see `globus_program`."""

    def __init__(self, stack, fleet, directory, count, *checkpoints):
        given = [stack.url, stack.endpoint_id, fleet.urls[0], directory, count, *checkpoints]
        self.command = [sys.executable, str(HERE / "globus_program.py"), *map(str, given)]
        self.stack, self.fleet, self.count = stack, fleet, count
        self.journal = Journal(directory / "run")
        fleet.reset_record()

    def killed(self, more, seconds=0.0):
        """Kill it so many seconds after the fleet was asked so many more requests."""
        before = self.fleet.record().arrived
        with subprocess.Popen(self.command, stdout=subprocess.DEVNULL) as running:
            self.fleet.wait(lambda record: record.arrived >= before + more, timeout=60)
            time.sleep(seconds)
            running.kill()
        assert running.returncode == -9, "it had not ended"

    def ended(self):
        """Let it come to its end; returns what it says."""
        done = subprocess.run(self.command, stdout=subprocess.PIPE, timeout=150, check=True)
        return json.loads(done.stdout)

    def answered(self):
        """The outcomes in the journal, by item."""
        log = self.journal.log
        log.refresh()
        outcomes = (each for run in log.runs() for each in log.outcomes(run.run))
        return {each.index: each for each in outcomes}

    def asked(self):
        """How often the fleet was asked each question."""
        return Counter(row.prompt for row in self.fleet.record().requests)

    def unnoted(self):
        """Most requests in bundles that the service took and nobody could note."""
        self.journal.log.refresh()
        noted = {}
        for note in self.journal.log.notes(NOTE):
            noted.update(note["tasks"])
        submits = self.stack.service.record().submits
        taken = {task for submit in submits for task in submit.task_ids}
        return len(taken - noted.keys()) * max(map(len, noted.values()))


@pytest.mark.parametrize("saver", [[], ["checkpoints"]], ids=["journal", "checkpoints too"])
def test_a_killed_program_is_started_again_and_pays_once(stack, fleet, tmp_path, saver):
    program = Program(stack, fleet, tmp_path, 800, *saver)
    program.killed(550)
    before, unnoted = program.answered(), program.unnoted()
    assert before
    told = program.ended()
    assert told["right"]
    assert told["resumed"] == bool(saver)
    assert told["recalled"] >= 1
    report, asked = told["report"], program.asked()
    assert len(asked) == 800
    assert asked.total() <= 800 + unnoted, "what the service took in the moment of the kill"
    # An invocation that goes on is the same run, which tells of all that it has paid for.
    earlier = {} if saver else before
    assert (report["total"], report["ok"]) == (800, 800)
    assert report["cached"] == len(earlier)
    assert report["attempts"] == 800 - len(earlier)
    paid = sum(each.usage.completion_tokens for each in program.answered().values())
    had = sum(each.usage.completion_tokens for each in earlier.values())
    assert report["tokens"]["completion"] == paid - had


def test_results_that_have_expired_are_asked_for_again(stack, fleet, tmp_path):
    stack.service.set_limits(retention=2.0)
    try:
        program = Program(stack, fleet, tmp_path, 300)
        program.killed(100)
        before = len(program.answered())
        while (record := stack.service.record()).results < record.tasks:
            time.sleep(0.05)
        worked_on = program.asked().total()
        time.sleep(2.1)
        told = program.ended()
    finally:
        stack.service.set_limits(retention=1800.0)
    assert told["right"]
    assert told["recalled"] == 0
    assert worked_on > before
    assert program.asked().total() == worked_on + 300 - before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_kills_of_the_coordinator(stack, fleet, tmp_path):
    program, kills, chance = Program(stack, fleet, tmp_path, 3_000), 12, random.Random(5)
    for _ in range(kills):
        program.killed(40, chance.uniform(0.0, 1.0))
    told = program.ended()
    assert told["right"]
    # Results that a program had fetched when it was killed are gone: at most half a second's.
    assert program.asked().total() <= 3_000 + program.unnoted() + kills * 100
    assert max(program.asked().values()) <= 3


@pytest.mark.parametrize("side", ["sdk", "endpoint", "all"])
def test_connections_that_drop_in_the_middle(stack, fleet, pool_over, side):
    endpoint = endpoint_of(stack, fleet, window=16, bundle_seconds=2.0)
    dropping = once_asked(fleet, 50, lambda: stack.drop_connections(side))
    outcomes_of(pool_over([endpoint]), 400)
    dropping.join()
    # What an endpoint had not acknowledged is delivered to it again, and run again.
    twice = 0 if side == "sdk" else 400
    assert fleet.record().arrived <= 400 + twice + endpoint.traffic.resent


def test_a_node_that_falls_silent_gives_its_bundles_to_others(stack, fleet, pool_over):
    quick = stack.add_endpoint("threads", workers=1)
    frozen = endpoint_of(stack, fleet, name="frozen", window=8, losses=QUICK)
    well = GlobusComputeEndpoint(
        quick, url=fleet.urls[0], client=stack.client(), name="well", window=64, losses=QUICK
    )
    freezing = once_asked(fleet, 1, stack.pause)
    try:
        outcomes = outcomes_of(pool_over([frozen, well]), 300)
    finally:
        freezing.join()
        stack.resume()
    moved = [each for each in outcomes if each["attempts"] > 1]
    assert moved
    assert {each["endpoint"] for each in moved} == {"well"}


def test_different_configurations_are_different_lanes(stack, fleet, pool_over):
    lanes = [
        endpoint_of(stack, fleet, name=f"lane-{workers}", user_endpoint_config={"workers": workers})
        for workers in (1, 2)
    ]
    outcomes = outcomes_of(pool_over(lanes), 400)
    assert {each["endpoint"] for each in outcomes} == {"lane-1", "lane-2"}
    configs = {each.user_endpoint_config["workers"] for each in stack.service.record().submits}
    assert configs == {1, 2}


def test_globus_compute_and_a_url_in_one_pool(stack, fleet, pool_over):
    node = endpoint_of(stack, fleet, model="tiny")
    url = OpenAIEndpoint(fleet.urls[0], name="url", limits=Limits(concurrency=8))
    outcomes = outcomes_of(pool_over([node, url]), 1_000)
    assert {each["endpoint"] for each in outcomes} == {"node", "url"}


def test_an_item_that_kills_its_worker_takes_few_others_along(stack, fleet, pool_over):
    endpoint = endpoint_of(stack, fleet, window=64)
    items = [f"C{number}" for number in range(400)]
    items[117] = "poison"
    graph = build(
        pool_over([endpoint]),
        task="node_tasks:may_kill",
        version="1",
        retry=Retry(base=0.05, attempts=4),
        reduce={"reducer": reducers.outcomes},
    )
    outcomes = graph.invoke({"molecules": items})["predictions"]
    failed = [each for each in outcomes if not each["ok"]]
    assert outcomes[117] in failed
    assert len(failed) <= 8
    assert all(each["error"]["kind"] == "transient" for each in failed)
    good = [each for each in outcomes if each["ok"]]
    assert all(each["value"] == items[each["index"]] for each in good)
    assert any(each["attempts"] > 1 for each in good)


def test_a_cancelled_run_waits_for_nothing(stack, fleet, pool_over):
    async def main():
        endpoint = endpoint_of(stack, fleet, window=4, bundle_seconds=5.0)
        graph = build(pool_over([endpoint]), task=SOLUBLE)
        run = asyncio.create_task(graph.ainvoke({"molecules": molecules(400)}))
        while endpoint.traffic.bundles == 0:
            await asyncio.sleep(0.02)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        while endpoint.outstanding:
            await asyncio.sleep(0.02)
        return endpoint

    asyncio.run(main())


def test_the_endpoint_scales_out_by_demand_and_in_again(fleet, pool_over):
    with GlobusStack(
        "htex", workers=1, init_blocks=0, min_blocks=0, max_blocks=3, max_idletime=1.0
    ) as stack:
        endpoint = endpoint_of(stack, fleet, window=4, bundle_seconds=2.0)
        most = 0
        done = threading.Event()

        def count():
            nonlocal most
            while not done.wait(0.1):
                most = max(most, len(stack.worker_pids()))

        counting = threading.Thread(target=count)
        counting.start()
        try:
            outcomes_of(pool_over([endpoint]), 600)
        finally:
            done.set()
            counting.join()
        assert most == 3
        end = time.monotonic() + 60
        while stack.worker_pids() and time.monotonic() < end:
            time.sleep(0.1)
        assert stack.worker_pids() == []


def test_without_a_login_the_run_ends_with_the_command(fleet, pool_over, monkeypatch, tmp_path):
    monkeypatch.delenv("GLOBUS_COMPUTE_CLIENT_ID", raising=False)
    monkeypatch.delenv("GLOBUS_COMPUTE_CLIENT_SECRET", raising=False)
    monkeypatch.setenv("GLOBUS_COMPUTE_USER_DIR", str(tmp_path))
    endpoint = GlobusComputeEndpoint("4b116d3c-1703-4f8f-9f6f-39921e5864df", url=fleet.urls[0])
    graph = build(pool_over([endpoint]), task=SOLUBLE)
    with pytest.raises(FanOutError, match=r"nobody is logged in to Globus Compute.*\.login\(\)"):
        graph.invoke({"molecules": molecules(2)})
