"""What to simulate: the latency, the size and the manners of one endpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, ClassVar, Literal, Protocol

from typing_extensions import TypedDict

from langgraph_hpc_fanout.testing.fleet.faults import Fault

AnswerRule = str | Callable[[Mapping[str, Any]], str | Mapping[str, Any]]
"""A fixed text, or a function of the request's JSON body.

The function returns a text, or an assistant's message such as
`{"content": None, "tool_calls": [...]}`.
"""

_NORMAL = NormalDist()


class Latency(Protocol):
    """How long an endpoint takes over a request once it has a slot.

    Attributes:
        varies: Whether `seconds` depends on `chance`; without it no dice are rolled.
    """

    @property
    def varies(self) -> bool:
        """Whether `seconds` depends on `chance`."""
        ...

    def seconds(self, chance: float, tokens: int) -> float:
        """Seconds for an answer of `tokens`, given a number drawn evenly from (0, 1)."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """The same time for every request.

    Attributes:
        base: Seconds for a request.
        per_token: Seconds more for each token of the answer.
    """

    base: float = 0.0
    per_token: float = 0.0
    varies: ClassVar[bool] = False

    def seconds(self, chance: float, tokens: int) -> float:
        """Seconds for an answer of `tokens`."""
        return self.base + self.per_token * tokens


@dataclass(frozen=True, slots=True)
class Uniform:
    """Any time between two bounds, all equally likely.

    Attributes:
        low: Least seconds for a request.
        high: Most seconds for a request.
        per_token: Seconds more for each token of the answer.
    """

    low: float
    high: float
    per_token: float = 0.0
    varies: ClassVar[bool] = True

    def seconds(self, chance: float, tokens: int) -> float:
        """Seconds for an answer of `tokens`, given a number drawn evenly from (0, 1)."""
        return self.low + (self.high - self.low) * chance + self.per_token * tokens


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Mostly near the median, with the long tail that makes stragglers.

    Attributes:
        median: Seconds that half of the requests stay below.
        sigma: Spread; with 0.5 one request in a hundred takes 3.2 times the median, with
            1.0 ten times.
        per_token: Seconds more for each token of the answer.
    """

    median: float
    sigma: float = 0.5
    per_token: float = 0.0
    varies: ClassVar[bool] = True

    def seconds(self, chance: float, tokens: int) -> float:
        """Seconds for an answer of `tokens`, given a number drawn evenly from (0, 1)."""
        factor = math.exp(self.sigma * _NORMAL.inv_cdf(chance))
        return self.median * factor + self.per_token * tokens


class EndpointOptions(TypedDict, total=False):
    """The fields of `FakeEndpoint`, for a fleet whose endpoints are all alike."""

    models: tuple[str, ...]
    latency: float | Latency
    capacity: int
    max_queue: int | None
    overload: Literal[429, 503]
    api_key: str | None
    answer: AnswerRule | None
    faults: tuple[Fault, ...]
    port: int


@dataclass(frozen=True, slots=True)
class FakeEndpoint:
    """One OpenAI-compatible chat endpoint to simulate.

    Attributes:
        models: Ids of the models that it serves.
        latency: Seconds that a request takes once it has a slot, or a law for them.
        capacity: Requests served at once; the rest wait in order of arrival.
        max_queue: Most requests that may wait; None for no bound, as vLLM and llama.cpp.
        overload: Status of the requests beyond `max_queue`.
        api_key: Bearer token that requests must carry; None for none.
        answer: What it answers, see `AnswerRule`; None for `echo` of the last user message,
            `scripted` for tool calls and JSON. Functions run on the server's loop, so they
            must be quick.
        faults: What goes wrong; the first that strikes a request is the one it gets.
        port: Port on 127.0.0.1; 0 for a free one.

    Raises:
        ValueError: If such an endpoint could serve nothing.
    """

    models: tuple[str, ...] = ("tiny",)
    latency: float | Latency = 0.0
    capacity: int = 64
    max_queue: int | None = None
    overload: Literal[429, 503] = 503
    api_key: str | None = field(default=None, repr=False)
    answer: AnswerRule | None = None
    faults: tuple[Fault, ...] = ()
    port: int = 0

    def __post_init__(self) -> None:
        if not self.models or not isinstance(self.models, tuple):
            raise ValueError(f"FakeEndpoint(models={self.models!r}) must be a tuple of names.")
        if isinstance(self.latency, int | float) and self.latency < 0:
            raise ValueError(f"FakeEndpoint(latency={self.latency!r}) must not be negative.")
        if self.max_queue is not None and self.max_queue < 0:
            raise ValueError(f"FakeEndpoint(max_queue={self.max_queue!r}) must not be negative.")
        if self.capacity < 1:
            raise ValueError(f"FakeEndpoint(capacity={self.capacity!r}) must be at least 1.")

    @property
    def law(self) -> Latency:
        """The latency as a law, also when it was given as a number."""
        if isinstance(self.latency, int | float):
            return Constant(self.latency)
        return self.latency
