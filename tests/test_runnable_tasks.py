"""Runnables and functions as tasks: where they run, in which context, what becomes of them."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import aiohttp
import pytest
from graphs import State, build, molecules, right_answers
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import FakeListChatModel
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import ParentCommand
from langgraph.graph import END, START, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from langgraph_hpc_fanout import (
    FanOutError,
    FanOutNode,
    Journal,
    Limits,
    OpenAIEndpoint,
    ReduceNode,
    Results,
    add_fan_out,
)
from langgraph_hpc_fanout.chat_models import PoolChatModel
from langgraph_hpc_fanout.dispatch.loop import dispatch_loop, task_loop
from langgraph_hpc_fanout.runs.registry import registry
from langgraph_hpc_fanout.testing.fleet import Fault, scripted

CONFIG = {"configurable": {"thread_id": "1"}}


@pytest.fixture(autouse=True)
def no_run_is_left():
    before = len(registry)
    yield
    deadline = time.monotonic() + 5
    while len(registry) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(registry) == before


def over(task, *, pool=None, **options):
    return build(pool, task=task, items="molecules", **options)


def numbers(count):
    return {"molecules": list(range(count))}


class TwoSteps(TypedDict, total=False):
    item: int
    first: str
    second: str


def two_steps(first=None, second=None, **options):
    """An agent of two steps; the second remembers what the first said."""
    builder = StateGraph(TwoSteps)
    builder.add_node("one", first or (lambda state: {"first": f"a{state['item']}"}))
    builder.add_node(
        "two", second or (lambda state: {"second": f"b{state['item']}<-{state['first']}"})
    )
    builder.add_edge(START, "one")
    builder.add_edge("one", "two")
    builder.add_edge("two", END)
    return builder.compile(**options)


def agent_items(count):
    return {"molecules": [{"item": number} for number in range(count)]}


def own_answers(state, count):
    return [each["second"] for each in state["predictions"]] == [
        f"b{number}<-a{number}" for number in range(count)
    ]


def double(item):
    return 2 * item


async def adouble(item):
    await asyncio.sleep(0)
    return 2 * item


@pytest.mark.parametrize("size", [0, 1, 64, 300])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    "task", [double, adouble, RunnableLambda(double), RunnableLambda(double, afunc=adouble)]
)
def test_every_item_gets_its_own_answer(task, is_async, size):
    graph = over(task)
    given = numbers(size)
    state = asyncio.run(graph.ainvoke(given)) if is_async else graph.invoke(given)
    assert state["predictions"] == [2 * number for number in range(size)]
    assert state["report"]["ok"] == size


def test_a_chain(fake_fleet, pool_over):
    fleet = fake_fleet()
    chain = (
        ChatPromptTemplate.from_template("Is {smiles} soluble?")
        | pool_over(fleet.urls).chat_model()
        | (lambda message: message.text)
    )
    state = over(chain).invoke({"molecules": molecules(20)})
    assert right_answers(state["predictions"], molecules(20))
    assert state["report"]["tokens"]["completion"] > 0
    assert state["report"]["tokens"]["prompt"] > 0


def test_shared_fields_reach_the_task():
    graph = over(lambda given: f"{given['question']} {given['item']}", shared="question")
    state = graph.invoke({"molecules": ["a", "b"], "question": "Why"})
    assert state["predictions"] == ["Why a", "Why b"]


# -- values and failures -----------------------------------------------------------------------


def boom(item):
    if item % 2:
        raise ValueError(f"no {item}")
    return item


def test_an_exception_is_the_items_failure():
    state = over(boom).invoke(numbers(4))
    assert state["predictions"] == [0, None, 2, None]
    error = state["failures"][0]["error"]
    assert error["kind"] == "permanent"
    said = f"{__name__}.boom failed for item 1: it raised ValueError: no 1 (test_runnable_tasks.py"
    assert error["message"].startswith(said)


@pytest.mark.parametrize("is_async", [False, True])
def test_what_is_no_json_fails_and_says_so(is_async):
    graph = over(lambda item: {"item": {item}})
    state = asyncio.run(graph.ainvoke(numbers(2))) if is_async else graph.invoke(numbers(2))
    assert [each["error"]["kind"] for each in state["failures"]] == ["invalid_output"] * 2
    message = state["failures"][0]["error"]["message"]
    assert "it returned what cannot be kept: set is no JSON data; return dicts" in message


def test_messages_are_kept_as_langchain_writes_them(fake_fleet, pool_over):
    model = pool_over(fake_fleet().urls).chat_model()
    state = over(model).invoke({"molecules": ["Is C0 soluble?"]})
    assert state["predictions"][0]["id"][-1] == "AIMessage"
    assert "Is C0 soluble?" in state["predictions"][0]["kwargs"]["content"]


async def cancelled_within(item):
    raise asyncio.CancelledError


async def exits(item):
    raise SystemExit(3)


def exits_in_a_thread(item):
    raise KeyboardInterrupt


@pytest.mark.parametrize(("task", "name"), [(exits, "SystemExit"), (exits_in_a_thread, "Keyboard")])
def test_a_task_cannot_end_a_loop_of_ours(task, name):
    for _ in range(2):
        state = over(task).invoke(numbers(3))
        assert name in state["failures"][2]["error"]["message"]


async def too_late(item):
    raise TimeoutError("no answer")


@pytest.mark.parametrize(("task", "kind"), [(cancelled_within, "cancelled"), (too_late, "timeout")])
async def test_what_looks_like_our_own_ending(task, kind):
    state = await over(task).ainvoke(numbers(3))
    assert [each["error"]["kind"] for each in state["failures"]] == [kind] * 3


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    "task",
    [
        lambda item: interrupt("really?"),
        two_steps(second=lambda state: {"second": interrupt("really?")}),
    ],
    ids=["function", "graph"],
)
def test_an_interrupt_is_a_failure_that_says_what_to_do(task, is_async):
    graph = over(task, checkpointer=InMemorySaver())
    given = agent_items(2)
    state = asyncio.run(graph.ainvoke(given, CONFIG)) if is_async else graph.invoke(given, CONFIG)
    assert "__interrupt__" not in state
    for failure in state["failures"]:
        assert failure["error"]["kind"] == "permanent"
        assert "interrupt before or after the fan-out" in failure["error"]["message"]


@pytest.mark.parametrize("is_async", [False, True])
def test_what_is_meant_for_langgraph_gets_there(is_async):
    def task(item):
        raise ParentCommand(Command(graph="nowhere", goto="x"))

    graph = over(task)

    def run():
        return asyncio.run(graph.ainvoke(numbers(3))) if is_async else graph.invoke(numbers(3))

    with pytest.raises((ParentCommand, Exception), match="nowhere") as caught:
        run()
    assert not isinstance(caught.value, FanOutError)


def test_the_tasks_deadline():
    async def task(item):
        await asyncio.sleep(60 if item == 1 else 0)
        return item

    state = over(task, item_deadline=1).invoke(numbers(3))
    assert state["predictions"] == [0, None, 2]
    error = state["failures"][0]["error"]
    assert error["kind"] == "timeout"
    assert "it took more than 1 s" in error["message"]


def test_the_runs_deadline():
    async def task(item):
        await asyncio.sleep(60 if item else 0)
        return item

    state = over(task, deadline=1).invoke(numbers(200))
    assert state["predictions"][0] == 0
    assert state["report"]["failures"] == {"timeout": 199}


# -- where it runs -----------------------------------------------------------------------------


async def test_it_runs_on_the_callers_loop():
    """Locks and sessions belong to a loop: those of the host may be used."""
    lock = asyncio.Lock()
    async with aiohttp.ClientSession() as session:

        async def task(item):
            assert asyncio.get_running_loop() is loop
            async with lock:
                assert not session.closed
                return item

        loop = asyncio.get_running_loop()
        state = await over(task, task_concurrency=8).ainvoke(numbers(100))
    assert state["predictions"] == list(range(100))


async def test_a_session_of_the_callers_loop_asks(fake_fleet):
    fleet = fake_fleet()
    async with aiohttp.ClientSession() as session:

        async def task(item):
            async with session.get(f"{fleet.urls[0]}/models") as response:
                return response.status

        state = await over(task).ainvoke(numbers(20))
    assert state["predictions"] == [200] * 20


def test_coroutine_functions_in_sync_code_have_one_loop_of_their_own():
    async def task(item):
        return [id(asyncio.get_running_loop()), threading.current_thread().name]

    for _ in range(2):
        state = over(task).invoke(numbers(5))
        assert state["predictions"] == [[id(task_loop().loop), "hpc-fanout-tasks"]] * 5
    assert task_loop().loop is not dispatch_loop().loop


@pytest.mark.parametrize("is_async", [False, True])
def test_plain_functions_have_threads_and_may_block(is_async):
    barrier = threading.Barrier(40)

    def task(item):
        barrier.wait(20)  # passes only when 40 of them are under way at once
        return threading.current_thread().name

    graph = over(task)
    state = asyncio.run(graph.ainvoke(numbers(40))) if is_async else graph.invoke(numbers(40))
    assert all(name.startswith("screen-task") for name in state["predictions"])


async def test_a_function_that_blocks_leaves_the_callers_loop_free():
    release = threading.Event()
    running = asyncio.create_task(over(lambda _: release.wait(20)).ainvoke(numbers(3)))
    await asyncio.sleep(0.1)  # turns come round although all three block
    release.set()
    assert (await running)["predictions"] == [True] * 3


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("is_plain", [False, True])
def test_no_more_than_task_concurrency_run_at_once(is_async, is_plain):
    lock, now, most = threading.Lock(), 0, 0

    def enter(step):
        nonlocal now, most
        with lock:
            now += step
            most = max(most, now)

    def plain(item):
        enter(1)
        while most < 5:  # ends only when so many are under way at once
            time.sleep(0.001)
        enter(-1)

    async def coroutine(item):
        enter(1)
        while most < 5:
            await asyncio.sleep(0.001)
        enter(-1)

    graph = over(plain if is_plain else coroutine, task_concurrency=5)
    state = asyncio.run(graph.ainvoke(numbers(100))) if is_async else graph.invoke(numbers(100))
    assert state["report"]["ok"] == 100
    assert most == 5


# -- contexts ----------------------------------------------------------------------------------

HOSTS = contextvars.ContextVar("HOSTS", default="default")


async def test_each_call_has_a_context_of_its_own():
    seen = []

    async def task(item):
        seen.append(HOSTS.get())
        HOSTS.set(item)
        await asyncio.sleep(0)
        return HOSTS.get()

    HOSTS.set("host")
    state = await over(task, task_concurrency=2).ainvoke(numbers(10))
    assert state["predictions"] == list(range(10))
    assert set(seen) == {"default"}
    assert HOSTS.get() == "host"


@pytest.mark.parametrize("is_async", [False, True])
def test_only_the_public_part_of_the_config_gets_through(is_async):
    def task(item, config: RunnableConfig):
        configurable = config["configurable"]
        return {
            "keys": sorted(configurable),
            "mine": configurable["mine"],
            "tags": config["tags"],
            "team": config["metadata"]["team"],
            "node": config["metadata"]["langgraph_node"],
        }

    config = {
        "configurable": {"thread_id": "1", "mine": 7},
        "tags": ["tagged"],
        "metadata": {"team": "chemistry"},
    }
    graph = over(task, checkpointer=InMemorySaver())
    given = numbers(1)
    state = asyncio.run(graph.ainvoke(given, config)) if is_async else graph.invoke(given, config)
    (seen,) = state["predictions"]
    assert seen == {
        "keys": ["mine"],
        "mine": 7,
        "tags": seen["tags"],
        "team": "chemistry",
        "node": "screen",
    }
    assert "tagged" in seen["tags"]


class Names(BaseCallbackHandler):
    """Notes which model calls it saw."""

    def __init__(self):
        self.seen = []

    def on_chat_model_start(self, serialized, messages, **kwargs):
        self.seen.append(messages[0][0].content)


@pytest.mark.parametrize("is_async", [False, True])
def test_two_runs_at_once_see_only_their_own_callbacks(fake_fleet, pool_over, is_async):
    pool = pool_over(fake_fleet(latency=0.005).urls)
    model = pool.chat_model()

    async def ask(item, config: RunnableConfig):
        return (await model.ainvoke(item)).text  # found through the context that config made

    one, other = Names(), Names()
    runs = [
        ({"molecules": [f"{name}{n}" for n in range(70)]}, handler)
        for name, handler in (("a", one), ("b", other))
    ]
    if is_async:

        async def both():
            await asyncio.gather(
                *(over(ask).ainvoke(given, {"callbacks": [handler]}) for given, handler in runs)
            )

        asyncio.run(both())
    else:
        threads = [
            threading.Thread(target=over(ask).invoke, args=(given, {"callbacks": [handler]}))
            for given, handler in runs
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for given, handler in runs:
        assert sorted(handler.seen) == sorted(given["molecules"])


# -- agents and checkpoints --------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("size", [8, 100])
def test_a_graph_as_task_under_a_checkpointer_resumes_with_the_right_answers(is_async, size):
    broken = True

    def second(state):
        if broken and state["item"] == size - 1:
            raise RuntimeError("out of order")
        return {"second": f"b{state['item']}<-{state['first']}"}

    graph = over(two_steps(second=second), checkpointer=InMemorySaver(), task_concurrency=4)

    def run(given):
        if is_async:
            return asyncio.run(graph.ainvoke(given, CONFIG))
        return graph.invoke(given, CONFIG)

    state = run(agent_items(size))
    assert len(state["failures"]) == 1
    broken = False
    assert own_answers(run(agent_items(size)), size)


@pytest.mark.parametrize("is_async", [False, True])
def test_an_abort_in_a_task_ends_the_run_and_a_resume_goes_on(
    fake_fleet, pool_over, tmp_path, is_async
):
    fleet = fake_fleet(faults=(Fault("http_401", contains="C30 ", times=1),), latency=0.002)
    pool = pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=2)))
    chain = (
        ChatPromptTemplate.from_template("Is {smiles} soluble?")
        | pool.chat_model()
        | (lambda message: message.text)
    )
    graph = over(
        chain,
        checkpointer=InMemorySaver(),
        journal=Journal(tmp_path / "run"),
        version="1",
        task_concurrency=4,
    )

    def run(given):
        if is_async:
            return asyncio.run(graph.ainvoke(given, CONFIG))
        return graph.invoke(given, CONFIG)

    with pytest.raises(FanOutError, match="answered 401"):
        run({"molecules": molecules(64)})
    first = fleet.record().statuses[200]
    assert 0 < first < 64
    state = run(None)
    assert right_answers(state["predictions"], molecules(64))
    # Threads cannot be stopped: what they were at when the run ended is asked once more.
    assert fleet.record().statuses[200] <= 64 + 2 * 4, "answered calls are not made again"


def test_a_journal_knows_tasks_by_name_and_version(tmp_path):
    calls = []

    def task(item):
        calls.append(item)
        return 2 * item

    def run(**options):
        return over(task, journal=Journal(tmp_path / "run"), **options).invoke(numbers(3))

    for version in ("1", "1", "2"):
        assert run(version=version)["predictions"] == [0, 2, 4]
    assert len(calls) == 6
    assert run(key=lambda item: f"n{item}")["predictions"] == [0, 2, 4]
    assert len(calls) == 9


@pytest.mark.parametrize("task", [lambda item: item, RunnableLambda(double) | double, two_steps()])
def test_a_journal_needs_a_name_to_know_answers_by(tmp_path, task):
    with pytest.raises(ValueError, match=r'give FanOutNode a version="1"'):
        FanOutNode("molecules", task, journal=Journal(tmp_path))
    FanOutNode("molecules", task, journal=Journal(tmp_path), version="1")
    FanOutNode("molecules", task, journal=Journal(tmp_path), key="smiles")
    FanOutNode("molecules", task)


# -- tasks that ask ----------------------------------------------------------------------------


def weather(city: str) -> str:
    """The weather in a city."""
    return f"It rains in {city}."


def tool_agent(model):
    """An agent of two calls: one that asks for a tool, one that reads what the tool said."""
    from langchain_core.messages import HumanMessage
    from langgraph.graph import MessagesState

    bound = model.bind_tools([weather])

    def call(state):
        return {"messages": [bound.invoke(state["messages"])]}

    async def acall(state):
        return {"messages": [await bound.ainvoke(state["messages"])]}

    def tools_or_end(state):
        return "tools" if state["messages"][-1].tool_calls else END

    builder = StateGraph(MessagesState)
    builder.add_node("model", RunnableLambda(call, afunc=acall))
    builder.add_node("tools", ToolNode([weather]))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_or_end, ["tools", END])
    builder.add_edge("tools", "model")
    agent = builder.compile()
    return (
        RunnableLambda(lambda city: {"messages": [HumanMessage(f"The weather in '{city}'?")]})
        | agent
        | (lambda state: state["messages"][-1].text)
    )


async def test_200_agents_of_two_calls_on_a_pool_of_one_slot(fake_fleet, pool_over):
    """Agents hold no slot while they wait for their own calls: nothing deadlocks."""
    fleet = fake_fleet(answer=scripted, latency=0.001)
    pool = pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=1)))
    cities = [f"city{number}" for number in range(200)]
    model = pool.chat_model()
    assert isinstance(model, PoolChatModel)
    state = await over(tool_agent(model)).ainvoke({"molecules": cities})
    assert all(
        f"It rains in {city}." in answer
        for city, answer in zip(cities, state["predictions"], strict=True)
    )
    record = fleet.record()
    assert record.served == 400
    assert record.endpoints[0].peak_in_flight == 1
    assert state["report"]["tokens"]["completion"] > 0


@pytest.mark.parametrize("is_async", [False, True])
def test_a_task_that_fans_out_itself(fake_fleet, pool_over, is_async):
    inner = build(pool_over(fake_fleet().urls))

    async def atask(item):
        return (await inner.ainvoke({"molecules": molecules(item)}))["predictions"]

    def task(item):
        return inner.invoke({"molecules": molecules(item)})["predictions"]

    if is_async:
        state = asyncio.run(over(atask).ainvoke(numbers(9)))
    else:
        state = over(task).invoke(numbers(9))
    for size, predictions in enumerate(state["predictions"]):
        assert right_answers(predictions, molecules(size))


def test_a_coroutine_that_fans_out_in_sync_code(fake_fleet, pool_over):
    inner = build(pool_over(fake_fleet().urls))

    async def task(item):
        return (await inner.ainvoke({"molecules": molecules(item)}))["predictions"]

    async def waits(item):
        return inner.invoke({"molecules": molecules(item)})["predictions"]

    state = over(task).invoke(numbers(5))
    assert right_answers(state["predictions"][4], molecules(4))
    state = over(waits).invoke(numbers(2))
    assert "use ainvoke there" in state["failures"][0]["error"]["message"]


async def test_sync_code_on_the_dispatch_thread_raises_at_once(fake_fleet, pool_over):
    pool = pool_over(fake_fleet().urls)

    async def on_the_loop(function, *arguments):
        return function(*arguments)

    for graph in (build(pool), over(double)):
        waiting = dispatch_loop().submit(on_the_loop(graph.invoke, {"molecules": [{"smiles": 1}]}))
        with pytest.raises(RuntimeError, match="use ainvoke there"):
            await asyncio.wrap_future(waiting)
    waiting = dispatch_loop().submit(on_the_loop(pool.chat_model().invoke, "hello"))
    with pytest.raises(RuntimeError, match="use ainvoke there"):
        await asyncio.wrap_future(waiting)


# -- endings -----------------------------------------------------------------------------------


async def test_a_cancelled_graph_cancels_its_calls():
    begun, cancelled = 0, 0
    started = asyncio.Event()

    async def task(item):
        nonlocal begun, cancelled
        begun += 1
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled += 1
            raise

    running = asyncio.create_task(over(task, task_concurrency=4).ainvoke(numbers(100)))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    for _ in range(100):
        if cancelled == begun:
            break
        await asyncio.sleep(0.01)
    assert 1 <= begun == cancelled <= 4


def test_threads_do_not_outlive_the_run():
    over(double).invoke(numbers(100))
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        left = [each.name for each in threading.enumerate() if "screen-task" in each.name]
        if not left:
            break
        time.sleep(0.01)
    assert left == []


async def test_two_fan_outs_of_functions_in_one_graph():
    first = FanOutNode("molecules", double, name="first")
    second = FanOutNode("predictions", adouble, name="second")
    builder = StateGraph(State)
    add_fan_out(
        builder, first, ReduceNode(first, "predictions"), after=START, before="second_start"
    )
    builder.add_node("second_start", lambda state: {})
    add_fan_out(builder, second, ReduceNode(second, "failures"), after="second_start", before=END)
    state = await builder.compile().ainvoke(numbers(70))
    assert state["failures"] == [4 * number for number in range(70)]


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task_concurrency": 0}, "must be at least 1"),
        ({"trace": -1}, "must not be negative"),
        ({"trace": 1}, "a Runnable is traced anyway"),
        ({"retry": "Retry(attempts=2)"}, r"use RunnableLambda\(function\)\.with_retry\(\)"),
    ],
)
def test_settings_without_a_meaning(options, message):
    from langgraph_hpc_fanout import Retry

    if "retry" in options:
        options = {"retry": Retry(attempts=2)}
    with pytest.raises(ValueError, match=message):
        FanOutNode("molecules", double, **options)


@pytest.mark.parametrize("options", [{"task_concurrency": 2}, {"version": "1"}])
def test_settings_without_a_meaning_for_a_prompt(fake_fleet, pool_over, options):
    with pytest.raises(ValueError, match="is for Runnables and functions"):
        build(pool_over("http://127.0.0.1:9/v1"), **options)


def test_a_chat_model_that_is_not_ours_works_as_well():
    model = FakeListChatModel(responses=["yes"])
    state = over(model | (lambda message: message.text)).invoke({"molecules": ["a", "b"]})
    assert state["predictions"] == ["yes", "yes"]


def test_the_drawing_names_the_task():
    node = FanOutNode("molecules", double, task_concurrency=3)
    assert node.metadata() == {
        "kind": "fan-out",
        "task": f"{__name__}.double",
        "task_concurrency": 3,
    }


def test_the_first_traceback_can_be_had(caplog):
    with caplog.at_level(logging.DEBUG, "langgraph_hpc_fanout"):
        over(boom).invoke(numbers(2))
    assert any(record.exc_info for record in caplog.records)


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from graphs import build
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph_hpc_fanout import Journal, Limits, OpenAIEndpoint, Pool
from test_runnable_tasks import tool_agent

pool = Pool(OpenAIEndpoint(sys.argv[2], limits=Limits(concurrency=4)))
with SqliteSaver.from_conn_string(sys.argv[3] + "/state.db") as saver:
    graph = build(
        None,
        task=tool_agent(pool.chat_model()).with_config(run_name="weather agent"),
        checkpointer=saver,
        journal=Journal(sys.argv[3] + "/run"),
        task_concurrency=8,
    )
    config = {"configurable": {"thread_id": "1"}}
    begun = saver.get_tuple(config) is not None
    state = graph.invoke(None if begun else {"molecules": [f"city{n}" for n in range(100)]}, config)
print(begun, all(f"in city{n}." in said for n, said in enumerate(state["predictions"])))
print(state["failures"], file=sys.stderr)
"""


