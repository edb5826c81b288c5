"""One model on one cluster behind FIRST, as an endpoint."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

from langgraph_hpc_fanout.endpoints.chat import read_completion, usage_of, wire_body
from langgraph_hpc_fanout.endpoints.credentials import ApiKey
from langgraph_hpc_fanout.endpoints.first.catalogue import (
    Card,
    Served,
    read_card,
)
from langgraph_hpc_fanout.endpoints.first.faults import Fault, fault_of
from langgraph_hpc_fanout.endpoints.first.gateway import CATALOGUE_SECONDS, gateway_of
from langgraph_hpc_fanout.endpoints.first.jobs import standing_of
from langgraph_hpc_fanout.endpoints.http import EXCHANGE_ERRORS, Answer, shown
from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.endpoints.price import Price
from langgraph_hpc_fanout.endpoints.protocol import Action, Bundling, Health
from langgraph_hpc_fanout.endpoints.tags import Tags, as_tags
from langgraph_hpc_fanout.records import Failure, FailureKind, Reply, Request

MODEL_VARIABLE = "FIRST_MODEL"

_POLL_SECONDS = 60.0
"""The gateway itself gives the same answer about jobs for as long."""
_WAKE_AGAIN_SECONDS = 600.0
"""For as long after a wake-up the gateway turns away everybody else (FIRST main 329c0cd)."""
_QUICK_SECONDS = 3.0
"""What a model that runs, or is not there at all, takes for a wake-up's answer."""
_MOST_BYTES = 10 * 2**20
"""Of a request: what Globus Compute takes (ALCF user guide 7d04a3f)."""
_RESERVED = frozenset(
    {
        "api_port",
        "cache_salt",
        "openai_endpoint",
        "stream_task_id",
        "stream_task_token",
        "streaming_server_host",
        "streaming_server_port",
        "streaming_server_protocol",
    }
)
"""Keys of a body that the gateway refuses with 422."""

_WORKERS = 100
"""Requests at once on a Globus Compute endpoint of the gateway's (FIRST main 329c0cd)."""
_REQUESTS = "9.7/s"
"""A little less than the 10/s of a user, which are counted over any second: at the very rate a
millisecond of jitter is a refusal."""
_TOKENS = 60_000
"""Per minute, user and model, where the gateway does not tell (FIRST main 329c0cd)."""
_SECOND_CONCURRENCY = 8
_SECOND_REQUESTS = "120/min"
_SECOND_BURST = 2
_SECOND_TOKENS = "100000/min"
"""Of version 2, for each user and model (FIRST firstv2 a2835a8); it tells nobody what is in
force. It lets 10 requests through at once; two are a second's worth."""
_NOT_THERE = 503
"""In maintenance, offline, or not ready."""


