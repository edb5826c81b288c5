"""What does not fit into the everyday suite: many faults, many items."""

from __future__ import annotations

import pytest
from graphs import build, molecules, right_answers

from langgraph_hpc_fanout import Bundling, Health, Journal, Limits, Reply, Results, Retry, reducers
from langgraph_hpc_fanout.testing.fleet import Fault

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


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