def is_written(segment):
    return b'"kind":"value"' in segment.read_bytes()


def test_an_agent_that_is_killed_goes_on_with_the_right_answers(fake_fleet, tmp_path):
    fleet = fake_fleet(answer=scripted, latency=0.02)
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), fleet.urls[0]]
    with subprocess.Popen([*command, str(tmp_path)], stderr=subprocess.DEVNULL) as program:
        segments = tmp_path / "run" / "segments"
        deadline = time.monotonic() + 60
        while not any(map(is_written, segments.glob("*"))) and time.monotonic() < deadline:
            time.sleep(0.02)
        program.kill()
    assert program.returncode == -signal.SIGKILL
    kept = len(list(Results.of(tmp_path / "run")))
    assert 0 < kept < 100
    fleet.reset_record()
    again = subprocess.run(
        [*command, str(tmp_path)], capture_output=True, text=True, timeout=100, check=False
    )
    assert again.stdout.split() == ["True", "True"], again.stderr
    assert fleet.record().served <= 2 * (100 - kept), "what was kept is not asked again"


# -- tasks that misbehave ----------------------------------------------------------------------


class Panic(BaseException):
    """As extension modules raise, below Exception."""


def stops(item):
    return next(iter([]))


def panics(item):
    raise Panic("out of memory")


