"""The Globus Compute stack with Parsl's HighThroughputExecutor and with a process pool."""

from __future__ import annotations

import uuid

import pytest
from globus_compute_sdk import Executor
from globus_compute_sdk.errors import TaskExecutionFailed
from globus_tasks import FOLDER, PATIENCE, double, eventually, nap, start_sleeper, wait_in, where

from langgraph_hpc_fanout.testing.globus.processes import processes, session


@pytest.fixture
def stack(globus_stack):
    return globus_stack(
        "htex", 2, max_blocks=2, max_idletime=1.0, prefetch=0, env={"PYTHONPATH": FOLDER}
    )


@pytest.fixture
def executor_at(stack):
    executors = []

    def make(**options):
        executors.append(
            Executor(
                stack.endpoint_id,
                client=stack.client(),
                task_group_id=uuid.uuid4(),
                api_burst_limit=8,
                api_burst_window_s=1,
                **options,
            )
        )
        return executors[-1]

    yield make
    for one in executors:
        one.shutdown(wait=False, cancel_futures=True)


def alive(pid):
    return any(process.pid == pid and process.state != "Z" for process in processes())


def test_workers_run_the_tasks(stack, executor_at):
    executor = executor_at()
    assert executor.submit(double, 4).result(PATIENCE) == 8
    workers = stack.worker_pids()
    assert len(workers) == 2
    pids = {executor.submit(where).result(PATIENCE)[0] for _ in range(2)}
    assert pids <= set(workers)


def test_it_scales_out_to_more_blocks_and_in_again(stack, executor_at):
    executor = executor_at()
    futures = [executor.submit(nap, 2) for _ in range(8)]
    eventually(lambda: len(stack.worker_pids()) == 4)
    assert [future.result(PATIENCE) for future in futures] == [2] * 8
    eventually(lambda: len(stack.worker_pids()) == 2)


def test_a_killed_worker_fails_its_task_and_is_replaced(stack, executor_at, tmp_path):
    executor = executor_at()
    busy = [executor.submit(wait_in, str(tmp_path)) for _ in range(4)]
    eventually(lambda: len(list(tmp_path.iterdir())) == 4)
    killed = stack.kill_worker()
    assert (tmp_path / str(killed)).exists()
    eventually(lambda: any(future.done() for future in busy))
    (lost,) = [future for future in busy if future.done()]
    with pytest.raises(TaskExecutionFailed, match="WorkerLost"):
        lost.result()
    (tmp_path / "go").touch()
    assert [future.result(PATIENCE) for future in busy if future is not lost] == [None] * 3
    assert executor.submit(double, 4).result(PATIENCE) == 8
    assert killed not in stack.worker_pids()


def test_what_a_killed_user_endpoint_leaves_is_cleared_away_at_its_restart(stack, executor_at):
    executor = executor_at()
    sleeper = executor.submit(start_sleeper).result(PATIENCE)
    killed = stack.kill_user_endpoint()
    assert session(killed), "HTEX outlives its endpoint"
    assert executor.submit(double, 4).result(PATIENCE) == 8
    assert not session(killed)
    assert stack.user_endpoint_pid not in {killed, None}
    assert alive(sleeper), "a task's own process is not ours to end before the stack does"


def test_another_configuration_gets_a_user_endpoint_of_its_own(stack, executor_at):
    config = {"engine": "processes", "workers": 1}
    executor = executor_at(user_endpoint_config=config)
    pid, _ = executor.submit(where).result(PATIENCE)
    assert stack.worker_pids(user_endpoint_config=config) == [pid]
    assert pid not in stack.worker_pids()
    assert stack.service.record().submits[-1].user_endpoint_config == config
