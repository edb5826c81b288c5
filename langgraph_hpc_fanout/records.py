"""What flows between rooms: requests out, replies back, one outcome per item.

These records know nobody. They are frozen, slotted and hold plain data, so they can be
pickled, sent to another machine and written to disk without further thought.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FailureKind = Literal[
    "auth",
    "rate_limited",
    "cold",
    "overloaded",
    "transient",
    "permanent",
    "timeout",
    "budget",
    "invalid_output",
    "cancelled",
]
"""Why an item has no answer; the dispatcher acts on the kind alone."""

NOTHING: Mapping[str, Any] = {}
"""Shared by all records that have nothing to add; never written to."""


SWEEP = "sweep"
"""Of outcomes in a sweep: their coordinates, in `meta`."""


def _nothing() -> Mapping[str, Any]:
    return NOTHING


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that one attempt consumed.

    Attributes:
        prompt_tokens: Tokens read.
        completion_tokens: Tokens written.
        estimated: True when the server reported none and the counts were guessed from
            the length of the text (four characters a token).
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Request:
    """One chat completion to ask for, or one call of a function where an endpoint works.

    Attributes:
        key: Identity of what is asked; equal keys are the same question.
        model: Logical model name, which each endpoint maps to an id of its own; None
            means the only model the pool serves.
        body: JSON body of the chat completion without `model` and `stream`; for a function,
            its item under `item`.
        prompt_tokens: Estimate of the tokens to read.
        max_tokens: Most tokens the answer may have, when the request says so.
        function: `package.module:function` to call; None for a chat completion.
    """

    key: str
    model: str | None
    body: Mapping[str, Any]
    prompt_tokens: int = 0
    max_tokens: int | None = None
    function: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer.

    Attributes:
        kind: The class of the fault, see `FailureKind`.
        message: One sentence for a person: what happened, where, what to do.
        status: HTTP status, when there was one.
        retryable: Whether asking again may help.
        endpoint: Name of the endpoint that was asked, when one was.
    """

    kind: FailureKind
    message: str
    status: int | None = None
    retryable: bool = False
    endpoint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The failure as plain data."""
        return {
            "kind": self.kind,
            "message": self.message,
            "status": self.status,
            "retryable": self.retryable,
            "endpoint": self.endpoint,
        }


@dataclass(frozen=True, slots=True)
class Work:
    """What a worker did for a bundle of requests; their replies share it.

    Attributes:
        seconds: How long it worked, without what the bundle waited for before.
        requests: How many requests the bundle had.
    """

    seconds: float
    requests: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What an endpoint says to one request of a bundle.

    Attributes:
        position: Place of the request in the bundle that was sent.
        body: The chat completion as JSON data, when there is one; of a function, what it
            returned under `value`.
        failure: Why there is none. Exactly one of `body` and `failure` is set.
        usage: Tokens of this attempt, when there is a body.
        retry_after: Seconds the server asks to wait before the next try.
        seconds: How long the request itself took, where it was worked on in company and
            somewhere else; None when the dispatcher's own clock tells.
        tries: How often it was sent to a model on the way, retries on the node included; 0 if
            it never left, so that it has cost nothing.
        work: Of the bundle that brought it, where bundles may wait before they are worked on.
        may_cost: Whether a model may have worked on it though its failure reads as a refusal, such
            as `cold`; it is then charged as reserved.
    """

    position: int
    body: Mapping[str, Any] | None = None
    failure: Failure | None = None
    usage: Usage | None = None
    retry_after: float | None = None
    seconds: float | None = None
    tries: int = 1
    work: Work | None = None
    may_cost: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one item ended, whatever happened.

    Attributes:
        key: Key of the item's request, or of the item when no request could be made.
        index: Place of the item in the input, from 0.
        ok: Whether `value` is an answer.
        value: The answer (plain JSON data), or None.
        error: Why there is none, or None.
        usage: Tokens of the answered attempts: of one, or of all where it was asked again.
        model: Model id that answered.
        endpoint: Name of the endpoint that had the last word.
        attempts: How often the item was sent; 0 for an answer from the journal.
        latency: Seconds that the last attempt took.
        finish_reason: The server's own word for why it stopped.
        cost: Dollars that its attempts cost, where endpoints have a price.
        sample: Number of the sample, from 0, where an item is asked several times.
        meta: Anything else worth keeping, such as `raw` (the text of an answer that was
            not accepted), `reasks` (how often it was asked again), `cached`, `sweep` (coordinates)
            and `asked` (the hash of what was asked, where the key is the user's own).
    """

    key: str
    index: int
    ok: bool
    value: Any = None
    error: Failure | None = None
    usage: Usage | None = None
    model: str | None = None
    endpoint: str | None = None
    attempts: int = 0
    latency: float = 0.0
    finish_reason: str | None = None
    cost: float | None = None
    sample: int = 0
    meta: Mapping[str, Any] = field(default_factory=_nothing)

    def to_dict(self) -> dict[str, Any]:
        """The outcome as dicts, lists and scalars, for graph state and for disk."""
        error, usage = self.error, self.usage
        return {
            "key": self.key,
            "index": self.index,
            "ok": self.ok,
            "value": self.value,
            "error": error and error.to_dict(),
            "usage": None
            if usage is None
            else {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "estimated": usage.estimated,
            },
            "model": self.model,
            "endpoint": self.endpoint,
            "attempts": self.attempts,
            "latency": self.latency,
            "finish_reason": self.finish_reason,
            "cost": self.cost,
            "sample": self.sample,
            "meta": dict(self.meta),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Outcome:
        """The outcome that `to_dict` wrote."""
        fields = dict(data)
        if (error := fields.get("error")) is not None:
            fields["error"] = Failure(**error)
        if (usage := fields.get("usage")) is not None:
            fields["usage"] = Usage(**usage)
        return cls(**fields)


class FanOutError(RuntimeError):
    """A run that cannot go on, as opposed to an item that failed.

    Raised from the branches of the fan-out after everything answered so far is safe, so
    that `invoke(None, config)` continues under a checkpointer, and from the reduce node when
    too few items succeeded.

    A `RuntimeError`, because LangGraph's server shows clients the messages of Python's own errors
    and their kin only, and because LangGraph's default retry policy lets those be.

    Attributes:
        outcomes: What was settled before the run ended, in input order.
        journal: Directory of the journal that holds them, or None.
    """

    def __init__(
        self, message: str, *, outcomes: Iterable[Outcome] = (), journal: str | None = None
    ) -> None:
        super().__init__(message)
        self.outcomes = outcomes
        self.journal = journal


class ChatError(RuntimeError):
    """A call of `pool.chat_model` that has no answer, after all tries.

    A `RuntimeError` for the reasons that `FanOutError` is one.

    Attributes:
        failure: Why.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure

    def __reduce__(self) -> tuple[type[ChatError], tuple[Failure]]:
        return ChatError, (self.failure,)
