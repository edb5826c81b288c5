"""What the service saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Submit:
    """One submit request.

    Attributes:
        time: When it came, as Unix time.
        size: Bytes of its body.
        tasks: How many tasks it held.
        endpoint_id: Where they should run.
        task_group_id: Their group.
        user_endpoint_config: What it asked of the user endpoint.
        task_ids: The tasks that it made; none if it was refused.
        status: The status that it was answered with.
        fault: The fault that struck it.
    """

    time: float
    size: int
    tasks: int
    endpoint_id: str
    task_group_id: str
    user_endpoint_config: Mapping[str, Any]
    task_ids: tuple[str, ...]
    status: int
    fault: str | None


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """Everything since the start or the last `reset`.

    Attributes:
        submits: The submit requests, in order.
        requests: Requests per route.
        statuses: Answers per status.
        results: Results that endpoints sent, failed starts included.
        starts: Starts of user endpoints, restarts included.
        most_in_window: The most requests of one client within 10 seconds.
    """

    submits: tuple[Submit, ...]
    requests: Mapping[str, int]
    statuses: Mapping[int, int]
    results: int
    starts: int
    most_in_window: int

    @property
    def tasks(self) -> int:
        """How many tasks were taken on."""
        return sum(len(submit.task_ids) for submit in self.submits)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ServiceRecord:
        """The record that the service's control route sent."""
        submits = tuple(
            Submit(**{**submit, "task_ids": tuple(submit["task_ids"])})
            for submit in data["submits"]
        )
        statuses = {int(status): count for status, count in data["statuses"].items()}
        return cls(**{**data, "submits": submits, "statuses": statuses})


@dataclass(slots=True)
class Recorder:
    """The record while it grows."""

    submits: list[Submit] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    results: int = 0
    starts: int = 0
    most_in_window: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "submits": [asdict(submit) for submit in self.submits],
            "requests": dict(self.requests),
            "statuses": dict(self.statuses),
            "results": self.results,
            "starts": self.starts,
            "most_in_window": self.most_in_window,
        }
