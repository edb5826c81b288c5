"""What the service does: takes tasks on, hands them to endpoints, and their results back.

The shapes of requests and replies are those that globus_compute_sdk and
globus_compute_endpoint 4.19 send and read; nothing was recorded from the real service.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

from globus_compute_common import messagepack
from globus_compute_common.messagepack.message_types import (
    EPStatusReport,
    Result,
    ResultErrorDetails,
)
from globus_compute_common.messagepack.message_types import (
    Task as TaskMessage,
)

from langgraph_hpc_fanout.testing.globus.broker import Broker, User
from langgraph_hpc_fanout.testing.globus.service.amqp import (
    COMMANDS,
    HEARTBEATS,
    RESULT_QUEUES,
    RESULTS,
    TASKS,
    Amqp,
)
from langgraph_hpc_fanout.testing.globus.service.faults import Faults
from langgraph_hpc_fanout.testing.globus.service.limits import Pace, ServiceLimits
from langgraph_hpc_fanout.testing.globus.service.record import Recorder
from langgraph_hpc_fanout.testing.globus.service.store import (
    Endpoint,
    Function,
    Store,
    Task,
    new_id,
)

IDENTITY = str(uuid.uuid5(uuid.NAMESPACE_DNS, "somebody.example.org"))
"""The one identity that everybody has here."""

USERNAME = "somebody@example.org"

FAILING_SETUP = "echo 'the test stack lets this start fail'; exit 1"
"""An `endpoint_setup` that keeps a user endpoint from starting."""


class ServiceError(Exception):
    """A refusal, in the form that globus_sdk reads (globus_sdk/exc/api.py).

    Args:
        status: HTTP status.
        code: The error's name.
        message: The error in words.
        retry_after: Seconds for the Retry-After header.
    """

    def __init__(
        self, status: int, code: str, message: str, *, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after


class Starter(Protocol):
    """Who starts the user endpoints of an endpoint."""

    def start(self, user_endpoint_id: str, submitted: Mapping[str, Any]) -> bool:
        """See that a user endpoint runs.

        Args:
            user_endpoint_id: Its id.
            submitted: The body of the submit that wants it.

        Returns:
            Whether it was started, and did not run already.
        """
        ...


class Service:
    """The service, without HTTP.

    Args:
        broker: Whose addresses it hands out.
        amqp: Its own connection to the broker.
        limits: What it takes.
    """

    def __init__(self, broker: Broker, amqp: Amqp, limits: ServiceLimits) -> None:
        self.store = Store()
        self.faults = Faults()
        self.record = Recorder()
        self.limits = limits
        self.starters: dict[str, Starter] = {}
        self.start_failures: dict[str, str] = {}
        self.pace = Pace()
        self._broker = broker
        self._amqp = amqp

    async def open(self) -> None:
        """Begin to take results and heartbeats."""
        await self._amqp.open()
        self._amqp.consume(RESULTS, self._on_result)
        self._amqp.consume(HEARTBEATS, self._on_heartbeat)

    def reset(self) -> None:
        """Forget what was seen, and what was still to go wrong."""
        self.record = Recorder()
        self.pace = Pace()
        self.faults.clear()

    def register_function(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Take a function on; its code travels with every task from then on."""
        function = Function(new_id(), data)
        self.store.functions[function.id] = function
        return {"function_uuid": function.id}

    async def register_endpoint(
        self, data: Mapping[str, Any], endpoint_id: str | None = None
    ) -> dict[str, Any]:
        """Take a core endpoint on, or again after a restart.

        The reply is what globus_compute_endpoint/endpoint/core_endpoint.py reads.
        """
        endpoint = Endpoint(endpoint_id or new_id(), data)
        self.store.endpoints[endpoint.id] = endpoint
        queue = f"{endpoint.id}.commands"
        await self._amqp.declare(queue, exchange=COMMANDS, key=queue)
        self.starters.setdefault(endpoint.id, CommandStarter(self, endpoint.id))
        command_queue = {"connection_url": self._broker.url("endpoint"), "queue": queue}
        return {**self.credentials(endpoint.id), "command_queue_info": command_queue}

    def credentials(self, endpoint_id: str) -> dict[str, Any]:
        """Where an endpoint takes its tasks from and sends results and heartbeats to."""
        return {
            "endpoint_id": endpoint_id,
            "task_queue_info": {
                "connection_url": self._broker.url("endpoint"),
                "exchange": TASKS,
                "queue": _task_queue(endpoint_id),
            },
            "result_queue_info": self._publishing(RESULTS, endpoint_id),
            "heartbeat_queue_info": self._publishing(HEARTBEATS, endpoint_id),
        }

    @staticmethod
    def user_endpoint_id(endpoint_id: str, user_endpoint_config: Mapping[str, Any]) -> str:
        """A different configuration means another user endpoint."""
        config = json.dumps(user_endpoint_config, sort_keys=True)
        return str(uuid.uuid5(uuid.UUID(endpoint_id), config))

    async def prepare_user_endpoint(
        self, endpoint_id: str, user_endpoint_config: Mapping[str, Any]
    ) -> Endpoint:
        """The user endpoint for this configuration, made when it is first asked for."""
        user_endpoint_id = self.user_endpoint_id(endpoint_id, user_endpoint_config)
        if (known := self.store.endpoints.get(user_endpoint_id)) is not None:
            return known
        queue = _task_queue(user_endpoint_id)
        await self._amqp.declare(queue, exchange=TASKS, key=queue)
        endpoint = Endpoint(user_endpoint_id, parent=endpoint_id)
        return self.store.endpoints.setdefault(user_endpoint_id, endpoint)

    async def submit(self, endpoint_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Take tasks on and pass them on.

        Every submit asks for the user endpoint, as an endpoint that runs it already only
        takes note (globus_compute_endpoint/endpoint/core_endpoint.py, `cmd_start_endpoint`).
        """
        if (starter := self.starters.get(endpoint_id)) is None:
            raise ServiceError(404, "ENDPOINT_NOT_FOUND", f"There is no endpoint {endpoint_id}.")
        functions = {name: self._function(name) for name in body["tasks"]}
        group = body.get("task_group_id") or new_id()
        config = body.get("user_endpoint_config") or {}
        user_endpoint = await self.prepare_user_endpoint(endpoint_id, config)
        if body.get("create_queue") and group not in self.store.queued_groups:
            await self._amqp.declare(RESULT_QUEUES + group)
            self.store.queued_groups.add(group)
        made: dict[str, list[str]] = {}
        headers = _headers(body)
        for name, payloads in body["tasks"].items():
            tasks = [Task(new_id(), name, group, endpoint_id, user_endpoint.id) for _ in payloads]
            made[name] = [task.id for task in tasks]
            for task, payload in zip(tasks, payloads, strict=True):
                self._hand_over(task, functions[name].packed + payload, headers)
        self.record.starts += starter.start(user_endpoint.id, body)
        return {
            "request_id": new_id(),
            "task_group_id": group,
            "endpoint_id": endpoint_id,
            "tasks": made,
        }

    def amqp_url(self) -> dict[str, Any]:
        """Where the SDK takes results from."""
        return {"queue_prefix": RESULT_QUEUES, "connection_url": self._broker.url("sdk")}

    def task(self, task_id: str) -> dict[str, Any]:
        """What became of a task; it is forgotten once it has been told how it ended.

        So says Globus Compute's documentation ("Client User Guide", on retrieving results), and
        so did the service while its source was open (funcx-web-service, routes/funcx.py,
        `get_tasks_from_redis`), which also said of an unknown task what is said here.
        """
        task = self.store.tasks.get(task_id)
        if task is None:
            return {"task_id": task_id, "status": "Failed", "reason": "Unknown task id"}
        task.expire(self.limits.retention)
        if task.completed is not None:
            del self.store.tasks[task_id]
        return task.to_json()

    def task_group(self, group: str) -> dict[str, Any]:
        """The tasks of a group (globus_compute_sdk/sdk/executor.py, `reload_tasks`)."""
        if (tasks := self.store.groups.get(group)) is None:
            raise ServiceError(404, "TASK_GROUP_NOT_FOUND", f"There is no task group {group}.")
        return {"taskgroup_id": group, "tasks": [{"id": task} for task in tasks]}

    def endpoint(self, endpoint_id: str) -> Endpoint:
        """A known endpoint."""
        if (endpoint := self.store.endpoints.get(endpoint_id)) is None:
            raise ServiceError(404, "ENDPOINT_NOT_FOUND", f"There is no endpoint {endpoint_id}.")
        return endpoint

    def endpoint_status(self, endpoint_id: str) -> dict[str, Any]:
        """Whether an endpoint's heartbeats come, with what the last one said."""
        endpoint = self.endpoint(endpoint_id)
        status = "online" if endpoint.online else "offline"
        return {"status": status, "details": dict(endpoint.state)}

    async def fail_tasks(self, user_endpoint_id: str, message: str) -> None:
        """Finish what a user endpoint owes, as it cannot start.

        The service does so with the text that the endpoint sends
        (globus_compute_endpoint/endpoint/core_endpoint.py, `send_failure_notice`). The
        error's code is our own.
        """
        self.start_failures[user_endpoint_id] = message
        for task in self.store.open_tasks(user_endpoint_id):
            error = ResultErrorDetails(code="ENDPOINT_START_FAILED", user_message=message)
            result = Result(
                task_id=uuid.UUID(task.id), data=message, error_details=error, task_statuses=[]
            )
            self._finish(task, result, messagepack.pack(result))
        await self._amqp.purge(_task_queue(user_endpoint_id))

    def fail_soon(self, user_endpoint_id: str, message: str) -> None:
        """`fail_tasks`, when those that are being submitted are known."""
        self._amqp.soon(self.fail_tasks(user_endpoint_id, message))

    def command(self, endpoint_id: str, command: Mapping[str, Any]) -> None:
        """Send a command to a core endpoint, with the fields that its `_event_loop` checks."""
        identity = {
            "globus_username": USERNAME,
            "globus_effective_identity": IDENTITY,
            "globus_identity_set": [{"sub": IDENTITY, "username": USERNAME}],
        }
        body = json.dumps({**identity, **command}).encode()
        now = int(time.time())
        self._amqp.publish(COMMANDS, f"{endpoint_id}.commands", body, timestamp=now)

    def _function(self, function_id: str) -> Function:
        if (function := self.store.functions.get(function_id)) is None:
            raise ServiceError(404, "FUNCTION_NOT_FOUND", f"There is no function {function_id}.")
        return function

    def _hand_over(self, task: Task, buffer: str, headers: Mapping[str, Any]) -> None:
        self.store.tasks[task.id] = task
        self.store.groups.setdefault(task.group_id, []).append(task.id)
        self._amqp.publish(
            TASKS,
            _task_queue(task.user_endpoint_id),
            messagepack.pack(TaskMessage(task_id=uuid.UUID(task.id), task_buffer=buffer)),
            headers={**headers, "task_uuid": task.id, "function_uuid": task.function_id},
        )

    def _publishing(self, exchange: str, endpoint_id: str) -> dict[str, Any]:
        """How an endpoint publishes (.../rabbit_mq/result_publisher.py, `_connect`)."""
        user: User = "endpoint"
        return {
            "connection_url": self._broker.url(user),
            "exchange": exchange,
            "queue": exchange,
            "queue_publish_kwargs": {
                "exchange": exchange,
                "routing_key": f"{endpoint_id}.{exchange}",
                "mandatory": True,
                "properties": {"delivery_mode": 2, "content_type": "application/json"},
            },
        }

    def _on_result(self, body: bytes) -> None:
        message = messagepack.unpack(body)
        if isinstance(message, Result) and str(message.task_id) in self.store.tasks:
            if self.faults.elsewhere("lost_result"):
                return
            self._finish(self.store.tasks[str(message.task_id)], message, body)

    def _on_heartbeat(self, body: bytes) -> None:
        message = messagepack.unpack(body)
        if not isinstance(message, EPStatusReport):
            return
        endpoint_id, state = str(message.endpoint_id), message.global_state
        endpoint = self.store.endpoints.get(endpoint_id)
        if endpoint is None:
            return
        if (error := state.get("error")) is not None:
            self.fail_soon(endpoint_id, str(error))
        else:
            endpoint.heartbeat(state)

    def _finish(self, task: Task, result: Result, body: bytes) -> None:
        self.record.results += 1
        task.complete(result.data, failed=result.is_error, details=result.details)
        if task.group_id not in self.store.queued_groups:
            return
        for _ in range(2 if self.faults.elsewhere("duplicate_result") else 1):
            self._amqp.publish(
                "",
                RESULT_QUEUES + task.group_id,
                body,
                timestamp=int(time.time()),
                expiration=self.limits.retention,
            )


class CommandStarter:
    """Starts user endpoints by asking a core endpoint for them.

    The command's fields are those of globus_compute_endpoint/endpoint/core_endpoint.py,
    `cmd_start_endpoint`.
    """

    def __init__(self, service: Service, endpoint_id: str) -> None:
        self._service = service
        self._endpoint_id = endpoint_id

    def start(self, user_endpoint_id: str, submitted: Mapping[str, Any]) -> bool:
        """Send the command; a core endpoint that runs it already takes note of it."""
        options = dict(submitted.get("user_endpoint_config") or {})
        if self._service.faults.elsewhere("start_fails"):
            options["setup"] = FAILING_SETUP
        wanted = {
            "name": f"uep.{self._endpoint_id}.{user_endpoint_id}",
            "user_opts": options,
            "user_runtime": submitted.get("user_runtime") or {},
            "amqp_creds": self._service.credentials(user_endpoint_id),
        }
        command = {"command": "cmd_start_endpoint", "args": [], "kwargs": wanted}
        self._service.command(self._endpoint_id, command)
        return True


def _task_queue(endpoint_id: str) -> str:
    return f"{endpoint_id}.tasks"


def _headers(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a task's message says of the submit.

    globus_compute_endpoint/endpoint/interchange.py, `process_pending_tasks`, reads it.
    """
    headers: dict[str, Any] = {}
    if body.get("resource_specification"):
        headers["resource_specification"] = json.dumps(body["resource_specification"])
    if body.get("result_serializers"):
        headers["result_serializers"] = body["result_serializers"]
    return headers
