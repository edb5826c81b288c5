"""Runs whose branches bring their own shards, as after a restart, and how runs end."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from graphs import PROMPT, build, molecules, right_answers
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import interrupt

from langgraph_hpc_fanout import (
    FanOutError,
    FanOutNode,
    Journal,
    Limits,
    OpenAIEndpoint,
    Prompt,
    Results,
    reducers,
)
from langgraph_hpc_fanout.runs import keeper
from langgraph_hpc_fanout.runs.registry import registry
from langgraph_hpc_fanout.testing.fleet import Fault

CONFIG = {"configurable": {"thread_id": "1"}}


@pytest.fixture
def restarted(monkeypatch):
    """As if the process were new: no run is registered, so branches bring their own shards."""
    monkeypatch.setattr(registry, "register", lambda run: None)


@pytest.fixture(autouse=True)
def no_run_is_left():
    before = len(registry)
    yield
    deadline = time.monotonic() + 5
    while len(registry) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(registry) == before


def narrow(fleet, pool_over, concurrency=4):
    return pool_over(OpenAIEndpoint(fleet.urls[0], limits=Limits(concurrency=concurrency)))


@pytest.mark.parametrize("size", [1, 64, 300])
def test_every_item_gets_its_own_answer(fake_fleet, pool_over, restarted, size):
    fleet = fake_fleet(latency=0.002)
    graph = build(pool_over(fleet.urls))
    state = graph.invoke({"molecules": molecules(size)})
    assert right_answers(state["predictions"], molecules(size))
    state = asyncio.run(graph.ainvoke({"molecules": molecules(size)}))
    assert right_answers(state["predictions"], molecules(size))
    assert fleet.record().served == 2 * size


def test_no_items(fake_fleet, pool_over, restarted):
    assert build(pool_over(fake_fleet().urls)).invoke({"molecules": []})["predictions"] == []


@pytest.mark.parametrize("config", [{}, {"max_concurrency": 4}], ids=str)
@pytest.mark.parametrize("is_async", [False, True])
def test_an_abort_is_one_abort(fake_fleet, pool_over, config, is_async):
    fleet = fake_fleet(latency=0.02, faults=(Fault("http_401", contains="C20 "),))
    graph = build(narrow(fleet, pool_over))
    given = {"molecules": molecules(64)}

    def run():
        if is_async:
            return asyncio.run(graph.ainvoke(given, config))
        return graph.invoke(given, config)

    with pytest.raises(FanOutError, match="answered 401") as caught:
        run()
    assert len(caught.value.__notes__) == 1, "what LangGraph says of other branches is left out"
    record = fleet.record()
    assert record.served < 64, "the run ended with the refusal"
    assert record.probes == 1
    prompts = [row.prompt for row in record.requests]
    assert len(prompts) == len(set(prompts)), "nothing was asked twice"


def test_a_deadline_after_a_restart(fake_fleet, pool_over, restarted):
    fleet = fake_fleet(faults=(Fault("hang"),))
    graph = build(narrow(fleet, pool_over), deadline=0.3)
    state = graph.invoke({"molecules": molecules(64)})
    assert state["report"]["failures"] == {"timeout": 64}


CTRL_C = """
import sys
sys.path.insert(0, sys.argv[1])
from graphs import build, molecules
from langgraph_hpc_fanout import Limits, OpenAIEndpoint, Pool
from langgraph_hpc_fanout.runs.registry import registry
registry.register = lambda run: None
pool = Pool(OpenAIEndpoint(sys.argv[2], limits=Limits(concurrency=8)))
try:
    build(pool).invoke({"molecules": molecules(64)})
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_after_a_restart(fake_fleet):
    fleet = fake_fleet(latency=60.0)
    command = [sys.executable, "-c", textwrap.dedent(CTRL_C), str(Path(__file__).parent)]
    with subprocess.Popen(
        [*command, fleet.urls[0]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        fleet.wait(lambda record: record.in_flight > 0, timeout=30)
        program.send_signal(2)
        out, err = program.communicate(timeout=30)  # no answer comes before 60 s
    assert out == "interrupted\n", err
    assert fleet.record().arrived <= 8


@pytest.mark.parametrize("first", ["inline", "journal"])
def test_receipts_of_both_kinds(fake_fleet, pool_over, tmp_path, monkeypatch, first):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fleet = fake_fleet(faults=(Fault("http_401", contains="C40 ", times=1),))
    graph = build(narrow(fleet, pool_over), checkpointer=InMemorySaver())
    bounds = {"inline": (10**9, 1), "journal": (1, 10**9)}[first]
    monkeypatch.setattr(keeper, "INLINE_BYTES", bounds[0])
    with pytest.raises(FanOutError):
        graph.invoke({"molecules": molecules(64)}, CONFIG)
    monkeypatch.setattr(keeper, "INLINE_BYTES", bounds[1])
    state = graph.invoke(None, CONFIG)
    assert right_answers(state["predictions"], molecules(64))
    assert state["report"]["total"] == 64


def test_a_journal_that_was_deleted_shifts_no_answer(fake_fleet, pool_over, tmp_path):
    directory = tmp_path / "run"

    def look(results):
        shutil.rmtree(directory / "segments")
        return list(results)

    graph = build(
        pool_over(fake_fleet().urls), journal=Journal(directory), reduce={"reducer": look}
    )
    with pytest.raises(FanOutError, match=r"or gone\. Run the graph again|deleted or damaged"):
        graph.invoke({"molecules": molecules(6)})


def test_a_damaged_line_shifts_no_answer(fake_fleet, pool_over, tmp_path):
    journal = Journal(tmp_path / "run")
    graph = build(
        pool_over(fake_fleet().urls), journal=journal, reduce={"reducer": reducers.reference}
    )
    reference = graph.invoke({"molecules": molecules(6)})["predictions"]
    (segment,) = (tmp_path / "run" / "segments").iterdir()
    segment.write_bytes(segment.read_bytes().replace(b"C3 soluble", b"C9 soluble"))
    program = """
    import sys
    from langgraph_hpc_fanout import Results
    try:
        list(Results.open(eval(sys.argv[1])))
    except Exception as error:
        print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), repr(reference)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "has 5 of the 6 outcomes that run" in done.stdout
    state = graph.invoke({"molecules": molecules(6)})
    assert state["report"]["total"] == 6


def test_an_interrupt_in_a_reducer_is_an_interrupt(fake_fleet, pool_over):
    def approve(results):
        return [interrupt("approve?")]

    graph = build(
        pool_over(fake_fleet().urls), reduce={"reducer": approve}, checkpointer=InMemorySaver()
    )
    state = graph.invoke({"molecules": molecules(2)}, CONFIG)
    assert state["__interrupt__"][0].value == "approve?"


def test_a_truncated_answer_that_was_accepted_is_asked_anew_where_it_is_not(
    fake_fleet, pool_over, tmp_path
):
    fleet = fake_fleet()
    pool, journal = pool_over(fleet.urls), Journal(tmp_path / "run")
    for allowed, expected in ((True, True), (False, False), (True, True)):
        task = Prompt("Is {smiles} soluble?", max_tokens=2, allow_truncated=allowed)
        state = build(pool, journal=journal, task=task).invoke({"molecules": molecules(1)})
        assert (state["predictions"][0] is not None) is expected
    assert fleet.record().served == 2


@pytest.mark.parametrize("how", ["cancelled", "done", "failed", "empty"])
async def test_no_run_is_left_however_it_ends(fake_fleet, pool_over, tmp_path, how):
    fleet = fake_fleet(latency=0.05, api_key="key" if how == "failed" else None)
    graph = build(pool_over(fleet.urls), journal=Journal(tmp_path / "run"))
    for _ in range(5):
        size = 0 if how == "empty" else 70
        task = asyncio.create_task(graph.ainvoke({"molecules": molecules(size)}))
        if how == "cancelled":
            await asyncio.to_thread(fleet.wait, lambda record: record.in_flight > 0)
            task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize("wait", [0.0, 0.02, 0.2])
async def test_no_run_is_left_that_is_cancelled_while_items_are_looked_for(
    fake_fleet, pool_over, restarted, monkeypatch, wait
):
    shard_again = FanOutNode._shard_again

    def slowly(*given):
        time.sleep(0.1)
        return shard_again(*given)

    monkeypatch.setattr(FanOutNode, "_shard_again", slowly)
    graph = build(pool_over(fake_fleet(latency=1.0).urls))
    before = len(registry)
    task = asyncio.create_task(graph.ainvoke({"molecules": molecules(70)}))
    await asyncio.sleep(wait)
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0.5)
    assert len(registry) == before


def test_a_fork_in_mid_run(fake_fleet, tmp_path):
    fleet = fake_fleet(latency=0.1)
    program = """
    import os, sys, threading, time, gc
    sys.path.insert(0, sys.argv[1])
    from graphs import build, molecules, right_answers
    from langgraph_hpc_fanout import Journal, Limits, OpenAIEndpoint, Pool
    pool = Pool(OpenAIEndpoint(sys.argv[2], limits=Limits(concurrency=8)))
    before = gc.get_threshold()
    graph = build(pool, journal=Journal(sys.argv[3]))
    states = []
    thread = threading.Thread(
        target=lambda: states.append(graph.invoke({"molecules": molecules(64)}))
    )
    thread.start()
    time.sleep(0.4)
    child = os.fork()
    if child == 0:
        assert gc.get_threshold() == before
        state = build(pool).invoke({"molecules": molecules(20)})
        os._exit(0 if right_answers(state["predictions"], molecules(20)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    thread.join()
    print(right_answers(states[0]["predictions"], molecules(64)))
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)]
    done = subprocess.run(
        [*command, str(Path(__file__).parent), fleet.urls[0], str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ,
    )
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
    assert len(list(Results.of(tmp_path / "run"))) == 64, "the child wrote nothing"


def test_a_run_that_looks_at_known_items_only_now_and_then_yields(fake_fleet, pool_over, tmp_path):
    fleet = fake_fleet()
    pool, journal = pool_over(fleet.urls), Journal(tmp_path / "run")
    items = molecules(2000)
    build(pool, journal=journal, task=PROMPT).invoke({"molecules": items})
    state = build(pool, journal=journal).invoke({"molecules": [*molecules(2001)[2000:], *items]})
    assert state["report"]["cached"] == 2000
    assert fleet.record().served == 2001
