"""The Globus Compute stack, with the real SDK and a real endpoint (engine: threads)."""

from __future__ import annotations

import time

import pytest
from globus_compute_sdk import Client, Executor
from globus_compute_sdk.errors import TaskExecutionFailed
from globus_sdk.exc import GlobusAPIError
from globus_tasks import FOLDER, PATIENCE, double, eventually, fail, length, nap, where


@pytest.fixture
def stack(globus_stack):
    running = globus_stack("threads", 4, env={"PYTHONPATH": FOLDER})
    yield running
    running.service.reset()
    running.service.set_limits(rate="count", retention=1800.0, submit_bytes=10 * 1024 * 1024)


@pytest.fixture
def executor_at(stack):
    """A factory of executors that do not throttle themselves, with a task group of their own."""
    executors = []

    def make(endpoint_id=None, group=None, **options):
        import uuid

        executors.append(
            Executor(
                endpoint_id or stack.endpoint_id,
                client=stack.client(),
                task_group_id=group or uuid.uuid4(),
                api_burst_limit=8,
                api_burst_window_s=1,
                **options,
            )
        )
        return executors[-1]

    yield make
    for one in executors:
        one.shutdown(wait=False, cancel_futures=True)


@pytest.fixture
def executor(executor_at):
    return executor_at()


def test_tasks_run_and_the_record_tells_of_them(stack, executor):
    before = time.time()
    futures = [executor.submit(double, number) for number in range(300)]
    assert [future.result(PATIENCE) for future in futures] == [2 * n for n in range(300)]
    record = stack.service.record()
    assert record.tasks == 300 == record.results
    assert record.requests["functions"] == 1
    assert record.requests["submit"] == len(record.submits) == stack.service.requests("submit")
    assert all(submit.status == 200 and submit.tasks <= 128 for submit in record.submits)
    assert all(before <= submit.time <= time.time() for submit in record.submits)
    assert {submit.endpoint_id for submit in record.submits} == {stack.endpoint_id}
    assert record.submits[0].size > 1000
    assert 1 <= record.most_in_window <= len(record.submits)


def test_a_task_that_raises_fails_with_its_traceback(executor):
    with pytest.raises(TaskExecutionFailed, match="nothing there"):
        executor.submit(fail).result(PATIENCE)


def test_a_submit_above_ten_megabytes_is_refused_with_413(stack, executor):
    future = executor.submit(length, "x" * 8_000_000)
    with pytest.raises(GlobusAPIError) as refused:
        future.result(PATIENCE)
    assert (refused.value.http_status, refused.value.code) == (413, "PAYLOAD_TOO_LARGE")
    (submit,) = stack.service.record().submits
    assert submit.status == 413
    assert submit.size > 10 * 1024 * 1024
    assert submit.task_ids == ()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_injected_status_is_tried_again_by_the_sdk(stack, executor, status):
    stack.service.inject(f"http_{status}", retry_after=0.1)
    assert executor.submit(double, 3).result(PATIENCE) == 6
    record = stack.service.record()
    assert [submit.status for submit in record.submits] == [status, 200]
    assert record.submits[0].fault == f"http_{status}"
    assert record.tasks == 1


def test_a_fault_may_strike_later_and_elsewhere(stack):
    client = stack.client()
    stack.service.inject("http_404", after=1, route="endpoint_status")
    assert client.get_endpoint_status(stack.endpoint_id)["status"] == "online"
    with pytest.raises(GlobusAPIError):
        client.get_endpoint_status(stack.endpoint_id)
    assert client.get_endpoint_status(stack.endpoint_id)["status"] == "online"


def test_unknown_faults_are_refused(stack):
    with pytest.raises(ValueError, match="unknown"):
        stack.service.inject("http_200")
    with pytest.raises(ValueError, match="unknown"):
        stack.service.inject("http_500", route="nowhere")
    with pytest.raises(ValueError, match="times"):
        stack.service.inject("http_500", times=0)


def test_a_lost_reply_makes_the_sdk_submit_twice(stack, executor):
    stack.service.inject("lost_reply")
    assert executor.submit(double, 4).result(PATIENCE) == 8
    eventually(lambda: stack.service.record().results == 2)
    first, second = stack.service.record().submits
    assert first.fault == "lost_reply"
    assert len(first.task_ids) == len(second.task_ids) == 1
    assert first.task_ids != second.task_ids


def test_a_lost_request_takes_no_effect(stack, executor):
    stack.service.inject("lost_request")
    assert executor.submit(double, 4).result(PATIENCE) == 8
    assert stack.service.record().tasks == 1


