"""An inference request on its way through the gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langgraph_hpc_fanout.testing.first.clock import Timer
from langgraph_hpc_fanout.testing.first.faults import Fault
from langgraph_hpc_fanout.testing.first.record import Seen
from langgraph_hpc_fanout.testing.first.site import Site
from langgraph_hpc_fanout.testing.fleet.faults import Attempt
from langgraph_hpc_fanout.testing.fleet.protocol import Connection

_NOT_READ = Attempt({}, "", 0, 0)


class Exchange:
    """An inference request from its arrival to its end.

    Args:
        connection: Where it came from.
        endpoint: The OpenAI endpoint that it wants.
        arrived: When, in seconds of the fake's clock.

    Attributes:
        user: Who asks, once that is known.
        attempt: What is asked, once that was read.
        site: The model that is asked, once it was found.
        fault: What goes wrong with it.
        status: HTTP status of the answer that was begun; 0 before.
        reason: How it ended, see `ModelRecord.refused`.
        tokens: Tokens of its answer.
        task: Id of its Globus Compute task, or empty.
        timer: What happens to it next.
        open: Whether its client still waits.
        soon: Whether its answer is known to come before the gateway's patience ends.
    """

    __slots__ = (
        "arrived",
        "attempt",
        "connection",
        "endpoint",
        "fault",
        "open",
        "reason",
        "site",
        "soon",
        "status",
        "task",
        "timer",
        "tokens",
        "user",
    )

    def __init__(self, connection: Connection, endpoint: str, arrived: float) -> None:
        self.connection = connection
        self.endpoint = endpoint
        self.arrived = arrived
        self.user = ""
        self.attempt = _NOT_READ
        self.site: Site | None = None
        self.fault: Fault | None = None
        self.status = 0
        self.reason = "left"
        self.tokens = 0
        self.task = ""
        self.timer: Timer | None = None
        self.open = True
        self.soon = False

    @property
    def body(self) -> Mapping[str, Any]:
        """The request's JSON."""
        return self.attempt.body

    @property
    def streams(self) -> bool:
        """Whether the answer is to be streamed."""
        return self.attempt.body.get("stream") is True

    def cancel_timer(self) -> None:
        """Let nothing more happen to it by itself."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def row(self, now: float, *, closed_early: bool) -> Seen:
        """What the record keeps of it."""
        return Seen(
            user=self.user,
            cluster=self.site.cluster.name if self.site is not None else "",
            model=self.site.model.name if self.site is not None else "",
            endpoint=self.endpoint,
            arrived=self.arrived,
            ended=now,
            status=self.status,
            reason=self.reason,
            prompt=self.attempt.prompt,
            tokens=self.tokens,
            stream=self.streams,
            closed_early=closed_early,
            task=self.task,
        )
