"""Items worked on behind a Globus Compute endpoint: in bundles, singly, and without the service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from functools import partial
from multiprocessing import get_context
from typing import Any, Literal

from globus_compute_sdk import Executor
from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect
from langgraph.graph import END, START, StateGraph

from benchmarks.contenders.fan_out import Instant, State
from benchmarks.sample import Meter, Sample
from benchmarks.workload import MAX_TOKENS, MODEL
from langgraph_hpc_fanout import (
    FanOutNode,
    GlobusComputeEndpoint,
    Pool,
    Prompt,
    ReduceNode,
    add_fan_out,
)
from langgraph_hpc_fanout.endpoints.globus_compute.shipping import source_of
from langgraph_hpc_fanout.remote import run as run_bundle
from langgraph_hpc_fanout.testing.globus.client import client_of

Work = Literal["chat", "nothing"]

NOTHING = "benchmarks.contenders.node:nothing"
_QUESTION = "Is {item} soluble in water? Answer yes or no."
_WARM_UP = 300
_PATIENCE = 300.0
_BURST_CALLS, _BURST_SECONDS = 8, 1


def items_of(count: int, size: int) -> list[str]:
    """Items of so many characters, all different."""
    return [f"C{number}".ljust(size, "C") for number in range(count)]


def in_bundles(
    endpoint_id: str, service: str, server: str, count: int, *, work: Work, size: int, window: int
) -> Sample:
    """The whole graph over a `GlobusComputeEndpoint`."""
    endpoint = GlobusComputeEndpoint(
        endpoint_id, url=server, model=MODEL, client=client_of(service), window=window, workers=2
    )
    task = NOTHING if work == "nothing" else Prompt(_QUESTION, max_tokens=MAX_TOKENS)
    return _measured(Pool(endpoint), task, count, size)


def at_nobody(count: int, *, size: int) -> Sample:
    """The same graph over an endpoint in the process, which answers at once."""
    return _measured(Pool(Instant()), Prompt(_QUESTION, max_tokens=MAX_TOKENS), count, size)


def one_by_one(endpoint_id: str, service: str, count: int) -> list[float]:
    """Seconds that each of so many fan-outs of one item takes, one after another."""
    pool = Pool(GlobusComputeEndpoint(endpoint_id, client=client_of(service), workers=2))
    graph = _graph(pool, NOTHING)
    with pool:
        graph.invoke({"molecules": ["warm"]})
        seconds = []
        for number in range(count):
            began = time.perf_counter()
            graph.invoke({"molecules": [f"C{number}"]})
            seconds.append(time.perf_counter() - began)
    return seconds


def one_by_one_slowest(endpoint_id: str, service: str, count: int) -> Sample:
    """The slowest of them, as a sample of which only the wall time counts."""
    slowest = max(one_by_one(endpoint_id, service, count))
    return Sample(count, 0.0, slowest, 0)


def singly(
    endpoint_id: str, service: str, server: str, count: int, *, work: Work, size: int
) -> Sample:
    """The SDK as it comes: one task an item, of the same function with the same serializer."""
    client = client_of(service)
    serializer = ComputeSerializer(strategy_code=PureSourceTextInspect, strategy_data=JSONData)
    with Executor(
        endpoint_id,
        client=client,
        serializer=serializer,
        result_serializers=[JSONData],
        api_burst_limit=_BURST_CALLS,
        api_burst_window_s=_BURST_SECONDS,
    ) as executor:
        function_id = executor.register_source_code(*source_of("package"))
        submit = partial(executor.submit_to_registered_function, function_id)
        wait([submit((_bundle([item], server, work, 1),)) for item in items_of(4, size)])
        bundles = [_bundle([item], server, work, 1) for item in items_of(count, size)]
        with Meter(count) as meter:
            results = [submit((bundle,)) for bundle in bundles]
            wait(results, _PATIENCE)
        _check([result.result(0) for result in results], count)
    return meter.sample


def directly(server: str, count: int, *, size: int, window: int) -> Sample:
    """What the workers run, called in two processes without Globus Compute."""
    half = count // 2
    items = items_of(2 * half, size)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as workers:
        bundles = [_bundle(part, server, "chat", window) for part in (items[:half], items[half:])]
        warm = _bundle(items[:_WARM_UP], server, "chat", window)
        wait([workers.submit(run_bundle, warm) for _ in bundles])
        with Meter(2 * half) as meter:
            results = [workers.submit(run_bundle, bundle) for bundle in bundles]
            wait(results, _PATIENCE)
        _check([result.result(0) for result in results], 2 * half)
    return meter.sample


def _bundle(items: Sequence[str], server: str, work: Work, window: int) -> dict[str, Any]:
    from langgraph_hpc_fanout import __version__

    head = {"format": 1, "version": __version__, "servers": [server], "model": MODEL}
    if work == "nothing":
        return {**head, "window": window, "function": NOTHING, "requests": list(items)}
    bodies = [
        {
            "messages": [{"role": "user", "content": _QUESTION.format(item=item)}],
            "max_tokens": MAX_TOKENS,
        }
        for item in items
    ]
    return {**head, "window": window, "requests": bodies}


def _check(results: Sequence[dict[str, Any]], count: int) -> None:
    good = sum("body" in reply for result in results for reply in result.get("replies", ()))
    if good != count:
        raise ValueError(f"{good} answers to {count} questions: {results[0]!r:.500}")


def _graph(pool: Pool, task: Prompt | str) -> Any:
    version = "1" if isinstance(task, str) else None
    screen = FanOutNode("molecules", task, pool=pool, version=version)
    builder = StateGraph(State)
    add_fan_out(builder, screen, ReduceNode(screen, into="answers"), after=START, before=END)
    return builder.compile()


def _measured(pool: Pool, task: Prompt | str, count: int, size: int) -> Sample:
    graph = _graph(pool, task)
    with pool, asyncio.Runner() as runner:

        def run(items: list[str]) -> Any:
            return runner.run(graph.ainvoke({"molecules": items}))

        run(items_of(_WARM_UP, size))
        items = items_of(count, size)
        with Meter(count) as meter:
            state = run(items)
    answers = [answer for answer in state["answers"] if answer]
    if len(answers) != count:
        raise ValueError(f"{len(answers)} answers to {count} questions.")
    return meter.sample
