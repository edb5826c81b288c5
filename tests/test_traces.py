"""What callbacks, LangSmith's tracers and message streams see of a fan-out."""

from __future__ import annotations

import asyncio

import pytest
from graphs import build, molecules
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run

from langgraph_hpc_fanout import ChatError, FanOutError, Journal, Limits, OpenAIEndpoint, Prompt
from langgraph_hpc_fanout.testing.fleet import Fault

PROMPT = Prompt("Is {smiles} soluble?", system="You are a chemist.", temperature=0, max_tokens=64)


class Tree(BaseTracer):
    """Keeps the runs that a tracer such as LangSmith's would send."""

    def __init__(self):
        super().__init__()
        self.roots = []

    def _persist_run(self, run: Run) -> None:
        self.roots.append(run)

    def models(self):
        """The model runs, with the names of what they are part of."""
        found = []

        def walk(run, above):
            if run.run_type in ("llm", "chat_model"):
                found.append((run, above))
            for child in run.child_runs:
                walk(child, [*above, run.name])

        for root in self.roots:
            walk(root, [])
        return found


def run_graph(graph, given, config, *, is_async):
    if is_async:
        return asyncio.run(graph.ainvoke(given, config))
    return graph.invoke(given, config)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(("size", "trace"), [(3, 0), (3, 2), (3, 9), (200, 5)])
def test_the_first_items_are_llm_runs(fake_fleet, pool_over, is_async, size, trace):
    tree = Tree()
    graph = build(pool_over(fake_fleet().urls), task=PROMPT, trace=trace)
    run_graph(graph, {"molecules": molecules(size)}, {"callbacks": [tree]}, is_async=is_async)
    found = tree.models()
    assert sorted(run.name for run, _ in found) == sorted(
        f"screen[{number}]" for number in range(min(size, trace))
    )
    for run, above in found:
        assert "screen" in above
        number = run.name.removeprefix("screen[").removesuffix("]")
        assert f"Is C{number} soluble?" in str(run.inputs)
        assert "You are a chemist." in str(run.inputs)
        message = run.outputs["generations"][0][0]["message"]["kwargs"]
        assert f"Is C{number} soluble?" in message["content"]
        assert message["usage_metadata"]["output_tokens"] > 0
        assert message["response_metadata"]["model_name"] == "tiny"
        assert run.extra["invocation_params"]["temperature"] == 0
        assert run.error is None
        assert run.end_time >= run.start_time


@pytest.mark.parametrize("is_async", [False, True])
def test_a_branch_is_seen_without_a_trace(fake_fleet, pool_over, is_async):
    names = []

    class Chains(BaseCallbackHandler):
        def on_chain_start(self, serialized, inputs, **kwargs):
            names.append(kwargs["name"])

    graph = build(pool_over(fake_fleet().urls))
    config = {"callbacks": [Chains()]}
    run_graph(graph, {"molecules": molecules(100)}, config, is_async=is_async)
    assert names.count("screen") == 50
    assert names.count("screen_reduce") == 1


@pytest.mark.parametrize("is_async", [False, True])
def test_failures_are_errors(fake_fleet, pool_over, is_async):
    seen = []

    class Errors(BaseCallbackHandler):
        def on_llm_error(self, error, **kwargs):
            seen.append(error)

    fleet = fake_fleet(faults=(Fault("http_400", contains="C1 "),))
    graph = build(pool_over(fleet.urls), task=PROMPT, trace=3)
    config = {"callbacks": [Errors()]}
    state = run_graph(graph, {"molecules": molecules(3)}, config, is_async=is_async)
    assert [type(error) for error in seen] == [ChatError]
    assert seen[0].failure.kind == state["failures"][0]["error"]["kind"] == "permanent"


async def test_async_handlers_and_items_that_cannot_be_asked(fake_fleet, pool_over):
    begun = []

    class Handler(AsyncCallbackHandler):
        async def on_chat_model_start(self, serialized, messages, **kwargs):
            await asyncio.sleep(0)
            begun.append(messages[0][-1].content)

    graph = build(pool_over(fake_fleet().urls), task=PROMPT, trace=3)
    items = [{"smiles": "C0"}, {"name": "no smiles"}, {"smiles": "C2"}]
    state = await graph.ainvoke({"molecules": items}, {"callbacks": [Handler()]})
    assert sorted(begun) == ["Is C0 soluble?", "Is C2 soluble?"]
    assert len(state["failures"]) == 1


@pytest.mark.parametrize("is_async", [False, True])
def test_traced_items_are_streamed_as_messages(fake_fleet, pool_over, is_async):
    graph = build(pool_over(fake_fleet().urls), task=PROMPT, trace=2)
    given = {"molecules": molecules(5)}

    async def collect():
        return [part async for part in graph.astream(given, stream_mode="messages")]

    parts = (
        asyncio.run(collect()) if is_async else list(graph.stream(given, stream_mode="messages"))
    )
    texts = sorted(message.text for message, _ in parts if isinstance(message, AIMessage))
    assert len(texts) == 2
    assert all(meta["langgraph_node"] == "screen" for _, meta in parts)


def test_a_chat_model_in_a_task_is_streamed_too(fake_fleet, pool_over):
    model = pool_over(fake_fleet().urls).chat_model()
    graph = build(None, task=model | (lambda message: message.text))
    given = {"molecules": ["Is C0 soluble?", "Is C1 soluble?"]}
    parts = list(graph.stream(given, stream_mode="messages"))
    assert len({message.id for message, _ in parts}) == 2


@pytest.mark.parametrize("is_async", [False, True])
def test_a_trace_ends_with_its_run(fake_fleet, pool_over, is_async):
    fleet = fake_fleet(latency=0.02, faults=(Fault("http_401", contains="C40 "),))
    pool = pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=2)))
    graph = build(pool, task=PROMPT, trace=64)
    config = {"callbacks": [Tree()]}
    with pytest.raises(FanOutError, match="401"):
        run_graph(graph, {"molecules": molecules(64)}, config, is_async=is_async)


def test_what_the_journal_knew_says_so(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet()
    for asked in (True, False):
        tree = Tree()
        graph = build(
            pool_over(fleet.urls), task=PROMPT, trace=1, journal=Journal(tmp_path / "run")
        )
        graph.invoke({"molecules": molecules(2)}, {"callbacks": [tree]})
        ((run, _),) = tree.models()
        message = run.outputs["generations"][0][0]["message"]["kwargs"]
        assert message["response_metadata"]["cached"] is not asked


@pytest.mark.parametrize("is_async", [False, True])
def test_what_an_abort_cut_short_has_an_end_too(fake_fleet, pool_over, is_async):
    ends = []

    class Ends(BaseCallbackHandler):
        def on_chat_model_start(self, serialized, messages, **kwargs):
            ends.append(1)

        def on_llm_error(self, error, **kwargs):
            ends.append(-1)

        def on_llm_end(self, response, **kwargs):
            ends.append(-1)

    fleet = fake_fleet(latency=0.05, faults=(Fault("http_401", contains="C1 "),))
    graph = build(pool_over(fleet.urls), task=PROMPT, trace=3)
    with pytest.raises(FanOutError, match="401"):
        run_graph(graph, {"molecules": molecules(3)}, {"callbacks": [Ends()]}, is_async=is_async)
    assert ends
    assert sum(ends) == 0
