"""At the quotas that FIRST has by default: nearly all that is allowed, with hardly a refusal.

In virtual time, over the fake gateway's own counts of requests and tokens. Everything else is what
runs in production: the limits that an endpoint says of itself, the faults that it reads, lanes.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import orjson
import pytest
from scripted import Dispatch, Items, in_virtual_time, now

from langgraph_hpc_fanout import FirstEndpoint
from langgraph_hpc_fanout.endpoints.first.catalogue import Card, Served
from langgraph_hpc_fanout.endpoints.http import Answer
from langgraph_hpc_fanout.endpoints.protocol import Health
from langgraph_hpc_fanout.testing.first import UsageLimits, errors
from langgraph_hpc_fanout.testing.first.admission import Account
from langgraph_hpc_fanout.testing.first.quotas import Rate, Throttle, TokenWindow

MODEL = "m"
ROOT = "https://gateway/resource_server"
ROOT_2 = "https://gateway/api"
PROMPT_TOKENS = 20
MAX_TOKENS = 1_000
ALLOWED_TOKENS = 60_000


@dataclass
class Gate:
    """What a gateway counts of one user.

    Attributes:
        tokens: Tokens of an answer.
        seconds: Seconds that it takes.
    """

    tokens: int = 50
    seconds: float = 0.5
    dice: random.Random = field(default_factory=lambda: random.Random(7))
    arrived: list = field(default_factory=list)
    refused: list = field(default_factory=list)
    used: int = 0

    async def ask(self, model):
        """One request on its way there and back, which is a little longer each time."""
        await asyncio.sleep(self.dice.uniform(0.005, 0.025))
        self.arrived.append(now())
        refusal = self.admit(model)
        if refusal is not None:
            self.refused.append(now())
            wait = refusal.headers.get("Retry-After")
            return Answer(refusal.status, refusal.body, None if wait is None else float(wait))
        await asyncio.sleep(self.seconds * self.dice.lognormvariate(0.0, 0.5))
        self.settle(model)
        self.used += self.tokens
        usage = {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": self.tokens - PROMPT_TOKENS,
            "total_tokens": self.tokens,
        }
        choices = [{"message": {"content": "yes"}, "finish_reason": "stop"}]
        return Answer(200, orjson.dumps({"choices": choices, "usage": usage}), None)


@dataclass
class First(Gate):
    """Version 1: 10 requests a second over all models, 60,000 tokens a minute for each."""

    def __post_init__(self):
        self.throttle = Throttle(Rate.parse("10/s"))
        self.windows = {}

    def admit(self, model):
        if not self.throttle.admit(now()):
            return errors.throttled()
        window = self.windows.setdefault(model, TokenWindow())
        if window.used(now()) >= ALLOWED_TOKENS:
            return errors.too_many_tokens(0, window.used(now()))
        return None

    def settle(self, model):
        self.windows[model].add(now(), self.tokens)


@dataclass
class Second(Gate):
    """Version 2: 8 at once, 120 requests and 100,000 tokens a minute, reserved before."""

    def __post_init__(self):
        self.account = Account(UsageLimits())

    def admit(self, model):
        refused = self.account.check(now(), PROMPT_TOKENS + MAX_TOKENS)
        if refused is not None:
            return errors.busy(refused.reason, max(1, round(refused.wait or 1.0)))
        self.account.admit(now(), PROMPT_TOKENS + MAX_TOKENS)
        return None

    def settle(self, model):
        self.account.settle(now(), PROMPT_TOKENS + MAX_TOKENS, self.tokens)


class Door(FirstEndpoint):
    """An endpoint without sockets, with the limits that it has by itself."""

    def __init__(self, gate, cluster="sophia", root=ROOT):
        super().__init__(cluster, model=MODEL, base_url=root, token="t")
        self._gate = gate

    async def open(self):
        pass

    async def probe(self):
        self._served, self.models = Served(self._cluster, "vllm", MODEL), {MODEL: MODEL}
        assert self.limits == self._limits(Card()), "the known defaults"
        return Health(ok=True)

    async def _post(self, served, body):
        return await self._gate.ask(served.cluster)


async def ask(count, *doors):
    """Ask for so many items; returns the seconds that it took."""
    async with Dispatch(*doors) as dispatch:
        begun = now()
        items = await dispatch.ask(Items(count, model=MODEL, max_tokens=MAX_TOKENS))
        assert items.aborted is None
        assert items.kinds == {None: count}
        return now() - begun


def share_refused(gate):
    return len(gate.refused) / len(gate.arrived)


@pytest.mark.parametrize("clusters", [("sophia",), ("sophia", "metis", "minerva")])
@in_virtual_time
async def test_ten_requests_a_second_of_a_user_over_all_clusters(clusters):
    gate = First(tokens=50)
    seconds = await ask(3_000, *(Door(gate, cluster) for cluster in clusters))
    assert 3_000 / (10 * seconds) >= 0.95
    assert share_refused(gate) < 0.02


@pytest.mark.parametrize("tokens", [150, 600, 1_020])
@in_virtual_time
async def test_sixty_thousand_tokens_a_minute_in_fixed_windows(tokens):
    gate = First(tokens=tokens, seconds=tokens / 100)
    count = 12 * ALLOWED_TOKENS // tokens
    seconds = await ask(count, Door(gate))
    windows = gate.windows["sophia"].totals[2:-1]
    assert sum(windows) / (len(windows) * ALLOWED_TOKENS) >= 0.95
    assert count * tokens / (ALLOWED_TOKENS * seconds / 60) >= 0.9, "the first windows included"
    assert share_refused(gate) < 0.02


@pytest.mark.parametrize("tokens", [50, 800])
@in_virtual_time
async def test_three_hundred_calls_at_the_second_versions_quotas(tokens):
    gate = Second(tokens=tokens, seconds=2.0)
    seconds = await ask(300, Door(gate, "federated", ROOT_2))
    assert 300 / (2 * seconds) >= 0.95
    assert share_refused(gate) < 0.02
