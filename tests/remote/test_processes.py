"""Worker processes as Globus Compute's engines make them: threads, forks and spawned ones."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import node_functions
import pytest
from bundles import bundle, texts

from langgraph_hpc_fanout.dispatch.loop import dispatch_loop
from langgraph_hpc_fanout.remote import run
from langgraph_hpc_fanout.remote.standalone import standalone
from langgraph_hpc_fanout.testing.fleet import FakeFleet, echo

WORKS = pytest.mark.parametrize("work", [run, standalone], ids=["run", "standalone"])


# From Python 3.12 on, a fork of a process with threads is warned of.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def fleet():
    """A fleet in a process of its own, whose connections a fork does not inherit."""
    with FakeFleet(latency=0.01, processes=1) as fleet:
        yield fleet


@WORKS
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes(work, method, fleet):
    asked = bundle(fleet.urls, "abcd", window=4)
    expected = [echo(each) for each in "abcd"]
    assert texts(work(asked)) == expected, "warm before the fork"
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as workers:
        results = list(workers.map(work, [asked] * 6))
    assert [texts(result) for result in results] == [expected] * 6
    assert work(asked)["worker"] not in {result["worker"] for result in results}
    assert texts(work(asked)) == expected, "and after it"
    assert set(fleet.record().statuses) == {200}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_functions_in_processes(method, fleet):
    given = {**bundle(fleet.urls), "function": "node_functions:ask_async", "requests": ["a", "b"]}

    def answers(result):
        return [reply["body"]["value"][0] for reply in result["replies"]]

    assert answers(run(given)) == [echo("a"), echo("b")]
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as workers:
        for result in workers.map(run, [given] * 2):
            assert answers(result) == [echo("a"), echo("b")]
    assert answers(run(given)) == [echo("a"), echo("b")]


@WORKS
def test_threads(work, fleet):
    with ThreadPoolExecutor(8) as workers:
        asked = [bundle(fleet.urls, [f"{n}a", f"{n}b"]) for n in range(40)]
        results = list(workers.map(work, asked))
    assert [texts(result) for result in results] == [
        [echo(f"{n}a"), echo(f"{n}b")] for n in range(40)
    ]
    assert fleet.record().probes <= 8


def test_one_loop_for_all_tasks(fleet):
    run(bundle(fleet.urls, ["a"]))
    loop = dispatch_loop().loop
    for _ in range(3):
        run(bundle(fleet.urls, ["a"]))
    assert dispatch_loop().loop is loop
    assert node_functions.__name__ in sys.modules


def test_a_process_that_has_worked_ends_at_once_and_quietly(fleet):
    script = (
        "import sys, json; from langgraph_hpc_fanout.remote import run; "
        "from langgraph_hpc_fanout.remote.standalone import standalone; "
        "given = json.load(sys.stdin); run(given); standalone(given); "
        "print(sorted({'langgraph', 'langchain_core', 'openai'} & set(sys.modules)))"
    )
    import json

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        input=json.dumps(bundle(fleet.urls, "abc")),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "[]\n")
