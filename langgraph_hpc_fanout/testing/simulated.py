"""Endpoints that are simulated: no sockets, no threads, only timers on the running loop.

```python
from langgraph_hpc_fanout.testing.schedules import Cold, Slow
from langgraph_hpc_fanout.testing.simulated import SimulatedEndpoint, fleet

late = SimulatedEndpoint("late", faults=[Cold(until=720.0)])
hundred = fleet(100, slots=16, shares={Slow(factor=3.0): 0.05}, seed=1)
```

On a loop of `virtual_time` a thousand of them serve an hour of requests in seconds, and take the
same course every time. They work on any other loop, too, at its pace.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from statistics import NormalDist

from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.endpoints.models import Models, as_mapping, id_of
from langgraph_hpc_fanout.endpoints.protocol import Bundling, Health
from langgraph_hpc_fanout.records import Failure, Reply, Request, Usage
from langgraph_hpc_fanout.testing.schedules import (
    Away,
    BackendGone,
    Fault,
    Frozen,
    Schedule,
    Storm,
)

_normal_quantile = NormalDist().inv_cdf
_HASHES = 2.0**64


@dataclass(frozen=True, slots=True)
class Workload:
    """How much work requests are: lognormal, as lengths of answers are.

    The same request is the same work at every endpoint and every time it is asked.

    Attributes:
        median: Seconds that half of the requests stay below.
        sigma: Spread; with 0.8 one request in a hundred takes 6.4 times the median.
        tokens_per_second: Tokens that are written in a second of work.
        seed: Other seeds give the same requests other work.
    """

    median: float = 5.0
    sigma: float = 0.8
    tokens_per_second: float = 50.0
    seed: int = 0

    def seconds(self, key: str) -> float:
        """Seconds of work that a request is, told by its key."""
        digest = blake2b(f"{self.seed} {key}".encode(), digest_size=8).digest()
        # Half a step up, because chances of 0 and 1 have no quantile; 1 is what rounding may make.
        chance = min((int.from_bytes(digest, "little") + 0.5) / _HASHES, 1 - 2**-53)
        return self.median * math.exp(self.sigma * _normal_quantile(chance))

    def tokens(self, seconds: float) -> int:
        """Tokens of an answer that is so much work."""
        return max(1, round(seconds * self.tokens_per_second))


class SimulatedEndpoint:
    """A server of an LLM with slots, a queue and faults, all in one process and its time.

    Like vLLM it accepts more requests than it works on, and keeps them in the order in which they
    came. An answer's text is the key of its request. `max_tokens` cuts nothing off.

    Args:
        name: Its name.
        slots: Requests that it works on at once, each as fast as one alone.
        workload: How much work requests are.
        faults: What is wrong with it, and when.
        models: What it serves: a mapping of logical names to ids, or ids.
        limits: What may be asked of it; by default as much at once as there are slots.

    Attributes:
        in_flight: Requests that are worked on, wait, or will never be answered.
        peak: The most there were of these.
        asked: Requests that have come, those that were turned away included.
        answered: Requests that have an answer.
        written: Tokens of answers, those included that were written before a request was
            cancelled or lost.

    Raises:
        ValueError: If it has no slot.
    """

    bundling = Bundling()

    def __init__(
        self,
        name: str = "simulated",
        *,
        slots: int = 16,
        workload: Workload = Workload(),
        faults: Sequence[Fault] = (),
        models: Models = "simulated",
        limits: Limits | None = None,
    ) -> None:
        if slots < 1:
            raise ValueError(f"SimulatedEndpoint(slots={slots!r}) must be at least 1.")
        self.name = name
        self.slots = slots
        self.workload = workload
        self.models = as_mapping(models)
        self.limits = Limits(concurrency=slots) if limits is None else limits
        self.in_flight = self.peak = 0
        self.asked = self.answered = 0
        self.written = 0.0
        self._schedule = Schedule(faults) if faults else None
        self._busy = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    def __repr__(self) -> str:
        return f"SimulatedEndpoint({self.name!r}, {self.slots} slots, {self.in_flight} in flight)"

    async def open(self) -> None:
        """Nothing is to be got ready."""

    async def close(self) -> None:
        """Nothing is to be let go of."""

    async def probe(self) -> Health:
        """Whether it is there; while it is frozen that is never told."""
        if self._schedule is not None:
            now = asyncio.get_running_loop().time()
            fault = self._schedule.find(now, Away, Frozen)
            if isinstance(fault, Away):
                return Health(ok=False, failure=self._refusal(fault))
            if fault is not None:
                await _forever()
        return Health(ok=True)

    async def send(self, requests: Sequence[Request]) -> AsyncIterator[Reply]:
        """Answer each in turn; a bundle has one unless the caller says otherwise."""
        for position, request in enumerate(requests):
            yield await self._ask(position, request)

    async def _ask(self, position: int, request: Request) -> Reply:
        self.asked += 1
        self.in_flight += 1
        if self.in_flight > self.peak:
            self.peak = self.in_flight
        try:
            if id_of(self.models, request.model) is None:
                message = f"{self.name} does not serve the model {request.model!r}."
                return Reply(position, failure=Failure("cold", message, 404, True, self.name))
            if self._schedule is not None:
                now = asyncio.get_running_loop().time()
                fault = self._schedule.find(now, Away, Frozen, BackendGone, Storm)
                if fault is not None:
                    return await self._meet(position, fault)
            await self._wait_for_slot()
            try:
                done = await self._work(position, request)
            finally:
                self._give_slot_back()
            return done if isinstance(done, Reply) else await self._lose(position, done)
        finally:
            self.in_flight -= 1

    # -- slots ----------------------------------------------------------------------------

    async def _wait_for_slot(self) -> None:
        if self._busy < self.slots:
            self._busy += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_slot_back()  # it came in the same moment
            raise

    def _give_slot_back(self) -> None:
        """Let the next in the queue begin; those who have left are still in it."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._busy -= 1

    # -- work -----------------------------------------------------------------------------

    async def _work(self, position: int, request: Request) -> Reply | Fault:
        """The answer, or what it is lost by."""
        loop, schedule = asyncio.get_running_loop(), self._schedule
        begun = loop.time()
        work = self.workload.seconds(request.key)
        end, fault = begun + work, None
        if schedule is not None:
            end, fault = schedule.finish(begun, work)
        try:
            await asyncio.sleep(end - begun)
        except asyncio.CancelledError:
            self._write_part(begun, loop.time())
            raise
        if fault is not None:
            self._write_part(begun, end)
            return fault
        tokens = self.workload.tokens(work)
        self.answered += 1
        self.written += tokens
        message = {"role": "assistant", "content": request.key}
        body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        return Reply(position, body=body, usage=Usage(request.prompt_tokens, tokens))

    def _write_part(self, begun: float, end: float) -> None:
        """Tokens of an answer that nobody gets."""
        done = end - begun
        if self._schedule is not None:
            done = self._schedule.work_done(begun, end)
        self.written += done * self.workload.tokens_per_second

    # -- faults ---------------------------------------------------------------------------

    async def _meet(self, position: int, fault: Fault) -> Reply:
        """A request comes while something is wrong."""
        if isinstance(fault, Away):
            return Reply(position, failure=self._refusal(fault))
        if isinstance(fault, Storm):
            message = f"{self.name} has too many requests."
            failure = Failure("rate_limited", message, 429, True, self.name)
            return Reply(position, failure=failure, retry_after=fault.retry_after)
        return await self._lose(position, fault)

    async def _lose(self, position: int, fault: Fault) -> Reply:
        """A request is there when something goes wrong."""
        if isinstance(fault, Frozen):
            await _forever()
        if isinstance(fault, BackendGone):
            await asyncio.sleep(fault.after)
            message = f"{self.name} has heard nothing from the server behind it."
            return Reply(position, failure=Failure("transient", message, 504, True, self.name))
        message = f"{self.name} has lost the connection."
        return Reply(position, failure=Failure("transient", message, None, True, self.name))

    def _refusal(self, fault: Away) -> Failure:
        return Failure("cold", f"{self.name} {fault.why}.", None, True, self.name)


