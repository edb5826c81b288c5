"""What one attempt may cost, before it is sent, and what it has cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from langgraph_hpc_fanout.endpoints.price import NODE_HOUR, PICODOLLARS, Price
from langgraph_hpc_fanout.records import Failure, Reply, Request

_TEMPLATE_TOKENS = 256
"""What a chat template is assumed to add at most: a date, a default system message. What it adds to
each message, the braces and names around that message in JSON make up for."""
_REFUSALS = frozenset({"rate_limited", "overloaded", "cold", "auth"})


@dataclass(frozen=True, slots=True)
class Charge:
    """What attempts cost, or may cost. Charges add up.

    Whole numbers, so that sums are exact in any order.

    Attributes:
        prompt_tokens: Tokens read.
        completion_tokens: Tokens written.
        requests: Requests sent.
        picodollars: Money, for tokens and for node time.
        node_time: Node-microseconds.
        unconfirmed: Attempts among them whose tokens nobody reported.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0
    picodollars: int = 0
    node_time: int = 0
    unconfirmed: int = 0

    @property
    def tokens(self) -> int:
        """Tokens read and written together."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def usd(self) -> float:
        """Dollars, rounded to a float."""
        return self.picodollars / PICODOLLARS

    @property
    def node_hours(self) -> float:
        """Node-hours, rounded to a float."""
        return self.node_time / NODE_HOUR

    def __add__(self, other: Charge) -> Charge:
        return Charge(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.requests + other.requests,
            self.picodollars + other.picodollars,
            self.node_time + other.node_time,
            self.unconfirmed + other.unconfirmed,
        )


NO_CHARGE = Charge()
"""Of what was reserved and never sent."""


def charge_of(
    request: Request,
    price: Price | None,
    context_limit: int | None,
    timeout: float,
    *,
    count_tokens: bool = True,
) -> Charge:
    """The most that one attempt may cost: what is reserved before it is sent.

    - Tokens read: as many as the request's JSON has bytes, and 256 for the chat template. A token
      of a byte-level vocabulary (GPT, Llama, Qwen, Mistral) stands for at least one byte, so this
      is a bound, some four times too high for English; attempts are settled with what they used.
      A picture has no such bound, so the model's context limit is reserved for it.
    - Tokens written: `max_tokens` for each of the `n` answers, or else the context limit.
    - Node time: as if the request had its nodes to itself until `timeout`. It will have company
      and be back earlier, but nobody knows before. So a tight timeout keeps reservations small.

    Args:
        request: What is to be sent.
        price: The endpoint's; None where nothing has a price.
        context_limit: Most tokens of prompt and answer together, when the model's is known.
        timeout: Seconds after which the attempt is given up.
        count_tokens: Whether tokens, and money for them, are to be bounded; needed for budgets
            that `Budget.needs_tokens`.

    Raises:
        ValueError: If there is no bound; the message asks for what is missing.
    """
    read, written = _token_bounds(request, context_limit) if count_tokens else (0, 0)
    if price is None:
        return Charge(read, written, 1)
    node_time = price.node_time(timeout)
    money = price.token_bound(read, written) + price.node_cost(node_time)
    return Charge(read, written, 1, money, node_time)


def cost_of(reserved: Charge, reply: Reply, price: Price | None, node_seconds: float) -> Charge:
    """What an attempt has cost, once it is back.

    Tokens that nobody reported are charged as they were reserved: of answers without usage, of
    attempts that broke off, and of those that a node made before the last. Attempts that a server
    turned away before it worked on them used none, unless the reply says that it may have cost.
    What never left the endpoint costs nothing.

    Args:
        reserved: What `charge_of` said.
        reply: What came back.
        price: The endpoint's; None where nothing has a price.
        node_seconds: The attempt's share of the endpoint's time, see `node_time`.
    """
    if not reply.tries:
        return NO_CHARGE
    usage, unconfirmed = reply.usage, reply.tries - 1
    read = written = 0
    if usage is not None and not (usage.estimated and reserved.tokens):
        read, written = usage.prompt_tokens, usage.completion_tokens
    elif reply.may_cost or reply.failure is None or not _was_turned_away(reply.failure):
        unconfirmed += 1
    money = node_time = 0
    if price is not None:
        node_time = price.node_time(node_seconds)
        money = price.token_cost(read, written) + price.node_cost(node_time)
    if unconfirmed:
        if price is not None:
            bound = price.token_bound(reserved.prompt_tokens, reserved.completion_tokens)
            money += unconfirmed * bound
        read += unconfirmed * reserved.prompt_tokens
        written += unconfirmed * reserved.completion_tokens
    return Charge(read, written, reply.tries, money, node_time, unconfirmed)


def _was_turned_away(failure: Failure) -> bool:
    """Whether nothing was worked on: nobody was there, or the answer was a 4xx, 503 or 529.

    A gateway that has waited in vain (408) tells of a request that may still be worked on.
    """
    if failure.kind in _REFUSALS:
        return True
    if failure.kind == "timeout":
        return False
    return failure.status is not None and 400 <= failure.status < 500


def _token_bounds(request: Request, context_limit: int | None) -> tuple[int, int]:
    """Most tokens read and written."""
    if request.function is not None:
        raise ValueError(
            f"Nobody can say how many tokens a call of {request.function} uses; give it a budget of"
            " requests, node_hours or seconds."
        )
    body = request.body
    written = request.max_tokens if request.max_tokens is not None else context_limit
    if written is None:
        raise ValueError(
            f"A budget of tokens or money needs max_tokens, because nobody knows how long an answer"
            f" of {_model(request)} may be; give the task max_tokens."
        )
    read = len(orjson.dumps(body)) + _TEMPLATE_TOKENS
    if context_limit is None:
        if not _is_text(body):
            raise ValueError(
                f"A budget of tokens or money needs the context limit of {_model(request)}, because"
                " nobody knows how many tokens a picture has; give the limit, or a budget of"
                " requests, node_hours or seconds."
            )
        return read, written * _answers(body)
    read = min(read, context_limit) if _is_text(body) else context_limit
    return read, min(written, context_limit) * _answers(body)


def _model(request: Request) -> str:
    return "the model" if request.model is None else repr(request.model)


def _answers(body: Mapping[str, Any]) -> int:
    return body.get("n") or 1


def _is_text(body: Mapping[str, Any]) -> bool:
    """Whether all that is to be read stands in the body as text."""
    for message in body.get("messages", ()):
        content = message.get("content")
        if isinstance(content, list):
            for part in content:
                if isinstance(part, dict) and part.get("type") != "text":
                    return False
    return True
