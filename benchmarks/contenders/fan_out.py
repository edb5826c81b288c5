"""The fan-out, all of it: a compiled graph with a `FanOutNode`, a `ReduceNode` and a pool."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from benchmarks.sample import Meter, Sample
from benchmarks.workload import IN_FLIGHT, MAX_TOKENS, MODEL, QUESTION, Item, check, molecules
from langgraph_hpc_fanout import (
    Bundling,
    Endpoint,
    FanOutNode,
    Health,
    Limits,
    OpenAIEndpoint,
    Pool,
    Prompt,
    ReduceNode,
    Reply,
    Request,
    Usage,
    add_fan_out,
)

Call = Literal["invoke", "ainvoke"]

_WARM_UP = 64


class State(TypedDict, total=False):
    """What the graph works on."""

    molecules: list[Item]
    answers: list[str | None]


class Instant:
    """An endpoint in this process that answers at once: what is left is the fan-out itself."""

    name = "instant"
    models: Mapping[str, str] = {MODEL: MODEL}
    limits = Limits(concurrency=IN_FLIGHT)
    bundling = Bundling()

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def probe(self) -> Health:
        """Always well."""
        return Health(ok=True)

    async def send(self, requests: Sequence[Request]) -> AsyncIterator[Reply]:
        """The same answer to everything; a new dict each time, as JSON would give."""
        for position, _ in enumerate(requests):
            message = {"role": "assistant", "content": "Yes, it is soluble in water."}
            body = {"model": MODEL, "choices": [{"message": message, "finish_reason": "stop"}]}
            yield Reply(position, body=body, usage=Usage(16, 7))


def ask(
    urls: Sequence[str],
    count: int,
    *,
    width: int = IN_FLIGHT,
    call: Call = "ainvoke",
    warm_up: int = _WARM_UP,
    keep_connections: bool = False,
    max_concurrency: int | None = None,
) -> Sample:
    """Ask about so many items over HTTP.

    Args:
        urls: Where; the endpoints share the width evenly.
        count: How many items.
        width: How many at a time.
        call: How to call the graph.
        warm_up: Items to ask about before.
        keep_connections: Whether the run may use the connections of the warm-up.
        max_concurrency: LangGraph's own bound on branches that run at once.
    """
    _allow_many_files()
    limits = Limits(concurrency=width // len(urls))
    pool = Pool([OpenAIEndpoint(url, models=[MODEL], limits=limits) for url in urls])
    config = (
        RunnableConfig()
        if max_concurrency is None
        else RunnableConfig(max_concurrency=max_concurrency)
    )
    return _measure(pool, count, call, warm_up, config, keep_connections=keep_connections)


def ask_nobody(count: int) -> Sample:
    """Ask about so many items where the answer is there at once."""
    endpoint: Endpoint = Instant()
    return _measure(Pool(endpoint), count, "ainvoke", _WARM_UP, {}, keep_connections=False)


def _measure(
    pool: Pool,
    count: int,
    call: Call,
    warm_up: int,
    config: RunnableConfig,
    *,
    keep_connections: bool,
) -> Sample:
    graph = _graph(pool)
    with pool, asyncio.Runner() as runner:

        def run(items: list[Item]) -> Any:
            if call == "invoke":
                return graph.invoke({"molecules": items}, config)
            return runner.run(graph.ainvoke({"molecules": items}, config))

        run(molecules(warm_up))
        if not keep_connections:
            pool.close()
        items = molecules(count)
        with Meter(count) as meter:
            state = run(items)
    check(state["answers"], count)
    return meter.sample


def _graph(pool: Pool) -> Any:
    screen = FanOutNode("molecules", Prompt(QUESTION, max_tokens=MAX_TOKENS), pool=pool)
    builder = StateGraph(State)
    add_fan_out(builder, screen, ReduceNode(screen, into="answers"), after=START, before=END)
    return builder.compile()


def _allow_many_files() -> None:
    """A connection is a file; most systems let a process have 1,024 until it asks for more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