def fleet(
    count: int,
    *,
    slots: int = 16,
    workload: Workload = Workload(),
    shares: Mapping[Fault, float] = {},
    faults: Sequence[Fault] = (),
    models: Models = "simulated",
    seed: int = 0,
) -> list[SimulatedEndpoint]:
    """Endpoints that are alike, but for what is wrong with some.

    Args:
        count: How many.
        slots: Requests that each works on at once.
        workload: How much work requests are.
        shares: Faults, and the share of the endpoints that has each; none has two of them.
        faults: Faults that all have, such as the end of a walltime.
        models: What they serve.
        seed: Which of them have the faults.

    Raises:
        ValueError: If the shares are more than all of them.
    """
    own: list[Fault | None] = []
    for fault, share in shares.items():
        own += [fault] * round(share * count)
    if len(own) > count:
        raise ValueError(f"fleet({count}, shares=...) has faults for {len(own)} endpoints.")
    own += [None] * (count - len(own))
    random.Random(seed).shuffle(own)
    digits = len(str(count - 1))
    return [
        SimulatedEndpoint(
            f"simulated-{number:0{digits}}",
            slots=slots,
            workload=workload,
            faults=faults if fault is None else (fault, *faults),
            models=models,
        )
        for number, fault in enumerate(own)
    ]


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()
