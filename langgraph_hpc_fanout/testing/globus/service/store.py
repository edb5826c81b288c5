"""What the service knows: functions, endpoints, tasks and their results. All in memory."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_STALE = 2.5
"""Heartbeats an endpoint may be late before it is offline; the real number is not known."""


@dataclass(slots=True)
class Function:
    """A registered function, as the SDK sent it.

    Attributes:
        id: Its id.
        data: The body of the registration.
    """

    id: str
    data: Mapping[str, Any]

    @property
    def packed(self) -> str:
        """The code as it goes before a task's arguments, length first.

        Source text of `register_source_code` comes unpacked; its worker-side strategy is
        PureSourceTextInspect (globus_compute_sdk/serialize/concretes.py).
        """
        code: str = self.data["function_code"]
        if self.data.get("serialized", True):
            return code
        code = f"st\n{self.data['function_name']}:{code}"
        return f"{len(code)}\n{code}"


@dataclass(slots=True)
class Endpoint:
    """An endpoint, or one of its user endpoints.

    Attributes:
        id: Its id.
        data: What it registered with.
        parent: The endpoint that a user endpoint belongs to.
        state: What its last heartbeat said.
        seen: When that was, as Unix time.
        ready: Whether there was a heartbeat yet.
    """

    id: str
    data: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    seen: float = 0.0

    def heartbeat(self, state: Mapping[str, Any]) -> None:
        """It lives.

        The last heartbeat of a clean stop says `active: false`
        (globus_compute_endpoint/endpoint/interchange.py, `heartbeat`).
        """
        self.state = state
        self.seen = time.time()

    @property
    def online(self) -> bool:
        """Whether its heartbeats are fresh."""
        period = float(self.state.get("heartbeat_period", 30.0))
        return bool(self.state.get("active", True)) and time.time() - self.seen < _STALE * period


@dataclass(slots=True)
class Task:
    """One task.

    Attributes:
        id: Its id.
        function_id: What it calls.
        group_id: Its task group.
        endpoint_id: The endpoint it was submitted to.
        user_endpoint_id: The user endpoint that runs it.
        completed: When its result came, as Unix time.
        failed: Whether the result is an error.
        data: The result as the worker packed it, or the error's text.
        details: What the worker told of itself.
        abandoned: Whether nobody asked for the result in time.
    """

    id: str
    function_id: str
    group_id: str
    endpoint_id: str
    user_endpoint_id: str
    completed: float | None = None
    failed: bool = False
    data: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    abandoned: bool = False

    def complete(self, data: str, *, failed: bool, details: Mapping[Any, Any] | None) -> None:
        """Its result came."""
        self.completed, self.data, self.failed = time.time(), data, failed
        self.details = {str(key): str(value) for key, value in (details or {}).items()}

    def expire(self, retention: float) -> None:
        """Give the result up if it is older than the retention, in seconds."""
        if self.completed is not None and time.time() - self.completed > retention:
            self.abandoned, self.failed = True, True
            self.data = "The result was abandoned: nobody fetched it in time."

    def to_json(self) -> dict[str, Any]:
        """As the SDK reads it (globus_compute_sdk/sdk/executor.py, `_load_tasks_status`)."""
        if self.completed is None:
            return {"task_id": self.id, "status": "waiting-for-ep"}
        return {
            "task_id": self.id,
            "status": "failed" if self.failed else "success",
            "completion_t": str(self.completed),
            "details": dict(self.details),
            ("exception" if self.failed else "result"): self.data,
        }


class Store:
    """All that the service knows."""

    def __init__(self) -> None:
        self.functions: dict[str, Function] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.tasks: dict[str, Task] = {}
        self.groups: dict[str, list[str]] = {}
        self.queued_groups: set[str] = set()
        """Groups whose results go to a queue, too; the others are only polled for."""

    def open_tasks(self, user_endpoint_id: str) -> list[Task]:
        """The tasks that a user endpoint still owes."""
        return [
            task
            for task in self.tasks.values()
            if task.user_endpoint_id == user_endpoint_id and task.completed is None
        ]


def new_id() -> str:
    """An id as the service makes them."""
    return str(uuid.uuid4())
