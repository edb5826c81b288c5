import pytest

from langgraph_hpc_fanout.endpoints.credentials import CredentialError
from langgraph_hpc_fanout.endpoints.globus_compute.faults import Trouble

TROUBLE = Trouble("globus", "The Globus Compute endpoint globus")
FIRST = Trouble("globus", "The Globus Compute endpoint globus", never_raises=False)


class TaskExecutionFailed(Exception):  # noqa: N818 - the SDK's name
    def __init__(self, remote_data):
        super().__init__(remote_data)
        self.remote_data = remote_data


class GlobusAPIError(Exception):
    def __init__(self, status, message="why"):
        super().__init__(message)
        self.http_status, self.message = status, message


class DeserializationError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CredentialError("nobody is logged in"), "auth"),
        (ImportError("no SDK"), "auth"),
        (GlobusAPIError(403), "auth"),
        (GlobusAPIError(404), "cold"),
        (ConnectionError("no network"), "cold"),
    ],
)
def test_what_keeps_us_from_the_service(error, kind):
    failure = TROUBLE.of_connecting(error).failure
    assert failure.kind == kind
    assert failure.retryable == (kind == "cold")
    assert failure.message.startswith("The Globus Compute endpoint globus: ")


@pytest.mark.parametrize(
    ("status", "passes", "kind"),
    [
        (400, False, "cold"),
        (401, False, "auth"),
        (403, False, "auth"),
        (404, False, "cold"),
        (408, True, "transient"),
        (429, True, "transient"),
        (500, True, "transient"),
        (503, True, "transient"),
        (None, True, "transient"),
    ],
)
def test_a_submit_that_failed(status, passes, kind):
    error = ConnectionError("reset") if status is None else GlobusAPIError(status)
    assert TROUBLE.may_pass(error) is passes
    found = TROUBLE.of_submit(error)
    assert (found.failure.kind, found.failure.status) == (kind, status)
    assert not found.too_large


def test_a_submit_that_was_too_large():
    error = GlobusAPIError(413, "TASK_PAYLOAD_TOO_LARGE")
    assert TROUBLE.is_too_large(error)
    found = TROUBLE.of_submit(error)
    assert (found.failure.kind, found.failure.status, found.too_large) == ("permanent", 413, True)


def test_a_lost_worker_makes_its_requests_suspect():
    text = "Traceback ...\nparsl.executors.high_throughput.errors.WorkerLost: Task failure due to"
    found = TROUBLE.of_task(TaskExecutionFailed(text))
    assert (found.failure.kind, found.suspect, found.too_large) == ("transient", True, False)
    assert "(WorkerLost)" in found.failure.message


def test_a_result_that_was_too_large():
    text = "globus_compute_sdk.errors.error_types.MaxResultSizeExceeded: Task result of 15581488B"
    assert TROUBLE.of_task(TaskExecutionFailed(text)).too_large


def test_a_task_that_was_never_worked_on_is_the_endpoints_fault():
    """Our own function raises nothing."""
    found = TROUBLE.of_task(TaskExecutionFailed("Function 12 not permitted on endpoint"))
    assert (found.failure.kind, found.broken) == ("cold", True)
    assert "could not run a task: Function 12 not permitted" in found.failure.message
    found = TROUBLE.of_task(TaskExecutionFailed("...\nparsl.app.errors.AppTimeout"))
    assert (found.failure.kind, found.broken) == ("transient", False)


def test_a_function_that_raised():
    found = FIRST.of_task(TaskExecutionFailed("Traceback ...\nKeyError: 'xx'\n")).failure
    assert found.kind == "permanent"
    assert found.message.endswith("raised: KeyError: 'xx'")


@pytest.mark.parametrize(
    ("status", "kind"), [(400, "permanent"), (429, "rate_limited"), (503, "overloaded")]
)
def test_firsts_function_hides_a_status_in_its_exception(status, kind):
    text = (
        "Traceback (most recent call last):\n  ...\nException: Unexpected error of type "
        f"Exception: API request failed with status code: {status}\n"
        'Response text: {"error": {"message": "too long"}}\nResponse headers: {}\n'
        "Response time: 0.2"
    )
    found = FIRST.of_task(TaskExecutionFailed(text)).failure
    assert (found.kind, found.status) == (kind, status)
    assert "too long" in found.message


def test_firsts_function_cannot_reach_its_server():
    text = "Traceback ...\nException: Network error occurred: Connection refused"
    assert FIRST.of_task(TaskExecutionFailed(text)).failure.kind == "overloaded"


def test_a_result_that_is_no_json_is_not_opened():
    error = Exception("Malformed or unexpected data structure. Data: 00\nsecret")
    error.__cause__ = DeserializationError("not allowed")
    assert not TROUBLE.is_of_connection(error)
    found = TROUBLE.of_task(error).failure
    assert found.kind == "permanent"
    assert "not JSON" in found.message
    assert "secret" not in found.message


def test_a_connection_that_ended_is_not_the_tasks_end():
    error = RuntimeError("SDK thread quit unexpectedly.")
    assert TROUBLE.is_of_connection(error)
    assert TROUBLE.of_task(error).failure.kind == "transient"
    assert not TROUBLE.is_of_connection(TaskExecutionFailed("Traceback"))


@pytest.mark.parametrize(
    ("told", "of_function", "kind", "broken"),
    [
        ({"kind": "permanent", "message": "another version"}, False, "cold", True),
        ({"kind": "cold", "message": "no server"}, False, "overloaded", False),
        ({"kind": "permanent", "message": "no such module"}, True, "permanent", False),
        (None, False, "cold", False),
    ],
)
def test_a_worker_that_cannot_work_on_a_bundle(told, of_function, kind, broken):
    found = TROUBLE.of_bundle(told, of_function=of_function)
    assert (found.failure.kind, found.broken) == (kind, broken)
