"""The fan-out, all of it: a compiled graph with a `FanOutNode`, a `ReduceNode` and a pool."""

from __future__ import annotations

import asyncio
import resource
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from benchmarks.sample import Meter, Sample
from benchmarks.workload import (
    IN_FLIGHT,
    MAX_TOKENS,
    MODEL,
    QUESTION,
    Item,
    lost,
    molecules,
    warm_up,
)
from langgraph_hpc_fanout import (
    Bundling,
    Endpoint,
    FanOutNode,
    Health,
    Journal,
    Limits,
    OpenAIEndpoint,
    Pool,
    Prompt,
    ReduceNode,
    Reply,
    Request,
    Retry,
    Usage,
    add_fan_out,
)

Call = Literal["invoke", "ainvoke"]

_WARM_UP = 64
_ATTEMPT_SECONDS = 600.0


class State(TypedDict, total=False):
    """What the graph works on."""

    molecules: list[Item]
    answers: list[str | None]


class Instant:
    """An endpoint in this process that answers at once: what is left is the fan-out itself.

    Args:
        answer: What it answers to everything.
    """

    def __init__(self, answer: str = "Yes, it is soluble in water.") -> None:
        self._answer = answer

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
            message = {"role": "assistant", "content": self._answer}
            body = {"model": MODEL, "choices": [{"message": message, "finish_reason": "stop"}]}
            yield Reply(position, body=body, usage=Usage(16, 7))


def ask(
    urls: Sequence[str],
    count: int,
    *,
    width: int = IN_FLIGHT,
    call: Call = "ainvoke",
    before: int = _WARM_UP,
    keep_connections: bool = False,
    max_concurrency: int | None = None,
    timeout: float = _ATTEMPT_SECONDS,
    journal: bool = False,
) -> Sample:
    """Ask about so many items over HTTP.

    Args:
        urls: Where; the endpoints share the width evenly.
        count: How many items.
        width: How many at a time.
        call: How to call the graph.
        before: Items to ask about before, to warm up.
        keep_connections: Whether the run may use the connections of the warm-up.
        max_concurrency: LangGraph's own bound on branches that run at once.
        timeout: Seconds that an attempt may take.
        journal: Whether outcomes are kept in a journal.
    """
    _allow_many_files()
    limits = Limits(concurrency=width // len(urls))
    pool = Pool([OpenAIEndpoint(url, models=[MODEL], limits=limits) for url in urls])
    graph = _graph(
        pool,
        retry=Retry(timeout=timeout),
        journal=Journal(tempfile.mkdtemp()) if journal else None,
    )
    config = RunnableConfig(max_concurrency=max_concurrency) if max_concurrency else None
    with pool, asyncio.Runner() as runner:

        def run(items: list[Item]) -> Any:
            if call == "invoke":
                return graph.invoke({"molecules": items}, config)
            return runner.run(graph.ainvoke({"molecules": items}, config))

        run(warm_up(before))
        if not keep_connections:
            pool.close()
        items = molecules(count)
        with Meter(count) as meter:
            state = run(items)
    return replace(meter.sample, lost=lost(state["answers"], count))


def ask_nobody(count: int) -> Sample:
    """Ask about so many items where the answer is there at once."""
    endpoint: Endpoint = Instant()
    pool = Pool(endpoint)
    graph = _graph(pool)
    with pool, asyncio.Runner() as runner:
        runner.run(graph.ainvoke({"molecules": warm_up(_WARM_UP)}))
        items = molecules(count)
        with Meter(count) as meter:
            state = runner.run(graph.ainvoke({"molecules": items}))
    return replace(meter.sample, lost=lost(state["answers"], count))


def _graph(pool: Pool, **options: Any) -> Any:
    task = Prompt(QUESTION, max_tokens=MAX_TOKENS)
    screen = FanOutNode("molecules", task, pool=pool, **options)
    builder = StateGraph(State)
    add_fan_out(builder, screen, ReduceNode(screen, into="answers"), after=START, before=END)
    return builder.compile()


def _allow_many_files() -> None:
    """A connection is a file; most systems let a process have 1,024 until it asks for more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
