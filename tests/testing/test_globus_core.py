"""A real core endpoint, which forks its user endpoints itself."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest
from globus_compute_sdk import Executor
from globus_compute_sdk.errors import TaskExecutionFailed
from globus_tasks import PATIENCE, eventually

from langgraph_hpc_fanout.testing.globus import unprivileged
from langgraph_hpc_fanout.testing.globus.unprivileged import Account

# As root another Python may run the endpoint, of which the SDK warns.
pytestmark = pytest.mark.filterwarnings(r"ignore:\s+Environment differences:UserWarning")

_SOURCE = "def who():\n    import os\n    return os.getuid(), os.getpid(), os.getppid()\n"


@pytest.fixture
def stack(globus_stack):
    return globus_stack("threads", 1, core=True)


@pytest.fixture
def executor(stack):
    executor = Executor(stack.endpoint_id, client=stack.client(), task_group_id=uuid.uuid4())
    yield executor
    executor.shutdown(wait=False, cancel_futures=True)


@pytest.fixture
def who(executor):
    function = executor.register_source_code(_SOURCE, "who")
    return lambda: executor.submit_to_registered_function(function).result(PATIENCE)


def test_it_starts_user_endpoints_and_starts_a_killed_one_again(stack, who):
    user, pid, core = who()
    assert user != 0
    assert user == (os.getuid() or user)
    assert pid == stack.user_endpoint_pid
    command = Path(f"/proc/{core}/cmdline").read_bytes()
    assert f"*({stack.endpoint_id}".encode() in command
    status = stack.client().get_endpoint_status(stack.endpoint_id)
    assert status["status"] == "online"
    assert stack.service.requests("submit") == 1
    killed = stack.kill_user_endpoint()
    assert killed == pid
    eventually(lambda: stack.user_endpoint_pid is None)
    eventually(lambda: f"({killed})" in core_log(stack))
    _, restarted, parent = who()
    assert restarted not in {killed, None}
    assert parent == core


def test_a_start_that_fails_fails_the_tasks(stack, executor):
    executor.user_endpoint_config = {"anything": "else"}
    stack.service.inject("start_fails")
    function = executor.register_source_code(_SOURCE, "who")
    with pytest.raises(TaskExecutionFailed, match="SystemExit"):
        executor.submit_to_registered_function(function).result(PATIENCE)


def core_log(stack):
    (log,) = [path for name, path in stack.logs().items() if name.endswith("core/endpoint.log")]
    return log.read_text()


def test_somebody_who_is_not_root_stays_who_they_are(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    account = Account.choose(tmp_path)
    account.own(tmp_path)
    assert account.identity == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has this choice")
def test_root_finds_a_python_for_nobody_or_says_so(monkeypatch, tmp_path):
    account = Account.choose(tmp_path)
    assert account.identity["user"] != 0
    monkeypatch.setattr(unprivileged, "_packages", lambda copy: iter([str(copy)]))
    with pytest.raises(RuntimeError, match="As nobody"):
        Account.choose(tmp_path / "without packages")