def test_the_strict_rate_refuses_the_twenty_first_request(stack, executor):
    stack.service.set_limits(rate="strict")
    client = stack.client()
    function = client.register_function(double)
    batch = client.create_batch()
    batch.add(function, (1,))
    for _ in range(20):
        client.batch_run(stack.endpoint_id, batch)
    client._compute_web_client.v3.retry_config.max_retries = 0
    with pytest.raises(GlobusAPIError) as refused:
        client.batch_run(stack.endpoint_id, batch)
    assert refused.value.http_status == 429
    assert stack.service.record().most_in_window == 21


def test_a_duplicate_result_changes_nothing(stack, executor):
    stack.service.inject("duplicate_result")
    assert executor.submit(double, 5).result(PATIENCE) == 10
    assert executor.submit(double, 6).result(PATIENCE) == 12


def test_a_lost_result_leaves_the_task_unfinished(stack, executor):
    stack.service.inject("lost_result")
    lost = executor.submit(double, 7)
    eventually(lambda: lost.task_id)
    assert executor.submit(double, 8).result(PATIENCE) == 16
    assert not lost.done()
    status = stack.client().get_batch_result([lost.task_id])[lost.task_id]
    assert status == {"pending": True, "status": "waiting-for-ep"}


def test_results_can_be_polled_for_and_reloaded(stack, executor, executor_at):
    futures = [executor.submit(double, number) for number in range(3)]
    assert [future.result(PATIENCE) for future in futures] == [0, 2, 4]
    ids = [future.task_id for future in futures]
    results = stack.client().get_batch_result(ids[:2])
    assert [results[one]["result"] for one in ids[:2]] == [0, 2]
    again = list(executor_at(group=executor.task_group_id).reload_tasks())
    assert [future.result(PATIENCE) for future in again if future.done()] == [4]
    assert stack.client().get_task(ids[2])["reason"] == "Unknown task id", "it was fetched"
    unknown = "00000000-0000-4000-8000-000000000000"
    assert stack.client().get_task(unknown)["reason"] == "Unknown task id"
    with pytest.raises(GlobusAPIError) as refused:
        executor_at(group=unknown).reload_tasks()
    assert refused.value.http_status == 404


def test_a_result_that_nobody_fetches_is_abandoned(stack):
    stack.service.set_limits(retention=0.5)
    client = stack.client()
    task = client.run(
        9, endpoint_id=stack.endpoint_id, function_id=client.register_function(double)
    )
    eventually(lambda: stack.service.record().results == 1)
    time.sleep(0.6)
    with pytest.raises(TaskExecutionFailed, match="abandoned"):
        client.get_task(task)


def test_an_abandoned_result_leaves_the_queue(stack, executor, executor_at):
    """The group's queue exists, but its only reader comes too late."""
    stack.service.set_limits(retention=0.5)
    client = stack.client()
    batch = client.create_batch(executor.task_group_id, create_websocket_queue=True)
    batch.add(client.register_function(double), (1,))
    client.batch_run(stack.endpoint_id, batch)
    eventually(lambda: stack.service.record().results == 1)
    time.sleep(0.6)
    (future,) = executor_at(group=executor.task_group_id).reload_tasks()
    with pytest.raises(TaskExecutionFailed, match="abandoned"):
        future.result(PATIENCE)


def test_dropped_connections_lose_nothing(stack, executor):
    futures = [executor.submit(nap, 0.5) for _ in range(20)]
    eventually(lambda: any(future.done() for future in futures))
    assert stack.drop_connections("sdk") >= 1
    assert stack.drop_connections("endpoint") == 3
    assert [future.result(PATIENCE) for future in futures] == [0.5] * 20


def test_an_endpoint_is_offline_while_it_is_paused(stack, executor):
    client = stack.client()
    status = lambda: client.get_endpoint_status(stack.endpoint_id)["status"]  # noqa: E731
    assert status() == "online"
    stack.pause()
    eventually(lambda: status() == "offline")
    late = executor.submit(double, 1)
    time.sleep(1)
    assert not late.done()
    stack.resume()
    assert late.result(PATIENCE) == 2
    assert status() == "online"


def test_a_failed_start_fails_its_tasks(stack, executor_at):
    executor = executor_at(user_endpoint_config={"workers": 1})
    stack.service.inject("start_fails")
    with pytest.raises(TaskExecutionFailed, match="SystemExit"):
        executor.submit(double, 1).result(PATIENCE)
    assert executor.submit(where).result(PATIENCE)[0] != stack.user_endpoint_pid
    assert stack.service.record().starts == 2