async def apanics(item):
    raise Panic("out of memory")


async def cancels_itself(item):
    asyncio.current_task().cancel()
    await asyncio.sleep(0)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("task", "said"),
    [
        (stops, "StopIteration"),
        (panics, "Panic: out of memory"),
        (apanics, "Panic: out of memory"),
        (cancels_itself, "cancelled from within"),
    ],
)
def test_whatever_a_task_does_its_item_ends(task, said, is_async):
    graph = over(task)
    state = asyncio.run(graph.ainvoke(numbers(3))) if is_async else graph.invoke(numbers(3))
    assert len(state["failures"]) == 3
    assert said in state["failures"][2]["error"]["message"]


def test_a_deadline_begins_with_the_call():
    release = threading.Event()

    def task(item):
        if item == 0:
            release.wait(20)
        return item

    state = over(task, task_concurrency=1, item_deadline=1.5).invoke(numbers(5))
    release.set()
    assert state["predictions"] == [None, 1, 2, 3, 4]


async def test_a_coroutine_that_was_not_awaited_says_what_to_do():
    def task(item):
        return adouble(item)

    state = await over(task).ainvoke(numbers(2))
    assert "make the task an async function" in state["failures"][0]["error"]["message"]


def test_what_was_answered_before_a_bubble_is_kept(tmp_path):
    asked = []

    def task(item):
        asked.append(item)
        if item == 9 and len(asked) <= 10:
            raise ParentCommand(Command(graph="nowhere", goto="x"))
        return item

    def run():
        journal = Journal(tmp_path / "run")
        graph = over(task, journal=journal, version="1", task_concurrency=1)
        return graph.invoke(numbers(20))

    with pytest.raises(Exception, match="nowhere"):
        run()
    assert run()["predictions"] == list(range(20))
    assert len(asked) < 20 + 9, "some were found in the journal"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_branch_that_raises_ends_the_run(fake_fleet, pool_over, is_async):
    class Broken(BaseCallbackHandler):
        raise_error = True

        def on_llm_end(self, response, **kwargs):
            raise RuntimeError("a broken handler")

    fleet = fake_fleet(latency=0.05)
    pool = pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=1)))
    graph = build(pool, trace=1)
    given, config = {"molecules": molecules(60)}, {"callbacks": [Broken()]}

    def run():
        if is_async:
            return asyncio.run(graph.ainvoke(given, config))
        return graph.invoke(given, config)

    with pytest.raises(RuntimeError, match="a broken handler"):
        run()
    record = fleet.wait(lambda record: record.in_flight == 0)
    time.sleep(0.3)
    assert fleet.record().arrived == record.arrived < 60


