"""The same graph with tasks of several kinds, each one question an item."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel, SecretStr

from benchmarks.contenders.fan_out import State
from benchmarks.sample import Meter, Sample
from benchmarks.workload import IN_FLIGHT, MAX_TOKENS, MODEL, QUESTION, molecules
from langgraph_hpc_fanout import (
    FanOutNode,
    Limits,
    OpenAIEndpoint,
    Pool,
    Prompt,
    ReduceNode,
    add_fan_out,
)

Kind = Literal["prompt", "schema", "pool.chat_model", "ChatOpenAI"]

ANSWER = '{"soluble": true}'

_WARM_UP = 64


class Solubility(BaseModel):
    """What answers must fit."""

    soluble: bool


def ask(urls: Sequence[str], count: int, kind: Kind) -> Sample:
    """Ask about so many items with `ainvoke`, 64 at a time."""
    limits = Limits(concurrency=IN_FLIGHT // len(urls))
    pool = Pool([OpenAIEndpoint(url, models=[MODEL], limits=limits) for url in urls])
    with pool, asyncio.Runner() as runner:
        graph = _graph(urls, pool, kind)
        runner.run(graph.ainvoke({"molecules": molecules(_WARM_UP)}))
        items = molecules(count)
        with Meter(count) as meter:
            state = runner.run(graph.ainvoke({"molecules": items}))
    expected = {"soluble": True} if kind == "schema" else ANSWER
    if state["answers"] != [expected] * count:
        raise ValueError(f"{kind} lost answers: {state['answers'][:3]} …")
    return meter.sample


def _graph(urls: Sequence[str], pool: Pool, kind: Kind) -> Any:
    screen = FanOutNode("molecules", _task(urls, pool, kind), pool=pool)
    builder = StateGraph(State)
    add_fan_out(builder, screen, ReduceNode(screen, into="answers"), after=START, before=END)
    return builder.compile()


def _task(urls: Sequence[str], pool: Pool, kind: Kind) -> Any:
    if kind == "prompt":
        return Prompt(QUESTION, max_tokens=MAX_TOKENS)
    if kind == "schema":
        return Prompt(QUESTION, max_tokens=MAX_TOKENS, schema=Solubility)
    model: Any
    if kind == "pool.chat_model":
        model = pool.chat_model(MODEL, max_tokens=MAX_TOKENS)
    else:
        model = ChatOpenAI(
            model=MODEL,
            base_url=urls[0],
            api_key=SecretStr("none"),
            max_retries=0,
            max_completion_tokens=MAX_TOKENS,
        )
    return ChatPromptTemplate.from_template(QUESTION) | model | StrOutputParser()
