"""The Globus Compute stack starts or says why not, and leaves nothing behind."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from globus_compute_sdk import Executor
from globus_tasks import FOLDER, PATIENCE, eventually, start_sleeper

from langgraph_hpc_fanout.testing.globus import GlobusStack
from langgraph_hpc_fanout.testing.globus.__main__ import main
from langgraph_hpc_fanout.testing.globus.broker import RabbitMQMissingError
from langgraph_hpc_fanout.testing.globus.processes import Process, descendants, processes

OPTIONS = {"env": {"PYTHONPATH": FOLDER}}


def whole(pid: int) -> list[Process]:
    (head,) = [process for process in processes() if process.pid == pid]
    return [head, *descendants(pid)]


def listening(everybody: list[Process]) -> list[tuple[str, int]]:
    return [
        connection.laddr
        for process in everybody
        for connection in psutil.Process(process.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]


def left(everybody: list[Process]) -> list[Process]:
    """Those of them that still live, though not another that got the number since."""
    known = {(process.pid, process.started) for process in everybody}
    return [process for process in processes() if (process.pid, process.started) in known]


def test_nothing_is_left_after_a_stop():
    with GlobusStack("processes", 1, **OPTIONS) as stack:
        with Executor(stack.endpoint_id, client=stack.client()) as executor:
            sleeper = executor.submit(start_sleeper).result(PATIENCE)
        everybody = whole(stack.pid)
        assert sleeper in {process.pid for process in everybody}
        assert any("beam" in process.command for process in everybody)
        assert not any("epmd" in process.command.split()[0] for process in everybody[1:])
        ports = listening(everybody)
        assert {address for address, _ in ports} == {"127.0.0.1"}
        folder = stack.logs()["host.log"].parent
    assert left(everybody) == []
    assert not folder.exists()
    for address in ports:
        with pytest.raises(ConnectionRefusedError), socket.create_connection(address, 5):
            pass


_DOOMED = """
from langgraph_hpc_fanout.testing.globus import GlobusStack
stack = GlobusStack("threads", 1).start()
print(stack.pid, stack.logs()["host.log"].parent, flush=True)
input()
"""


@pytest.mark.parametrize("host_too", [False, True], ids=["its process", "and its host"])
def test_everything_ends_with_the_process_that_started_it(host_too):
    with subprocess.Popen(
        [sys.executable, "-c", _DOOMED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as doomed:
        host, folder = doomed.stdout.readline().split()
        host = int(host)
        everybody = [*whole(host), *whole(doomed.pid)[:1]]
        if host_too:
            os.kill(host, signal.SIGKILL)
        doomed.kill()
    # A killed host can reap nobody; whoever adopts its children may take a while over that.
    eventually(lambda: not [process for process in left(everybody) if process.state != "Z"])
    if host_too:
        shutil.rmtree(folder)
    else:
        assert not Path(folder).exists()


def test_two_stacks_run_side_by_side():
    def one(number):
        with GlobusStack("threads", 1, **OPTIONS) as stack:
            client = stack.client()
            task = client.run(
                number,
                endpoint_id=stack.endpoint_id,
                function_id=client.register_source_code("def same(x):\n    return x\n", "same"),
            )
            eventually(lambda: not client.get_task(task)["pending"])
            return client.get_task(task)["result"], stack.url

    with ThreadPoolExecutor(2) as threads:
        (first, here), (second, there) = threads.map(one, [1, 2])
    assert (first, second) == (1, 2)
    assert here != there


def test_a_start_that_fails_says_why():
    stack = GlobusStack("threads", 1, engine_options={"max_workers": "many"})
    with pytest.raises(RuntimeError, match="did not start") as failed:
        stack.start()
    assert "host.log" in str(failed.value)
    assert "not supported between" in str(failed.value)
    with pytest.raises(RuntimeError, match="not running"):
        stack.stop()


def test_a_start_that_takes_too_long_is_given_up():
    with pytest.raises(RuntimeError, match="longer than"):
        GlobusStack("threads", 1, start_timeout=0.2).start()


def test_without_rabbitmq_one_sentence_tells_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HPC_FANOUT_RABBITMQ", str(tmp_path))
    monkeypatch.setattr("langgraph_hpc_fanout.testing.globus.broker.MACHINE", tmp_path)
    with pytest.raises(RabbitMQMissingError, match=r"requirements/rabbitmq\.sh"):
        GlobusStack("threads")


def test_settings_are_checked_at_once():
    with pytest.raises(ValueError, match="no engine 'steam'"):
        GlobusStack("steam")
    with pytest.raises(ValueError, match="needs a worker"):
        GlobusStack("threads", 0)
    with pytest.raises(RuntimeError, match="not running"):
        GlobusStack("threads").endpoint_id  # noqa: B018
    with pytest.raises(RuntimeError, match="was not started"):
        GlobusStack("threads").logs()


def test_the_command_prints_how_to_use_it(monkeypatch):
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stdout", printed)

    def interrupt():
        eventually(lambda: "# Logs" in printed.getvalue())
        os.kill(os.getpid(), signal.SIGTERM)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with ThreadPoolExecutor(1) as threads:
            interrupted = threads.submit(interrupt)
            main(["--engine", "threads"])
            interrupted.result()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    text = printed.getvalue()
    assert 'Executor("' in text
    assert "export GLOBUS_SDK_SERVICE_URL_AUTH=http://127.0.0.1:" in text


def test_the_command_says_what_is_wrong():
    with pytest.raises(SystemExit, match="needs a worker"):
        main(["--engine", "threads", "--workers", "0"])
