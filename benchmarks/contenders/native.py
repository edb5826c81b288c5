"""Plain LangGraph: a `Send` for each item, and a `ChatOpenAI` call in each, as its guides show."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Sequence
from typing import Annotated, Any

from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from pydantic import SecretStr
from typing_extensions import TypedDict

from benchmarks.sample import Meter, Sample
from benchmarks.workload import MAX_TOKENS, MODEL, QUESTION, Item, check, molecules

_WARM_UP = 8


class State(TypedDict):
    """What the graph works on."""

    molecules: list[Item]
    answers: Annotated[list[str], operator.add]


class Branch(TypedDict):
    """What one `Send` carries."""

    number: int
    molecule: Item


def ask(urls: Sequence[str], count: int) -> Sample:
    """Ask about so many items with `ainvoke`, all at a time."""
    with asyncio.Runner() as runner:
        graph = _graph(urls)
        runner.run(graph.ainvoke(_input(_WARM_UP)))
        state = _input(count)
        with Meter(count) as meter:
            result = runner.run(graph.ainvoke(state))
    check(result["answers"], count)
    return meter.sample


def ask_sync(urls: Sequence[str], count: int) -> Sample:
    """Ask about so many items with `invoke`, which has a thread or two for each core."""
    graph = _graph(urls)
    state = _input(count)
    with Meter(count) as meter:
        result = graph.invoke(state)
    check(result["answers"], count)
    return meter.sample


def _input(count: int) -> dict[str, Any]:
    return {"molecules": molecules(count), "answers": []}


def _graph(urls: Sequence[str]) -> Any:
    models = [
        ChatOpenAI(
            model=MODEL,
            base_url=url,
            api_key=SecretStr("none"),
            max_retries=0,
            max_completion_tokens=MAX_TOKENS,
        )
        for url in urls
    ]

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
