"""What may go wrong with a request, and which requests it strikes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

FaultKind = Literal[
    "http_400",
    "http_401",
    "http_429",
    "http_500",
    "http_503",
    "html_502",
    "html_200",
    "hang",
    "slow",
    "disconnect",
    "reset",
    "drip",
    "malformed_json",
    "truncated_body",
    "wrong_model",
    "length",
    "empty",
    "refusal",
    "reasoning_only",
    "many_choices",
    "no_usage",
    "schema_refused",
]
"""The faults.

| kind | what the client sees |
|---|---|
| `http_400` | vLLM's "maximum context length" error: the request's own fault |
| `http_401` | OpenAI's "Incorrect API key provided" |
| `http_429` | OpenAI's rate limit; `Retry-After` only with `retry_after=` |
| `http_500` | vLLM's `InternalServerError`, after the latency |
| `http_503` | llama.cpp's "Loading model"; `Retry-After` only with `retry_after=` |
| `html_502` | nginx's page when nothing listens behind it |
| `html_200` | a log-in page of a proxy, with status 200 |
| `hang` | nothing, for ever; the request keeps its slot until the client leaves |
| `slow` | a good answer, `seconds` later than it should come |
| `disconnect` | the connection closed in good order before a byte of the answer |
| `reset` | a TCP RST in the middle of the answer |
| `drip` | a good answer in 20 pieces over `seconds` |
| `malformed_json` | half of the JSON, with a Content-Length that fits |
| `truncated_body` | half of the body, then the connection closed |
| `wrong_model` | a good answer whose `model` is another |
| `length` | half of the text, finish_reason `length` |
| `empty` | an answer without text |
| `refusal` | OpenAI's `message.refusal`, content null |
| `reasoning_only` | `reasoning_content`, content null |
| `many_choices` | two choices although one was asked for |
| `no_usage` | a good answer without `usage` |
| `schema_refused` | vLLM's 400 for a schema that it cannot enforce; only with `json_schema` |
"""

_KINDS = frozenset(get_args(FaultKind))
_TIMED = frozenset({"slow", "drip"})
_POLITE = frozenset({"http_429", "http_503"})


def check_fault(kind: str, rate: float, kinds: Collection[str]) -> None:
    """Refuse a fault of no such kind, or one that strikes a share that is none.

    Raises:
        ValueError: Then; it names what there is.
    """
    if kind not in kinds:
        raise ValueError(f"Fault({kind!r}) is unknown; known: {', '.join(sorted(kinds))}.")
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"Fault({kind!r}, rate={rate!r}) must be between 0 and 1.")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong with some requests. All conditions given must hold.

    `schema_refused` strikes only requests whose `response_format` has type `json_schema`.

    Attributes:
        kind: What goes wrong, see `FaultKind`.
        rate: Share of the matching requests that it strikes. The dice are thrown per prompt
            and attempt, so a run is struck alike whatever the order of its requests.
        contains: Strikes only when the last user message contains this text.
        when: Strikes only when this function of the request's JSON body is true.
        times: Strikes only the first so many attempts at one prompt, over all endpoints of
            the process that serves them.
        first: Strikes only among the first so many requests of an endpoint.
        retry_after: Seconds for the Retry-After header of `http_429` and `http_503`.
        seconds: How much later `slow` answers, or how long `drip` takes.

    Raises:
        ValueError: If the fault is unknown or a setting has no meaning for it.
    """

    kind: FaultKind
    rate: float = 1.0
    contains: str | None = None
    when: Callable[[Mapping[str, Any]], bool] | None = None
    times: int | None = None
    first: int | None = None
    retry_after: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        check_fault(self.kind, self.rate, _KINDS)
        if self.retry_after is not None and self.kind not in _POLITE:
            raise ValueError(f"Fault({self.kind!r}) sends no Retry-After; drop retry_after=.")
        if (self.seconds is not None) != (self.kind in _TIMED):
            verb = "needs" if self.kind in _TIMED else "takes no"
            raise ValueError(f"Fault({self.kind!r}) {verb} seconds=.")

    @property
    def extra(self) -> float:
        """Seconds that `slow` and `drip` add."""
        return self.seconds or 0.0

    def strikes(self, attempt: Attempt, chance: float) -> bool:
        """Whether it strikes this attempt, given a number drawn evenly from (0, 1)."""
        return (
            chance < self.rate
            and (self.times is None or attempt.nth < self.times)
            and (self.first is None or attempt.arrival < self.first)
            and (self.contains is None or self.contains in attempt.prompt)
            and (self.when is None or self.when(attempt.body))
            and (self.kind != "schema_refused" or _has_schema(attempt.body))
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a fault may look at.

    Attributes:
        body: The request's JSON body.
        prompt: Its last user message.
        nth: How often that prompt was asked before.
        arrival: How many requests the endpoint had before this one.
    """

    body: Mapping[str, Any]
    prompt: str
    nth: int
    arrival: int


def _has_schema(body: Mapping[str, Any]) -> bool:
    wanted = body.get("response_format")
    return isinstance(wanted, dict) and wanted.get("type") == "json_schema"


class Dice:
    """Seeded chances that depend on what is asked, not on when.

    A shared random generator would hand its numbers out in order of arrival, which differs
    from run to run as soon as two requests are in flight.
    """

    __slots__ = ("_seed",)

    def __init__(self, seed: str) -> None:
        self._seed = seed.encode()

    def chance(self, attempt: Attempt, salt: str) -> float:
        """A number drawn evenly from (0, 1) for this attempt."""
        text = f"{salt}\0{attempt.nth}\0{attempt.prompt}".encode()
        digest = hashlib.blake2b(text, digest_size=6, key=self._seed).digest()
        return (int.from_bytes(digest, "big") + 0.5) / 2.0**48


def pick(faults: tuple[Fault, ...], attempt: Attempt, dice: Dice) -> Fault | None:
    """The first fault that strikes the attempt, if any."""
    for position, fault in enumerate(faults):
        chance = dice.chance(attempt, f"fault{position}") if fault.rate < 1.0 else 0.0
        if fault.strikes(attempt, chance):
            return fault
    return None
