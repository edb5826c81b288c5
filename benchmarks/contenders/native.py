"""Plain LangGraph: a `Send` for each item, and a `ChatOpenAI` call in each, as its guides show."""

from __future__ import annotations

import asyncio
import contextlib
import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import uvloop
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from openai import OpenAIError
from typing_extensions import TypedDict

from benchmarks.contenders.langchain import chat_models
from benchmarks.sample import Meter, Sample
from benchmarks.workload import QUESTION, Item, lost, molecules, warm_up

_WARM_UP = 8


class State(TypedDict):
    """What the graph works on."""

    molecules: list[Item]
    answers: Annotated[list[str], operator.add]


class Branch(TypedDict):
    """What one `Send` carries."""

    number: int
    molecule: Item


def ask(
    urls: Sequence[str], count: int, width: int | None = None, *, timeout: float | None = None
) -> Sample:
    """Ask about so many items with `ainvoke`.

    Args:
        urls: Where.
        count: How many items.
        width: How many at a time; None for all.
        timeout: Seconds that a call may take; None for the client's default.
    """
    config = RunnableConfig(max_concurrency=width) if width else None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        graph = _graph(urls, timeout)
        runner.run(graph.ainvoke(_input(warm_up(_WARM_UP))))
        state = _input(molecules(count))
        answers: list[str] = []
        # One branch that gives up ends the graph, and what the others have goes with it.
        with Meter(count) as meter, contextlib.suppress(OpenAIError):
            answers = runner.run(graph.ainvoke(state, config))["answers"]
    return replace(meter.sample, lost=lost(answers, count))


def ask_sync(urls: Sequence[str], count: int) -> Sample:
    """Ask about so many items with `invoke`, which has a thread or two for each core."""
    graph = _graph(urls, None)
    state = _input(molecules(count))
    with Meter(count) as meter:
        result = graph.invoke(state)
    return replace(meter.sample, lost=lost(result["answers"], count))


def _input(items: list[Item]) -> dict[str, Any]:
    return {"molecules": items, "answers": []}


def _graph(urls: Sequence[str], timeout: float | None) -> Any:
    models = chat_models(urls, timeout)

    def route(state: State) -> list[Send]:
        return [
            Send("ask", {"number": number, "molecule": molecule})
            for number, molecule in enumerate(state["molecules"])
        ]

    def ask_one(branch: Branch) -> dict[str, list[str]]:
        model = models[branch["number"] % len(models)]
        return {"answers": [model.invoke(QUESTION.format_map(branch["molecule"])).text]}

    async def aask_one(branch: Branch) -> dict[str, list[str]]:
        model = models[branch["number"] % len(models)]
        answer = await model.ainvoke(QUESTION.format_map(branch["molecule"]))
        return {"answers": [answer.text]}

    builder = StateGraph(State)
    builder.add_node("ask", RunnableLambda(ask_one, afunc=aask_one))
    builder.add_conditional_edges(START, route, ["ask"])
    builder.add_edge("ask", END)
    return builder.compile()
