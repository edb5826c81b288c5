"""What an invocation's context changes about a run, in plain LangGraph."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from graphs import PROMPT, State, molecules, right_answers
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict

from langgraph_hpc_fanout import (
    FanOutError,
    FanOutNode,
    Limits,
    OpenAIEndpoint,
    ReduceNode,
    add_fan_out,
)
from langgraph_hpc_fanout.testing.fleet import Fault


@dataclass
class Data:
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    concurrency: int | None = None
    mine: str = "also"


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    concurrency: int | None = None


class Mapping(TypedDict, total=False):
    model: str
    max_tokens: int
    temperature: float
    concurrency: int


def build(schema, *, pool=None, task=PROMPT, checkpointer=None, **options):
    screen = FanOutNode("molecules", task, pool=pool, name="screen", **options)
    gather = ReduceNode(screen, "predictions", failures_into="failures", report_into="report")
    builder = StateGraph(State, schema)
    add_fan_out(builder, screen, gather, after=START, before=END)
    return builder.compile(checkpointer=checkpointer)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("schema", [Data, Model, Mapping])
def test_it_changes_what_is_asked(fake_fleet, pool_over, schema, is_async):
    bodies = []

    def answer(body):
        bodies.append(body)
        return "yes"

    fleet = fake_fleet(models=("small", "large"), answer=answer)
    graph = build(schema, pool=pool_over(fleet.urls), task=type(PROMPT)("{smiles}", model="small"))
    given = {"molecules": molecules(70)}

    def run(**context):
        bodies.clear()
        if is_async:
            asyncio.run(graph.ainvoke(given, context=context))
        else:
            graph.invoke(given, context=context)
        assert len(bodies) == 70
        assert all(body == {**bodies[0], "messages": body["messages"]} for body in bodies)
        return {name: bodies[0].get(name) for name in ("model", "max_tokens", "temperature")}

    plain = {"model": "small", "max_tokens": None, "temperature": None}
    assert run() == plain
    changed = {"model": "large", "max_tokens": 9, "temperature": 0.25}
    assert run(**changed) == changed
    assert run() == plain, "one run's context is not the next one's"


@pytest.mark.parametrize("concurrency", [1, 3, 100])
def test_concurrency_caps_this_run_and_never_widens_a_lane(fake_fleet, pool_over, concurrency):
    fleet = fake_fleet(2, latency=0.005)
    pool = pool_over([OpenAIEndpoint(url, limits=Limits(concurrency=4)) for url in fleet.urls])
    graph = build(Data, pool=pool)
    given = {"molecules": molecules(60)}
    state = graph.invoke(given, context=Data(concurrency=concurrency))
    assert right_answers(state["predictions"], given["molecules"])
    peaks = [endpoint.peak_in_flight for endpoint in fleet.record().endpoints]
    assert sum(peaks) <= 2 * min(concurrency, 4)
    assert max(peaks) <= min(concurrency, 4)
    if concurrency == 1:
        assert peaks == [1, 1] or sorted(peaks) == [0, 1]


async def test_two_runs_at_once_have_their_own(fake_fleet, pool_over):
    fleet = fake_fleet(latency=0.002, answer=lambda body: str(body["max_tokens"]))
    graph = build(Data, pool=pool_over(fleet.urls))
    given = {"molecules": molecules(70)}
    states = await asyncio.gather(
        *(graph.ainvoke(given, context=Data(max_tokens=most)) for most in (10, 20, 30))
    )
    for most, state in zip((10, 20, 30), states, strict=True):
        assert state["predictions"] == [str(most)] * 70


def test_concurrency_caps_calls_of_a_task(fake_fleet, pool_over):
    now, most, kept = 0, 0, 0

    async def task(item):
        nonlocal now, most
        now += 1
        most = max(most, now)
        while most < kept:  # ends only when so many are under way at once
            await asyncio.sleep(0.001)
        now -= 1

    graph = build(Data, task=task, task_concurrency=8)
    for wished, kept in ((3, 3), (50, 8), (None, 8)):
        most = 0
        graph.invoke({"molecules": list(range(60))}, context=Data(concurrency=wished))
        assert most == kept


def test_a_resumed_run_takes_the_context_of_the_resume(fake_fleet, pool_over):
    config = {"configurable": {"thread_id": "1"}}
    fleet = fake_fleet(
        latency=0.002,
        answer=lambda body: str(body["max_tokens"]),
        faults=(Fault("http_401", contains="C60 ", times=1),),
    )
    pool = pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=2)))
    graph = build(Data, pool=pool, checkpointer=InMemorySaver())
    with pytest.raises(FanOutError):
        graph.invoke({"molecules": molecules(64)}, config, context=Data(max_tokens=10))
    state = graph.invoke(None, config, context=Data(max_tokens=20))
    assert set(state["predictions"]) <= {"10", "20"}
    assert state["predictions"][60] == "20"


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"concurrency": 0},
            "context's concurrency=0 cannot be used: .*than or equal to 1",
        ),
        ({"max_tokens": 0}, "context's max_tokens=0 cannot be used"),
        ({"max_tokens": "many"}, "context's max_tokens='many' cannot be used"),
        ({"temperature": -1}, "context's temperature=-1 cannot be used"),
        ({"model": ""}, "context's model='' cannot be used"),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_value_that_cannot_be(fake_fleet, pool_over, wrong, message, is_async):
    fleet = fake_fleet()
    graph = build(Mapping, pool=pool_over(fleet.urls))
    given = {"molecules": molecules(3)}

    def run():
        if is_async:
            return asyncio.run(graph.ainvoke(given, context=wrong))
        return graph.invoke(given, context=wrong)

    with pytest.raises(FanOutError, match=rf"screen: the {message}.*nothing was sent"):
        run()
    assert fleet.record().arrived == 0


@pytest.mark.parametrize(
    ("schema", "error", "message"),
    [
        (Data, TypeError, "unexpected keyword argument 'temprature'"),
        (Model, ValueError, r"temprature\n  Extra inputs are not permitted"),
    ],
)
def test_an_unknown_field_is_refused_by_the_schema(fake_fleet, pool_over, schema, error, message):
    fleet = fake_fleet()
    graph = build(schema, pool=pool_over(fleet.urls))
    with pytest.raises(error, match=message):
        graph.invoke({"molecules": molecules(3)}, context={"temprature": 1})
    assert fleet.record().arrived == 0


def test_a_model_that_nobody_serves(fake_fleet, pool_over):
    graph = build(Data, pool=pool_over(fake_fleet().urls))
    with pytest.raises(FanOutError, match="No endpoint serves model 'huge'"):
        graph.invoke({"molecules": molecules(3)}, context=Data(model="huge"))
