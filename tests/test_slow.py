"""What does not fit into the everyday suite: many kills, many faults, many items."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from graphs import build, molecules, right_answers

from langgraph_hpc_fanout import Bundling, Health, Journal, Limits, Reply, Results, Retry, reducers
from langgraph_hpc_fanout.testing.fleet import Fault

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

KILLS = 20


class Instant:
    """An endpoint that answers at once with the question."""

    name = "instant"
    models = {"tiny": "tiny"}  # noqa: RUF012
    limits = Limits(concurrency=1000)
    bundling = Bundling()

    async def open(self):
        pass

    async def close(self):
        pass

    async def probe(self):
        return Health(ok=True)

    async def send(self, requests):
        for position, request in enumerate(requests):
            content = request.body["messages"][0]["content"]
            choice = {"message": {"content": content}, "finish_reason": "stop"}
            yield Reply(position, body={"choices": [choice]})


def test_a_million_items(pool_over, tmp_path):
    items = molecules(1_000_000)
    graph = build(
        pool_over(Instant()),
        journal=Journal(tmp_path / "run"),
        reduce={"reducer": reducers.reference, "report_into": None},
    )
    reference = graph.invoke({"molecules": items})["predictions"]
    assert reference["ok"] == reference["total"] == 1_000_000
    for index, outcome in enumerate(Results.open(reference)):
        assert outcome.index == index
        assert outcome.value == f"Is C{index} soluble?"
    assert index == 999_999


def test_a_storm_over_many_endpoints(fake_fleet, pool_over):
    kinds = ("http_429", "http_500", "http_503", "html_200", "reset", "malformed_json")
    storm = tuple(Fault(kind, rate=0.05) for kind in kinds)
    fleet = fake_fleet(endpoints=16, latency=0.002, faults=storm, seed=3, processes=1)
    retry = Retry(attempts=20, base=0.005, cap=0.1)
    items = molecules(20_000)
    state = build(pool_over(fleet.urls), retry=retry).invoke({"molecules": items})
    assert right_answers(state["predictions"], items)
    assert state["report"]["attempts"] == fleet.record().served


PROGRAM = textwrap.dedent(
    """
    import sys
    sys.path.insert(0, sys.argv[1])
    from graphs import build, molecules, right_answers
    from langgraph_hpc_fanout import Journal, Limits, OpenAIEndpoint, Pool
    pool = Pool(OpenAIEndpoint(sys.argv[2], limits=Limits(concurrency=8)))
    graph = build(pool, journal=Journal(sys.argv[3]))
    state = graph.invoke({"molecules": molecules(400)})
    print(right_answers(state["predictions"], molecules(400)), flush=True)
    """
)


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_many_kills_and_new_starts(fake_fleet, tmp_path, kill):
    fleet = fake_fleet(latency=0.05)
    chance = random.Random(kill)
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), fleet.urls[0]]
    for _ in range(KILLS):
        with subprocess.Popen(
            [*command, str(tmp_path / "run")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as program:
            before = fleet.record().arrived
            fleet.wait(
                lambda record, before=before: record.arrived > before or program.poll() is not None,
                timeout=60,
            )
            time.sleep(chance.uniform(0, 0.6))
            program.send_signal(kill)
            program.communicate(timeout=30)
    last = subprocess.run(
        [*command, str(tmp_path / "run")], capture_output=True, text=True, timeout=120, check=True
    )
    assert last.stdout.strip() == "True"
    served = fleet.record().statuses[200]
    # What a journal had not flushed yet when it was killed, at most half a second's worth.
    assert served <= 400 + KILLS * (8 + 8 * 12)
