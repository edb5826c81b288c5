"""Stopping: nothing new is sent, what is in flight is dropped, and it is quick."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from graphs import build, molecules, right_answers

from langgraph_hpc_fanout import FanOutError, Limits, OpenAIEndpoint
from langgraph_hpc_fanout.runs.interrupt import INTERRUPTED


@pytest.fixture
def fleet(fake_fleet):
    return fake_fleet(latency=0.3, capacity=1000)


@pytest.fixture
def frozen(fake_fleet):
    """No answer comes in the time of a test, so what ends early was cancelled, however slowly."""
    return fake_fleet(latency=60.0, capacity=1000)


def narrow_over(fleet, pool_over):
    return pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=8)))


@pytest.fixture
def narrow(fleet, pool_over):
    return narrow_over(fleet, pool_over)


def nothing_more_is_sent(fleet):
    record = fleet.wait(lambda record: record.in_flight == 0, timeout=10)
    time.sleep(0.5)
    assert fleet.record().arrived == record.arrived
    return record


@pytest.mark.parametrize("config", [{}, {"max_concurrency": 4}], ids=str)
@pytest.mark.parametrize("size", [1, 64, 500])
async def test_cancelling_ainvoke(frozen, pool_over, size, config):
    graph = build(narrow_over(frozen, pool_over))
    task = asyncio.create_task(graph.ainvoke({"molecules": molecules(size)}, config))
    await frozen.until(lambda record: record.in_flight == min(size, 8))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    record = await asyncio.to_thread(nothing_more_is_sent, frozen)
    assert record.arrived == min(size, 8)
    assert record.closed_early == min(size, 8)


async def test_closing_astream(frozen, pool_over):
    graph = build(narrow_over(frozen, pool_over))
    stream = graph.astream({"molecules": molecules(64)}, stream_mode="custom")
    await anext(stream)
    await frozen.until(lambda record: record.in_flight == 8)
    await stream.aclose()
    record = await asyncio.to_thread(nothing_more_is_sent, frozen)
    assert record.closed_early == 8


async def test_cancelling_one_run_leaves_the_other(fleet, narrow):
    doomed = asyncio.create_task(build(narrow).ainvoke({"molecules": molecules(64)}))
    lucky = asyncio.create_task(build(narrow).ainvoke({"molecules": molecules(20)}))
    await fleet.until(lambda record: record.in_flight == 8)
    doomed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await doomed
    assert right_answers((await lucky)["predictions"], molecules(20))


async def test_a_cancelled_graph_can_be_run_again(fleet, narrow):
    graph = build(narrow)
    task = asyncio.create_task(graph.ainvoke({"molecules": molecules(64)}))
    await fleet.until(lambda record: record.in_flight == 8)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    state = await graph.ainvoke({"molecules": molecules(8)})
    assert right_answers(state["predictions"], molecules(8))


def test_closing_a_pool_ends_its_runs_and_it_opens_again(fake_fleet, pool_over):
    fleet = fake_fleet(latency=3.0, capacity=1000)
    narrow = narrow_over(fleet, pool_over)
    graph = build(narrow)
    thread = threading.Thread(
        target=lambda: (fleet.wait(lambda record: record.in_flight == 8), narrow.close())
    )
    thread.start()
    with pytest.raises(FanOutError, match="The pool was closed"):
        graph.invoke({"molecules": molecules(64)})
    thread.join()
    assert nothing_more_is_sent(fleet).closed_early == 8
    state = graph.invoke({"molecules": molecules(3)})
    assert right_answers(state["predictions"], molecules(3))


def script(body, fleet, *arguments):
    """A program of its own that fans out over the fleet."""
    start = textwrap.dedent(
        """
        import os, signal, sys, threading, time
        sys.path.insert(0, sys.argv[1])
        from graphs import build, molecules, right_answers
        from langgraph_hpc_fanout import FanOutError, Journal, Limits, OpenAIEndpoint, Pool
        pool = Pool(OpenAIEndpoint(sys.argv[2], limits=Limits(concurrency=8)))
        """
    )
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            start + textwrap.dedent(body),
            str(Path(__file__).parent),
            fleet.urls[0],
            *arguments,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


CTRL_C = """
from langgraph.graph import END, START, StateGraph
from graphs import State
graph = build(pool)
outer = StateGraph(State)
outer.add_node("left", lambda state: {})
outer.add_node("graph", graph)
outer.add_edge(START, "left")
outer.add_edge(START, "graph")
outer.add_edge(["left", "graph"], END)
given = {"molecules": molecules(int(sys.argv[3]))}
runs = {
    "invoke": lambda: graph.invoke(given),
    "custom": lambda: list(graph.stream(given, stream_mode="custom")),
    "messages": lambda: list(graph.stream(given, stream_mode=["updates", "messages"])),
    "parallel": lambda: outer.compile().invoke(given),
}
print("ready", flush=True)
try:
    runs[sys.argv[4]]()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize(
    ("size", "how"),
    [
        ("1", "invoke"),
        ("64", "invoke"),
        ("500", "invoke"),
        ("64", "custom"),
        ("64", "messages"),
        ("64", "parallel"),
    ],
)
def test_ctrl_c_in_sync_code(fake_fleet, size, how):
    fleet = fake_fleet(latency=60.0, capacity=1000)
    program = script(CTRL_C, fleet, size, how)
    try:
        fleet.wait(lambda record: record.in_flight == min(int(size), 8), timeout=30)
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=30)  # no answer comes before 60 s
    finally:
        program.kill()
    assert out.splitlines() == ["ready", "interrupted"], err
    assert f"screen ended with 0 of {size} items done: {INTERRUPTED}" in err
    record = nothing_more_is_sent(fleet)
    assert record.arrived == record.closed_early == min(int(size), 8)