def test_a_user_endpoint_config_that_means_nothing_fails_its_tasks(stack, executor_at):
    executor = executor_at(user_endpoint_config={"engine": "steam"})
    with pytest.raises(TaskExecutionFailed, match="no engine 'steam'"):
        executor.submit(double, 1).result(PATIENCE)
    executor = executor_at(user_endpoint_config={"wheels": 4})
    with pytest.raises(TaskExecutionFailed, match="unknown settings: wheels"):
        executor.submit(double, 1).result(PATIENCE)


@pytest.mark.filterwarnings(r"ignore:\s+Environment differences:UserWarning")
def test_endpoints_and_their_settings_live_side_by_side(stack, executor_at):
    client = stack.client()
    allowed = client.register_function(where)
    other = stack.add_endpoint(
        "threads",
        allowed_functions=[allowed],
        env={"PYTHONPATH": FOLDER, "STACK_TEST": "the other"},
    )
    executor = executor_at(other)
    pid, variable = executor.submit_to_registered_function(allowed).result(PATIENCE)
    assert variable == "the other"
    assert pid != stack.user_endpoint_pid
    with pytest.raises(TaskExecutionFailed, match="not permitted"):
        executor.submit(double, 1).result(PATIENCE)
    assert client.get_endpoint_metadata(other)["uuid"] == other
    assert {stack.endpoint_id, other} <= {one["uuid"] for one in client.get_endpoints()}


def test_a_killed_user_endpoint_starts_with_the_next_submit(stack, executor):
    assert executor.submit(double, 1).result(PATIENCE) == 2
    lost = executor.submit(nap, 30)
    eventually(lambda: lost.task_id)
    time.sleep(1)
    killed = stack.kill_user_endpoint()
    assert stack.user_endpoint_pid is None
    assert stack.kill_user_endpoint() is None
    pid, _ = executor.submit(where).result(PATIENCE)
    assert pid == stack.user_endpoint_pid != killed
    assert not lost.done()


def test_a_pid_file_keeps_a_killed_user_endpoint_from_starting_again(stack, executor_at):
    other = stack.add_endpoint("threads", 1, keep_pid_file=True)
    executor = executor_at(other)
    assert stack.kill_user_endpoint(other)
    with pytest.raises(TaskExecutionFailed, match="SystemExit"):
        executor.submit(pow, 2, 3).result(PATIENCE)
    (log,) = [
        p
        for name, p in stack.logs().items()
        if name.endswith("endpoint.log")
        and "Another instance of this endpoint is running" in p.read_text()
    ]
    assert log.exists()


def test_an_idle_user_endpoint_stops_and_is_revived_if_it_was_asked_for(stack, executor_at):
    """As it runs while the second task comes, nobody else would start it again."""
    other = stack.add_endpoint("threads", 1, idle_stop=1, env={"PYTHONPATH": FOLDER})
    executor = executor_at(other)
    pid, _ = executor.submit(where).result(PATIENCE)
    assert executor.submit(where).result(PATIENCE)[0] == pid
    assert stack.worker_pids(other) == []
    eventually(lambda: stack.user_endpoint_pid_of(other) not in {pid, None})


def test_a_client_may_log_in_with_credentials(stack, monkeypatch):
    import globus_compute_sdk.sdk.client as sdk

    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sdk, "get_web_service_url", lambda _name=None: stack.url)
    client = Client()
    assert client.get_endpoint_status(stack.endpoint_id)["status"] == "online"
    assert stack.service.requests("token") == 1


def test_requests_without_a_token_are_refused(stack):
    import urllib.error
    import urllib.request

    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{stack.url}/v2/endpoints")
    with refused.value as answer:
        assert answer.status == 401


def test_functions_can_be_looked_up_and_forgotten(stack):
    client = stack.client()
    function = client.register_source_code("def add(a, b):\n    return a + b\n", "add")
    assert client.get_function(function)["function_name"] == "add"
    client.delete_function(function)
    with pytest.raises(GlobusAPIError):
        client.get_function(function)


def test_source_text_runs(stack, executor):
    function = executor.register_source_code("def add(a, b):\n    return a + b\n", "add")
    assert executor.submit_to_registered_function(function, (1, 2)).result(PATIENCE) == 3


def test_logs_are_named(stack):
    names = set(stack.logs())
    assert {"host.log", "rabbitmq/rabbit.log"} <= names
    assert any(name.endswith("endpoint.log") for name in names)
