"""What the parts of a batch endpoint share: whether it is of use, its pauses and its words."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from langgraph_hpc_fanout.endpoints.first.gateway import Gateway
from langgraph_hpc_fanout.endpoints.http import Answer, HttpClient
from langgraph_hpc_fanout.endpoints.protocol import FateUnknownError
from langgraph_hpc_fanout.records import Failure, Request

TRIES = 3
"""Of what may be otherwise in a moment, before it is given up or warned of."""
_MOST_BACKOFF = 2.0**6


class TroubleError(Exception):
    """A batch that brings no answers.

    Attributes:
        failure: Why.
        may_cost: Whether the gateway has the batch, or may have it.
        is_over: Whether it is known to have failed, so that it may be asked again.
    """

    def __init__(self, failure: Failure, *, may_cost: bool = True, is_over: bool = False) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.may_cost = may_cost
        self.is_over = is_over


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that the gateway has.

    Attributes:
        name: Our name of it, which is in the name of its file.
        id: The gateway's.
        requests: Its requests, in the order of their positions.
        at: When it was sent, in seconds since the epoch.
    """

    name: str
    id: str
    requests: Sequence[Request]
    at: float


class BatchState:
    """How one endpoint stands.

    Args:
        name: The endpoint's.
        gateway: The gateway.
        client: Whose connections it uses.
        poll: Seconds between two looks.

    Attributes:
        unusable: Why it can send nothing any more, until it is closed.
        not_ready: Why the last submit was refused, where only another submit tells more.
        in_doubt: Why nobody knows whether the last was submitted; until the gateway tells of
            batches again, each might be as unknown as that.
    """

    def __init__(self, name: str, gateway: Gateway, client: HttpClient, poll: float) -> None:
        self.name = name
        self.poll = poll
        self.unusable: Failure | None = None
        self.not_ready: Failure | None = None
        self.in_doubt: Failure | None = None
        self._gateway = gateway
        self._client = client
        self._failed_in_a_row = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None

    def open(self) -> None:
        """Make it possible to wait on the running loop."""
        loop = asyncio.get_running_loop()
        if self._closing is None or self._loop is not loop:
            self._loop, self._closing = loop, asyncio.Event()

    def close(self) -> None:
        """End all pauses; what stood in the way may be otherwise when it is opened again."""
        closing, self._closing = self._closing, None
        self.unusable = self.not_ready = self.in_doubt = None
        if closing is not None and self._loop is asyncio.get_running_loop():
            closing.set()

    async def nap(self, seconds: float, doubt: str = "") -> None:
        """Wait, but not beyond the endpoint's closing.

        Args:
            seconds: How long.
            doubt: What of a batch is unknown for as long as it is not looked at, if anything.

        Raises:
            TroubleError: If it was closed.
            FateUnknownError: If that leaves something in doubt.
        """
        if await self._stays_open(seconds):
            return
        closed = self.transient("it was closed.")
        if doubt:
            raise FateUnknownError(self.unknown(doubt, closed.message))
        raise TroubleError(closed)

    async def _stays_open(self, seconds: float) -> bool:
        if self._closing is None:
            return False
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return True
        return False

    # -- batches in a row -----------------------------------------------------------------

    def brought_answers(self) -> None:
        """A batch has brought an answer."""
        self._failed_in_a_row = 0

    def brought_nothing(self) -> float:
        """One more batch has brought no answer; returns how long to wait before the next."""
        self._failed_in_a_row += 1
        return self.poll * min(2.0 ** (self._failed_in_a_row - 1), _MOST_BACKOFF)

    # -- words ----------------------------------------------------------------------------

    def give_up(self, failure: Failure) -> Failure:
        """Send nothing any more, until the endpoint is closed; returns why, for requests."""
        self.unusable = replace(failure, kind="cold")
        return self.unusable

    def cold(self, message: str) -> Failure:
        """Nothing can be sent now."""
        return self._client.failure("cold", f"{self.name}: {message}")

    def transient(self, message: str) -> Failure:
        """It may be otherwise the next time."""
        return self._client.failure("transient", f"{self.name}: {message}")

    def unknown(self, what: str, why: str) -> Failure:
        """Nobody tells what has become of a batch."""
        return self.transient(
            f"{what} is unknown: {why} Nothing of it is asked again, for that may pay twice; "
            "start the same program again once the gateway is well."
        )

    def failure_from(self, error: Exception) -> Failure:
        """What an exchange that ended without an answer means."""
        return self._client.failure_from(error)

    def failure_of(self, answer: Answer) -> Failure:
        """What an answer other than 200 means."""
        return self._gateway.failure_of(self._client, answer)