def test_threads_that_were_given_up_ask_for_nothing_more(fake_fleet, pool_over):
    fleet = fake_fleet(latency=0.3)
    model = pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=2))).chat_model()
    ended = []

    def task(item):
        try:
            for number in range(10):
                model.invoke(f"{item}/{number}")
        except Exception as error:
            ended.append(error)
            raise

    state = over(task, deadline=0.5).invoke(numbers(4))
    assert state["report"]["failures"] == {"timeout": 4}
    deadline = time.monotonic() + 10
    while len(ended) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert {error.failure.kind for error in ended} == {"cancelled"}
    assert fleet.record().arrived < 4 * 10 / 2


@pytest.mark.parametrize("name", ["checkpoint_path", "run_identifier", "thread_idle", "mine"])
def test_the_users_own_keys_get_through(name):
    state = over(lambda item, config: config["configurable"][name]).invoke(
        numbers(1), {"configurable": {name: 7}}
    )
    assert state["predictions"] == [7]


class Asker:
    def __init__(self, name):
        self.name = name

    def ask(self, item):
        return f"{self.name}: {item}"


@pytest.mark.parametrize(
    "make", [lambda name: Asker(name).ask, lambda name: RunnableLambda(Asker(name).ask)]
)
def test_a_journal_does_not_take_one_objects_method_for_anothers(tmp_path, make):
    with pytest.raises(ValueError, match="give FanOutNode a version"):
        over(make("a"), journal=Journal(tmp_path / "run"))


