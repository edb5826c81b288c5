"""Whole graphs over FIRST: ten thousand streams, and the quotas that it has by default."""

from __future__ import annotations

import pytest
from graphs import build, molecules, right_answers

from langgraph_hpc_fanout import Limits, Pool, Prompt
from langgraph_hpc_fanout.testing.first import Cluster, ColdStart, FirstFake, Model, UsageLimits

GPT = "openai/gpt-oss-120b"
NAME = f"sophia/{GPT}"
STREAMS = 10_000
RAISED = UsageLimits(concurrency=STREAMS, requests=10**7, burst=STREAMS, tokens=10**10)


def hot_or_cold(state, capacity=STREAMS):
    return (Cluster("sophia", "vllm", (Model(GPT, state, capacity=capacity),)),)


@pytest.mark.timeout(180)
def test_ten_thousand_streams_after_a_first_refusal():
    items = molecules(STREAMS)
    with FirstFake(
        hot_or_cold("cold"),
        version=2,
        quotas=RAISED,
        cold_start=ColdStart(queued=1.0, starting=2.0),
        latency=25.0,
        record="counts",
        process=True,
    ) as fake:
        limits = Limits(concurrency=STREAMS)
        with Pool.from_first(GPT, base_url=fake.url, token=fake.token(), limits=limits) as pool:
            state = build(pool).invoke({"molecules": items})
        record = fake.record()
    assert right_answers(state["predictions"], items)
    model, (user,) = record.models[NAME], record.users.values()
    assert model.peak_in_flight == STREAMS
    assert model.wakeups == 1
    assert model.served == len(items)
    assert model.refused.keys() == {"cold"}
    assert model.refused["cold"] <= 5, "one looked whenever Retry-After was over; others waited"
    assert user.tokens_seen == 1


@pytest.mark.timeout(120)
def test_three_hundred_calls_at_the_default_quotas_thirty_times_as_fast():
    scale, items = 30, molecules(300)
    allowed = UsageLimits()
    task = Prompt("Is {smiles} soluble?", max_tokens=64)
    with FirstFake(
        hot_or_cold("hot"), version=2, quotas=allowed, time_scale=scale, latency=2.0
    ) as fake:
        # What the endpoint says of itself by default, in real seconds.
        limits = Limits(
            concurrency=allowed.concurrency,
            requests=f"{allowed.requests * scale}/min",
            burst=2,
            tokens=f"{allowed.tokens * scale}/min",
        )
        with Pool.from_first(GPT, base_url=fake.url, token=fake.token(), limits=limits) as pool:
            state = build(pool, task=task).invoke({"molecules": items})
        record = fake.record()
    assert right_answers(state["predictions"], items)
    model = record.models[NAME]
    assert model.peak_in_flight <= allowed.concurrency
    assert model.served == 300
    assert sum(model.refused.values()) < 0.02 * 300


@pytest.mark.slow  # in company a few milliseconds make a refusal
@pytest.mark.timeout(120)
def test_ten_requests_a_second_of_the_first_version():
    items = molecules(200)
    with FirstFake() as fake:
        with Pool.from_first("gpt-oss-120b", base_url=fake.url, token=fake.token()) as pool:
            state = build(pool).invoke({"molecules": items})
        record = fake.record()
    assert right_answers(state["predictions"], items)
    arrived = sorted(row.arrived for row in record.requests)
    assert 199 / (arrived[-1] - arrived[0]) >= 0.95 * 10
    assert record.reasons["requests"] < 0.02 * 200, "looks at lists and jobs are counted as well"
