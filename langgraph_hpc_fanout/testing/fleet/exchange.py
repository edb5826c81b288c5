"""A chat request on its way through an endpoint, and what endpoints remember of others."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from langgraph_hpc_fanout.testing.fleet.faults import Attempt, Dice, Fault
from langgraph_hpc_fanout.testing.fleet.protocol import Connection
from langgraph_hpc_fanout.testing.fleet.record import Ledger

_NOT_READ = Attempt({}, "", 0, 0)


class Exchange:
    """A chat request from its arrival to its end.

    Args:
        connection: Where it came from.

    Attributes:
        arrived: When, in seconds of `time.monotonic()`.
        reused: Whether the connection had carried a request before.
        attempt: What was asked, once it was read.
        fault: What goes wrong with it.
        has_slot: Whether it is being worked on.
        status: HTTP status of the answer that was begun; 0 before.
        timer: What happens to it next.
    """

    __slots__ = (
        "arrived",
        "attempt",
        "connection",
        "fault",
        "has_slot",
        "reused",
        "status",
        "timer",
    )

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.arrived = time.monotonic()
        self.reused = connection.requests > 0
        self.attempt = _NOT_READ
        self.fault: Fault | None = None
        self.has_slot = False
        self.status = 0
        self.timer: asyncio.Handle | None = None


@dataclass(slots=True)
class Memory:
    """What the endpoints of one process share.

    Attributes:
        ledger: The record that they write to.
        dice: Their seeded chances.
        counts_prompts: Whether anything depends on how often a prompt was asked; if not, a
            benchmark of millions need not remember them.
        asked: How often each prompt was asked, by its hash.
    """

    ledger: Ledger
    dice: Dice
    counts_prompts: bool = False
    asked: dict[int, int] = field(default_factory=dict)

    def nth(self, prompt: str) -> int:
        """How often the prompt was asked before; counts this time."""
        if not self.counts_prompts:
            return 0
        key = hash(prompt)
        before = self.asked.get(key, 0)
        self.asked[key] = before + 1
        return before