class FirstEndpoint:
    """A model on a cluster behind FIRST, ALCF's inference gateway.

    Framework and id are found in the gateway's list, limits read from what it tells of the model.
    A model that is not loaded is woken by one request, and waited for while other lanes work.
    Answers are never streamed.

    Args:
        cluster: The cluster, such as `sophia`; of version 2, whose address ends in `/api`, also
            `federated`, for whichever has room.
        framework: The framework; needed only where a cluster serves the model by several.
        model: The model's logical name, such as `gpt-oss-120b`: its id there, or the last part
            of it. Version 2 has no list in which to find it and needs the id. By default what
            `FIRST_MODEL` says.
        base_url: The gateway; by default `FIRST_API_BASE`, else ALCF's.
        token: The token, the name of an environment variable that holds it, a source of tokens,
            or a function, sync or async, that returns one. By default what `find_token_source`
            finds: `FIRST_API_KEY`, or a login.
        limits: What may be asked of it; `"discover"` for what the gateway tells, and its known
            defaults where it tells nothing.
        name: Name in logs and outcomes; by default cluster and model.
        tags: Words by which tasks require or forbid it.
        price: What it costs; needed where a budget is in dollars or node-hours.

    Raises:
        ValueError: If no model is named, or the address is no URL.

    Example:
        ```python
        FirstEndpoint("sophia", model="gpt-oss-120b")
        ```
    """

    bundling = Bundling()
    actions: Mapping[FailureKind, Action] = MappingProxyType({"timeout": Action.TRY_LAST})
    """A request that the gateway has given up still runs there, and takes as long elsewhere."""

    def __init__(
        self,
        cluster: str,
        framework: str | None = None,
        model: str | None = None,
        *,
        base_url: str | None = None,
        token: ApiKey | None = None,
        limits: Limits | Literal["discover"] = "discover",
        name: str | None = None,
        tags: Tags = (),
        price: Price | None = None,
    ) -> None:
        wanted = model_named(model, f"FirstEndpoint({cluster!r})")
        self._model = wanted
        self._cluster = cluster
        self._framework = framework
        self._gateway = gateway_of(base_url, token)
        self.name = name or f"{cluster}/{wanted.rpartition('/')[2]}"
        self._http = self._gateway.client(self.name)
        self._discovers = limits == "discover"
        self.limits = self._limits(Card()) if isinstance(limits, str) else limits
        self.tags = as_tags(tags, self.name)
        self.price = price
        self.models: Mapping[str, str] = {}
        self.context_limits: Mapping[str, int] = {}
        self._served: Served | None = None
        self._waking: asyncio.Task[Fault | None] | None = None
        self._woken_at: float | None = None
        self._cold_until = float("-inf")

    def __repr__(self) -> str:
        where = shown(self._gateway.root)
        return f"FirstEndpoint({self._cluster!r}, model={self._model!r}, base_url={where!r})"

    async def open(self) -> None:
        """Make a session on the running loop, unless there is one."""
        self._http.open()

    async def close(self) -> None:
        """Close the session and its connections."""
        waking, self._waking, self._woken_at = self._waking, None, None
        if waking is not None and waking.get_loop() is asyncio.get_running_loop():
            waking.cancel()
            await asyncio.gather(waking, return_exceptions=True)
        await self._http.close()

    # -- health ---------------------------------------------------------------------------

    async def probe(self) -> Health:
        """Find the model in the gateway's list, and how it stands; wake it if it is not loaded."""
        try:
            health = await (self._probe_second() if self._gateway.is_second else self._probe_job())
        except EXCHANGE_ERRORS as error:
            health = Health(ok=False, failure=self._http.failure_from(error))
        # What is asked of the gateway counts against its user's rate.
        return replace(health, requests=self._gateway.take_asked())

    async def _probe_job(self) -> Health:
        """How the model's job stands."""
        served = await self._find()
        if isinstance(served, Failure):
            return Health(ok=False, failure=served)
        answer = await self._gateway.look(self._http, _jobs_of(served), _POLL_SECONDS * 0.9)
        if answer.status in (401, 403, 503):
            return Health(ok=False, failure=self._gateway.failure_of(self._http, answer))
        standing = standing_of(answer.raw, served)
        if standing.phase == "running":
            self._woken_at = None
            return self._unless_refused(standing.words(served))
        if standing.phase == "absent":
            return await self._wake(served, standing.words(served))
        return self._on_its_way(standing.words(served))

    async def _probe_second(self) -> Health:
        """Whether version 2 lets us in; whether the model is loaded, only requests tell."""
        self._served = Served(self._cluster, self._framework or "", self._model)
        self.models = {self._model: self._model}
        answer = await self._gateway.look(self._http, "whoami", _POLL_SECONDS)
        if answer.status in (401, 403, 503):
            return Health(ok=False, failure=self._gateway.failure_of(self._http, answer))
        return self._unless_refused(f"{self._model} is being loaded.")

    def _unless_refused(self, words: str) -> Health:
        """It is well, unless a request was refused lately because the model is not ready.

        What the gateway tells of jobs may be a minute old, and of version 2 there are none.
        """
        left = self._cold_until - asyncio.get_running_loop().time()
        if left <= 0.0:
            return Health(ok=True)
        words += f" It refused a request as not ready; its next chance is in {left:.0f} s."
        return self._on_its_way(words, left)

    async def _find(self) -> Served | Failure:
        """Where the model is, and what is told of it."""
        served = await self._gateway.find(self._http, self._model, self._cluster, self._framework)
        if isinstance(served, Failure):
            return served
        self._served, self.models = served, {self._model: served.model}
        told = await self._gateway.look(self._http, f"{served.cluster}/models", CATALOGUE_SECONDS)
        card = read_card(told.raw, served.model) if told.status == 200 else Card()
        self.context_limits = {} if card.context is None else {self._model: card.context}
        if self._discovers:
            self.limits = self._limits(card)
        return served

    def _limits(self, card: Card) -> Limits:
        if self._gateway.is_second:
            return Limits(
                concurrency=_SECOND_CONCURRENCY,
                requests=_SECOND_REQUESTS,
                burst=_SECOND_BURST,
                tokens=_SECOND_TOKENS,
                shared=f"requests for {self._model} to {self._gateway.name}",
            )
        tokens = _TOKENS if card.user_tokens is None else card.user_tokens
        return Limits(
            concurrency=_WORKERS,
            requests=_REQUESTS,
            burst=1,
            tokens=f"{tokens}/min",
            window="fixed",
            shared=f"requests to {self._gateway.name}",
        )

    async def _wake(self, served: Served, words: str) -> Health:
        """Have one request start the model; it may take minutes, and is not waited for."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._woken_at is None or now - self._woken_at >= _WAKE_AGAIN_SECONDS:
            self._woken_at = now
            self._waking = loop.create_task(self._ask_it_awake(served), name=f"wake {self.name}")
        if self._waking is not None and self._waking.get_loop() is loop:
            await asyncio.wait([self._waking], timeout=_QUICK_SECONDS)
            if self._waking.done() and not self._waking.cancelled():
                fault = self._waking.result()
                if fault is None:
                    return Health(ok=True)
                if fault.kind != "timeout" and not fault.is_starting:
                    self._woken_at = None
                    return Health(ok=False, failure=self._gateway.failure(self._http, fault))
        since = now - self._woken_at
        return self._on_its_way(f"{words} It was woken {since:.0f} s ago.")

    async def _ask_it_awake(self, served: Served) -> Fault | None:
        """One tiny request; None if it was answered."""
        messages = [{"role": "user", "content": "Hello"}]
        request = Request("wake", self._model, {"messages": messages, "max_tokens": 1}, 1, 1)
        try:
            answer = await self._post(served, wire_body(request, served.model))
        except EXCHANGE_ERRORS as error:
            failure = self._http.failure_from(error)
            return Fault(failure.kind, failure.message)
        if answer.status == 200:
            return None
        return fault_of(answer.status, answer.raw, answer.retry_after)

    def _on_its_way(self, words: str, seconds: float | None = None) -> Health:
        failure = self._http.failure("cold", f"{self.name}: {words}")
        wait = _POLL_SECONDS if seconds is None else min(seconds, _POLL_SECONDS)
        return Health(ok=False, failure=failure, retry_after=wait)

    # -- requests -------------------------------------------------------------------------

    async def send(self, requests: Sequence[Request]) -> AsyncIterator[Reply]:
        """Ask for each request in turn; the bundle has one unless the caller says otherwise."""
        for position, request in enumerate(requests):
            yield await self._ask(position, request)

    async def _ask(self, position: int, request: Request) -> Reply:
        served = self._served
        if served is None or request.model not in (None, self._model):
            message = f"{self.name} does not serve the model {request.model!r}."
            return Reply(position, failure=self._http.failure("cold", message))
        body = wire_body(request, served.model)
        if (why := _unfit(request, body)) is not None:
            failure = self._http.failure("permanent", f"{self.name} was not asked: {why}")
            return Reply(position, failure=failure)
        try:
            answer = await self._post(served, body)
        except EXCHANGE_ERRORS as error:
            self._gateway.forget(_jobs_of(served))
            return Reply(position, failure=self._http.failure_from(error))
        if answer.status != 200:
            if answer.status == _NOT_THERE:
                self._gateway.forget(_jobs_of(served))
            fault = fault_of(answer.status, answer.raw, answer.retry_after)
            if fault.is_starting:
                wait = _POLL_SECONDS if fault.retry_after is None else fault.retry_after
                self._cold_until = asyncio.get_running_loop().time() + wait
            return Reply(
                position,
                failure=self._gateway.failure(self._http, fault, answer.status),
                retry_after=fault.retry_after,
            )
        try:
            completion = read_completion(answer.raw)
        except ValueError as error:
            message = f"{self.name} answered {error}."
            return Reply(position, failure=self._http.failure("transient", message, 200))
        return Reply(position, body=completion, usage=usage_of(request, completion))

    async def _post(self, served: Served, body: bytes) -> Answer:
        return await self._http.exchange("POST", self._gateway.chat_url(served), body)


def _jobs_of(served: Served) -> str:
    """The route that tells of a cluster's jobs."""
    return f"{served.cluster}/jobs"


def model_named(model: str | None, by: str) -> str:
    """The model that is meant: as given, or as `FIRST_MODEL` says.

    Raises:
        ValueError: If neither names one.
    """
    wanted = model or os.environ.get(MODEL_VARIABLE, "").strip()
    if not wanted:
        raise ValueError(f"{by} names no model; say model=..., or set {MODEL_VARIABLE}.")
    return wanted


def _unfit(request: Request, body: bytes) -> str | None:
    """Why the gateway would refuse a request, as far as can be known."""
    if wrong := _RESERVED.intersection(request.body):
        return f"FIRST reserves the parameter {min(wrong)!r}; leave it out."
    if len(body) > _MOST_BYTES:
        return f"its {len(body) / 2**20:.1f} MB are more than the 10 MB that FIRST takes."
    return None
