"""One graph over all kinds of doors at once, each within its own limits."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from globus_compute import endpoint_of, quiet_sdk
from graphs import build, molecules, right_answers

from langgraph_hpc_fanout import (
    FirstBatchEndpoint,
    FirstEndpoint,
    Limits,
    OpenAIEndpoint,
    Pool,
    Prompt,
    reducers,
)
from langgraph_hpc_fanout.endpoints.first import endpoint as module
from langgraph_hpc_fanout.testing import FakeFleet
from langgraph_hpc_fanout.testing.first import (
    Batching,
    Cluster,
    ColdStart,
    FirstFake,
    Model,
    Times,
)
from langgraph_hpc_fanout.testing.globus import GlobusStack

pytestmark = [
    pytest.mark.timeout(180),
    # The SDK never closes the loop of a connection that it has replaced.
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket"),
    pytest.mark.filterwarnings("ignore:\\s*Environment differences"),
]

COUNT = 5_000
GPT = "gpt-oss-120b"
OPENAI_GPT = "openai/gpt-oss-120b"
COLD = Cluster("polaris", "vllm", (Model(OPENAI_GPT, state="cold"),))
BATCHES = Cluster("sophia", "vllm", (Model(OPENAI_GPT, batch=True),))
TASK = Prompt("Is {smiles} soluble?", model=GPT, max_tokens=64)
LOOKS = 8
"""At lists, jobs and the batch, which the gateway counts as requests."""
PER_SECOND, AT_ONCE, ON_NODE = 40, 6, 32


@pytest.fixture(scope="module")
def stack():
    quiet_sdk()
    with GlobusStack("htex", workers=2) as stack:
        yield stack


@pytest.fixture
def gateway(tmp_path, monkeypatch):
    """FIRST with the quotas that it has by default, and one model that is cold."""
    monkeypatch.setattr(module, "_POLL_SECONDS", 2.0)
    with FirstFake(
        (COLD, BATCHES),
        cold_start=ColdStart(queued=1.0, starting=2.0),
        times=Times(jobs_cache=0.1, batch_status=0.1, status_cache=0.1, trigger_lag=0.05),
        batching=Batching(tokens_per_second=10_000.0),
        files=tmp_path,
        latency=0.05,
    ) as fake:
        yield fake


def most_within(seconds, times):
    """The most that came within a time, wherever that begins."""
    times, first, most = sorted(times), 0, 0
    for last, now in enumerate(times):
        while times[first] <= now - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def test_a_cold_model_a_batch_a_server_and_a_node(stack, gateway, tmp_path):
    issued = []

    def login():
        issued.append(gateway.token())
        return issued[-1]

    with FakeFleet(endpoints=2, models=(GPT,), latency=0.1, capacity=2_000) as fleet:
        server, behind_the_node = fleet.urls
        fleet.change(1, latency=1.0)
        live = FirstEndpoint("polaris", model=GPT, base_url=gateway.url, token=login)
        batch = FirstBatchEndpoint(
            "sophia", model=GPT, directory=tmp_path, base_url=gateway.url, token=login, poll=6.0
        )
        own = OpenAIEndpoint(
            server,
            name="own",
            limits=Limits(concurrency=AT_ONCE, requests=f"{PER_SECOND}/s"),
        )
        node = endpoint_of(
            stack,
            fleet,
            url=behind_the_node,
            model=GPT,
            window=16,
            limits=Limits(concurrency=ON_NODE),
        )
        items = molecules(COUNT)
        ended = []
        with Pool([live, batch, own, node]) as pool:
            graph = build(pool, task=TASK, reduce={"reducer": reducers.outcomes})
            run = threading.Thread(target=lambda: ended.append(graph.invoke({"molecules": items})))
            run.start()
            gateway.wait(lambda record: record.models[f"polaris/{OPENAI_GPT}"].served > 40, 60.0)
            gateway.expire_tokens()
            run.join()
        outcomes = ended[0]["predictions"]
        assert right_answers([each["value"] for each in outcomes], items)
        by_door = Counter(each["endpoint"] for each in outcomes)
        assert by_door.keys() == {live.name, batch.name, own.name, node.name}
        assert min(by_door.values()) > 40, "every door had its part"

        servers = fleet.record()
        arrivals = [row.arrived for row in servers.requests if row.endpoint == 0]
        assert servers.endpoints[0].peak_in_flight <= AT_ONCE
        assert most_within(5.0, arrivals) <= 5.2 * PER_SECOND, "on the way some catch up"
        assert servers.endpoints[1].peak_in_flight <= ON_NODE

    record = gateway.record()
    cold, (user,) = record.models[f"polaris/{OPENAI_GPT}"], record.users.values()
    assert cold.wakeups == 1
    assert len(issued) == 2, "one refresh, for the live door and the batch"
    assert user.tokens_seen == 2
    refused = [row for row in record.requests if row.reason == "requests"]
    assert len(refused) <= 0.02 * cold.served + LOOKS, "looks take the place of requests"
    assert cold.windows
    assert max(cold.windows) <= 60_000
    assert not record.reasons["quota_exceeded"], "one batch at a time"
    assert all(each.lines == each.responses for each in record.batches)
    answered = servers.endpoints[0].served + servers.endpoints[1].served + cold.served
    answered += sum(each.responses for each in record.batches)
    assert answered <= COUNT + 2 * ON_NODE, "few are asked twice, at the end"
