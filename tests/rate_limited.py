"""Servers that limit rates, in virtual time, and a lane's worth of clients that keep to them."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from dataclasses import dataclass, field

from langgraph_hpc_fanout.dispatch.estimates import Estimates
from langgraph_hpc_fanout.dispatch.pacing.bucket import TokenBucket
from langgraph_hpc_fanout.dispatch.pacing.gate import Gate
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.records import Request, Usage

ROUND_TRIP = 0.05


def now():
    return asyncio.get_running_loop().time()


class RollingServer:
    """Token buckets for requests and tokens, charged at admission with what will be used."""

    def __init__(self, requests=None, tokens=None, *, burst_seconds=10.0, tells=False):
        rates = [(1.0, requests), (None, tokens)]
        self._buckets = [
            (amount, TokenBucket(per_minute / 60, per_minute / 60 * burst_seconds, 0.0))
            for amount, per_minute in rates
            if per_minute is not None
        ]
        self._tells = tells

    def admit(self, tokens):
        """Whether a request may come in, and the seconds to wait that it is told if not."""
        wait = max(bucket.delay(now(), amount or tokens) for amount, bucket in self._buckets)
        if wait > 0:
            return False, wait if self._tells else None
        for amount, bucket in self._buckets:
            bucket.charge(now(), amount or tokens)
        return True, None

    def answered(self, tokens):
        pass


class GridServer:
    """Windows from edge to edge of a clock that is not ours.

    Requests are counted when they come, tokens when they were used, and nothing comes in once
    one of them has reached its quota.
    """

    def __init__(self, requests=math.inf, tokens=math.inf, *, phase=0.0):
        self._most = requests, tokens
        self._phase = phase
        self.windows = Counter(), Counter()

    def _window(self):
        return (now() + self._phase) // 60.0

    def admit(self, tokens):
        window = self._window()
        if any(used[window] >= most for used, most in zip(self.windows, self._most, strict=True)):
            return False, None
        self.windows[0][window] += 1
        return True, None

    def answered(self, tokens):
        self.windows[1][self._window()] += tokens


class FirstServer:
    """FIRST's tokens per minute: counted after the answer, in windows that an answer opens.

    After `resource_server_async/rate_limiters.py` of auroraGPT-ANL/inference-gateway: a key
    that expires 60 s after it was first set, and requests come in while it is below the limit.
    """

    def __init__(self, tokens):
        self._most = tokens
        self._used = 0
        self._expires = -math.inf

    def admit(self, tokens):
        return now() >= self._expires or self._used < self._most, None

    def answered(self, tokens):
        if now() >= self._expires:
            self._used, self._expires = 0, now() + 60.0
        self._used += tokens


@dataclass(frozen=True)
class Prompts:
    """Prompts of one kind: their answers' lengths are lognormal."""

    name: str
    prompt_tokens: int
    median: float
    sigma: float
    max_tokens: int
    token_seconds: float = 0.02

    def request(self, key):
        guess = round(0.8 * self.prompt_tokens)  # four characters a token is a guess
        return Request(key, "m", {}, guess, self.max_tokens)

    def usage(self, dice):
        length = round(dice.lognormvariate(math.log(self.median), self.sigma))
        return Usage(self.prompt_tokens, min(max(length, 1), self.max_tokens))


SHORT = Prompts("short", 120, 40, 0.6, 1024)
LONG = Prompts("long", 200, 500, 0.8, 8192)


@dataclass
class Tally:
    """What came of it after the warm-up."""

    since: float
    answers: int = 0
    tokens: int = 0
    refused: int = 0
    sends: list = field(default_factory=list)

    def note(self, usage):
        if now() < self.since:
            return
        if usage is None:
            self.refused += 1
        else:
            self.answers += 1
            self.tokens += usage.total_tokens

    @property
    def share_refused(self):
        return self.refused / (self.answers + self.refused)


async def ask_for(seconds, server, limits, prompts, *, seed=0, warm_up=120.0, workers=64):
    """Ask all the time, as a lane does, for the warm-up and so many seconds more."""
    dice = random.Random(seed)
    gate, estimates, tally = Gate(limits, now), Estimates(), Tally(now() + warm_up)

    async def work():
        while True:
            kind = dice.choice(prompts)
            request, usage = kind.request("k"), kind.usage(dice)
            refusals = 0
            while not await attempt(kind, request, usage):
                refusals += 1
                await asyncio.sleep(Retry().backoff(refusals, dice))

    async def attempt(kind, request, usage):
        async with gate:
            charged = estimates.tokens(kind.name, request)
            await gate.admit(charged)
            gate.charge(charged)
        started = now()
        tally.sends.append(started)
        await asyncio.sleep(ROUND_TRIP / 2)
        admitted, retry_after = server.admit(usage.total_tokens)
        if admitted:
            await asyncio.sleep(0.3 + kind.token_seconds * usage.completion_tokens)
            server.answered(usage.total_tokens)
        await asyncio.sleep(ROUND_TRIP / 2)
        tally.note(usage if admitted else None)
        gate.settle(charged, float(usage.total_tokens) if admitted else 0.0)
        if admitted:
            estimates.learn(kind.name, request, usage, now() - started)
        else:
            gate.refused(now(), retry_after)
        return admitted

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    await asyncio.sleep(warm_up + seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return tally


async def somebody_else(server, tokens_per_minute, tally, *, each=500, seed=1):
    """Another user of the same quota, who asks at random and never again what was refused."""
    dice = random.Random(seed)
    while True:
        await asyncio.sleep(dice.expovariate(tokens_per_minute / 60 / each))
        if server.admit(each)[0]:
            server.answered(each)
            tally.note(Usage(each))