def test_a_journal_wants_items_that_can_be_known_again(tmp_path):
    items = {"molecules": [{"x": {1, 2}}, {"x": 1}]}
    state = over(Asker("a").ask, journal=Journal(tmp_path / "run"), version="1").invoke(items)
    assert state["predictions"][1] == "a: {'x': 1}"
    message = state["failures"][0]["error"]["message"]
    assert "no key by which a journal would know it again" in message
    assert "give FanOutNode a key=" in message
    assert over(Asker("a").ask).invoke(items)["report"]["ok"] == 2


async def test_keys_are_not_made_on_the_callers_loop_after_a_restart(tmp_path):
    saver = InMemorySaver()
    threads = []

    def key(item):
        threads.append(threading.current_thread())
        return str(item)

    broken = True

    def task(item):
        if broken and item == 5:
            raise ParentCommand(Command(graph="nowhere", goto="x"))
        return item

    graph = over(task, key=key, checkpointer=saver, journal=Journal(tmp_path / "run"))
    with pytest.raises(Exception, match="nowhere"):
        await graph.ainvoke(numbers(10), CONFIG)
    broken = False
    state = await graph.ainvoke(None, CONFIG)
    assert state["predictions"] == list(range(10))
    assert threading.main_thread() not in threads


def test_a_graph_that_would_be_asked_nothing_is_refused():
    agent = two_steps()
    with pytest.raises(FanOutError, match=r"takes item, first, second, and the items \(doi\) have"):
        over(agent).invoke({"molecules": [{"doi": "10/1"}]})


def test_failures_are_told_at_the_end(caplog):
    over(boom).invoke(numbers(5))
    (line,) = [line for line in caplog.messages if "failed" in line]
    assert line.startswith("screen: 2 of 5 failed, permanent: ")
    assert "it raised ValueError: no 1 (test_runnable_tasks.py, line" in line
