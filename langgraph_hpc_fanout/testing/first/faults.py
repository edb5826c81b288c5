"""What may go wrong with a request beyond what quotas and cold models do, and with which."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import orjson

from langgraph_hpc_fanout.testing.first import errors
from langgraph_hpc_fanout.testing.fleet.faults import Attempt, Dice
from langgraph_hpc_fanout.testing.fleet.protocol import HttpResponse

Route = Literal[
    "inference", "batches", "jobs", "models", "list-endpoints", "status", "whoami", "health"
]

FaultKind = Literal[
    "unauthorized",
    "unauthorized_detail",
    "policies",
    "not_permitted",
    "throttled",
    "too_many_tokens",
    "nginx_429",
    "nginx_429_html",
    "request_timeout",
    "not_ready",
    "offline",
    "not_live",
    "maintenance",
    "nginx_maintenance",
    "html_503",
    "upstream_timeout",
    "internal_error",
    "bare_500",
    "upstream",
    "slow",
    "hang",
    "disconnect",
    "stream_cut",
    "stream_silent",
    "stream_error",
    "batch_fails",
    "batch_loses",
]
"""The faults.

| kind | what the client sees |
|---|---|
| `unauthorized` | 401 A, a token that has expired |
| `unauthorized_detail` | 401 B |
| `policies` | 401 A, "internal policies": a new log-in is needed |
| `not_permitted` | 401 A, the model is not for this user |
| `throttled` | 429 B, without Retry-After |
| `too_many_tokens` | 429 A, with the usage in `info` |
| `nginx_429`, `nginx_429_html` | 429 C |
| `request_timeout` | 408 A after `Times.wait`; its task runs later, with nobody listening |
| `not_ready`, `offline`, `not_live` | 503 A, of a model |
| `maintenance` | 503 A, `cluster_under_maintenance` |
| `nginx_maintenance` | 503 B |
| `html_503` | 503 C |
| `upstream_timeout` | 504 A |
| `internal_error` | 500 A with `error_id` |
| `bare_500` | 500 D |
| `upstream` | the backend's `status=`: as 500 through Globus Compute, as it is by DirectAPI |
| `slow` | a good answer, `seconds` later |
| `hang` | nothing, until the client leaves |
| `disconnect` | the connection closed before a byte of the answer |
| `stream_cut` | a stream that stops in the middle and says `[DONE]` after five seconds |
| `stream_silent` | a stream without a chunk, which ends with an error of code 504 |
| `stream_error` | the error as the assistant's text, with status 200 |
| `batch_fails` | a batch that fails |
| `batch_loses` | a batch that leaves a share of `rate` of its lines without a response |
"""

_KINDS = frozenset(get_args(FaultKind))
_BATCH = frozenset({"batch_fails", "batch_loses"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong with some requests. All conditions given must hold.

    Attributes:
        kind: What goes wrong, see `FaultKind`.
        rate: Share of the matching requests that it strikes; the dice are thrown per prompt and
            attempt. For `batch_loses` the share of a batch's lines.
        times: Strikes only the next so many matching requests.
        route: Requests of which kind it strikes. `batches` are submits of batches.
        cluster: Strikes only requests to this cluster.
        model: Strikes only requests for this model, by the cluster's id.
        contains: Strikes only when the last user message (or the prompt) contains this text.
        status: The backend's status, for `upstream`.
        seconds: How much later `slow` answers, on the fake's clock.

    Raises:
        ValueError: If the fault is unknown or a setting has no meaning for it.
    """

    kind: FaultKind
    rate: float = 1.0
    times: int | None = None
    route: Route = "inference"
    cluster: str | None = None
    model: str | None = None
    contains: str | None = None
    status: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(
                f"Fault({self.kind!r}) is unknown; known: {', '.join(sorted(_KINDS))}."
            )
        if not 0.0 <= self.rate <= 1.0:
            raise ValueError(f"Fault({self.kind!r}, rate={self.rate!r}) must be between 0 and 1.")
        for name, kind in (("status", "upstream"), ("seconds", "slow")):
            if (getattr(self, name) is not None) != (self.kind == kind):
                verb = "needs" if self.kind == kind else "takes no"
                raise ValueError(f"Fault({self.kind!r}) {verb} {name}=.")
        if self.kind in _BATCH and self.route != "batches":
            raise ValueError(f"Fault({self.kind!r}) strikes batches; give route='batches'.")