RESUME_AFTER_CTRL_C = """
from langgraph.checkpoint.memory import InMemorySaver
graph = build(pool, checkpointer=InMemorySaver(), journal=Journal(sys.argv[3]))
config = {"configurable": {"thread_id": "1"}}
try:
    graph.invoke({"molecules": molecules(64)}, config)
except KeyboardInterrupt:
    state = graph.invoke(None, config)
    print(right_answers(state["predictions"], molecules(64)), flush=True)
"""


def test_ctrl_c_then_resume_in_the_same_process(fake_fleet, tmp_path):
    fleet = fake_fleet(latency=0.2)
    program = script(RESUME_AFTER_CTRL_C, fleet, str(tmp_path / "run"))
    try:
        fleet.wait(lambda record: record.served >= 16, timeout=30)
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=30)
    finally:
        program.kill()
    assert out.strip() == "True", err
    record = fleet.record()
    assert record.served - record.closed_early <= 64 + 8


def test_an_own_handler_of_ctrl_c_that_does_not_raise_decides(fleet, narrow):
    called = []
    before = signal.signal(signal.SIGINT, lambda number, frame: called.append(number))
    try:
        killer = threading.Thread(
            target=lambda: (
                fleet.wait(lambda record: record.in_flight == 8),
                os.kill(os.getpid(), signal.SIGINT),
            )
        )
        killer.start()
        state = build(narrow).invoke({"molecules": molecules(16)})
        killer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert right_answers(state["predictions"], molecules(16))
    assert called == [signal.SIGINT]


def test_from_another_thread_than_the_main_one(fleet, narrow):
    states = []
    thread = threading.Thread(
        target=lambda: states.append(build(narrow).invoke({"molecules": molecules(3)}))
    )
    thread.start()
    thread.join()
    assert right_answers(states[0]["predictions"], molecules(3))


LIFE = {
    "exit_without_closing": "build(pool).invoke({'molecules': molecules(100)}); print('ok')",
    "exit_in_mid_run": """
        threading.Thread(
            target=lambda: build(pool).invoke({"molecules": molecules(64)}), daemon=True
        ).start()
        time.sleep(0.5)
        print("ok")
        """,
    "fork": """
        import gc
        graph = build(pool)
        state = graph.invoke({"molecules": molecules(70)})
        assert right_answers(state["predictions"], molecules(70))
        child = os.fork()
        state = graph.invoke({"molecules": molecules(70)})
        gc.collect()
        if not right_answers(state["predictions"], molecules(70)):
            os._exit(1)
        if child == 0:
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert right_answers(graph.invoke({"molecules": molecules(3)})["predictions"], molecules(3))
        print("ok")
        """,
    "collected_pool": """
        import gc, warnings
        warnings.simplefilter("error")
        build(pool).invoke({"molecules": molecules(3)})
        del pool
        gc.collect()
        time.sleep(0.3)
        print("ok")
        """,
    "sync_on_the_dispatch_thread": """
        from langgraph_hpc_fanout.dispatch.loop import dispatch_loop
        async def nested():
            build(pool).invoke({"molecules": molecules(3)})
        try:
            dispatch_loop().wait_for(nested())
        except RuntimeError as error:
            assert "use ainvoke" in str(error), error
            print("ok")
        """,
}


@pytest.mark.parametrize("name", LIFE)
def test_life_of_a_process(fake_fleet, name):
    fleet = fake_fleet(latency=0.1, capacity=1000)
    program = script(LIFE[name], fleet)
    try:
        out, err = program.communicate(timeout=60)
    finally:
        program.kill()
    assert (program.returncode, out.strip(), err) == (0, "ok", "")


STREAM = """
graph = build(pool)
stream = graph.stream({"molecules": molecules(4)}, stream_mode="custom")
print("ready", flush=True)
try:
    for event in stream:
        if event["in_flight"] == 4:
            if sys.argv[3] == "raise":
                1 / 0
            if sys.argv[3] == "close":
                stream.close()
            break
except ZeroDivisionError:
    pass
stream = None
print("left", flush=True)
"""


@pytest.mark.parametrize("how", ["close", "break", "raise"])
def test_a_stream_that_is_left_early_ends_the_run(fake_fleet, how):
    """Ctrl-C may hit the caller's code between two steps: LangGraph sees its generator close."""
    fleet = fake_fleet(latency=60.0, capacity=1000)
    program = script(STREAM, fleet, how)
    try:
        out, err = program.communicate(timeout=40)  # no answer comes before 60 s
    finally:
        program.kill()
    assert out.splitlines() == ["ready", "left"], err
    assert INTERRUPTED in err
    record = nothing_more_is_sent(fleet)
    assert record.arrived == record.closed_early == 4


def test_another_stream_that_is_left_early_ends_no_run_but_its_own(fake_fleet, pool_over):
    fleet = fake_fleet(latency=0.2)
    pool = pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=8)))
    graph = build(pool)
    done = {}
    thread = threading.Thread(
        target=lambda: done.update(graph.invoke({"molecules": molecules(32)}))
    )
    thread.start()
    fleet.wait(lambda record: record.in_flight == 8)
    stream = graph.stream({"molecules": molecules(64)}, stream_mode="custom")
    next(stream)
    stream.close()
    thread.join(30)
    assert right_answers(done["predictions"], molecules(32))