@dataclass(frozen=True, slots=True)
class Target:
    """A request as faults look at it.

    Attributes:
        route: Its kind.
        cluster: The cluster that it goes to, or empty.
        model: The model that it asks, or empty.
        attempt: What was asked, and how often before.
    """

    route: Route
    cluster: str
    model: str
    attempt: Attempt


class Faults:
    """The faults that are in force, first come, first to strike.

    Args:
        faults: Those in force at first.
        dice: Their chances.
    """

    def __init__(self, faults: Iterable[Fault], dice: Dice) -> None:
        self._dice = dice
        self._faults: list[Fault] = list(faults)
        self._struck: list[int] = [0] * len(self._faults)

    def add(self, fault: Fault) -> None:
        """Put one in force."""
        self._faults.append(fault)
        self._struck.append(0)

    def clear(self) -> None:
        """Put none in force."""
        self._faults.clear()
        self._struck.clear()

    @property
    def any(self) -> bool:
        """Whether one is in force."""
        return bool(self._faults)

    def strike(self, target: Target) -> Fault | None:
        """The first fault that strikes a request, if any."""
        for place, fault in enumerate(self._faults):
            if self._matches(place, fault, target):
                self._struck[place] += 1
                return fault
        return None

    def chance(self, attempt: Attempt, salt: str) -> float:
        """A number drawn evenly from (0, 1) for this attempt."""
        return self._dice.chance(attempt, salt)

    def _matches(self, place: int, fault: Fault, target: Target) -> bool:
        return (
            fault.route == target.route
            and (fault.times is None or self._struck[place] < fault.times)
            and (fault.cluster is None or fault.cluster == target.cluster)
            and (fault.model is None or fault.model == target.model)
            and (fault.contains is None or fault.contains in target.attempt.prompt)
            and (
                fault.rate == 1.0
                or fault.kind in _BATCH
                or self._dice.chance(target.attempt, f"fault{place}") < fault.rate
            )
        )


Rejection = Callable[[str, str, str], HttpResponse]

REJECTIONS: Mapping[FaultKind, Rejection] = {
    "unauthorized": lambda *_: errors.unauthorized("expired"),
    "unauthorized_detail": lambda *_: errors.detail(401, "Unauthorized"),
    "policies": lambda *_: errors.unauthorized("policies"),
    "not_permitted": lambda _cluster, _model, slug: errors.not_permitted(slug),
    "throttled": lambda *_: errors.throttled(),
    "too_many_tokens": lambda *_: errors.too_many_tokens(100_001, 60_001),
    "nginx_429": lambda *_: errors.nginx_rate_limit(),
    "nginx_429_html": lambda *_: errors.page(429, "Too Many Requests"),
    "not_ready": lambda _cluster, _model, slug: errors.not_ready(slug),
    "offline": lambda _cluster, _model, slug: errors.offline(slug),
    "not_live": lambda cluster, model, _slug: errors.not_live(model, cluster),
    "maintenance": lambda cluster, *_: errors.maintenance(cluster),
    "nginx_maintenance": lambda *_: errors.nginx_maintenance(),
    "html_503": lambda *_: errors.page(503, "Service Temporarily Unavailable"),
    "upstream_timeout": lambda cluster, *_: errors.upstream_timeout(
        cluster, "chat/completions", 120.0
    ),
    "internal_error": lambda *_: errors.uncaught(),
    "bare_500": lambda *_: errors.bare(500, "Error: Something went wrong."),
}
"""Faults that are one answer, made at once of the cluster, the model and the endpoint's slug."""


def upstream_body(status: int) -> bytes:
    """What a backend says with a status, as vLLM says it for 400: the request is too long."""
    message = (
        "This model's maximum context length is 131072 tokens. However, your request has 200000 "
        "input tokens. Please reduce the length of the input messages."
        if status == 400
        else "EngineCore encountered an issue. See stack trace (above) for the root cause."
    )
    kind = "BadRequestError" if status == 400 else "InternalServerError"
    return orjson.dumps(
        {"error": {"message": message, "type": kind, "param": None, "code": status}}
    )
