"""What a gateway serves to a user: found out, and told to people and to programs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import orjson

from langgraph_hpc_fanout.endpoints.chat import text_of
from langgraph_hpc_fanout.endpoints.first.catalogue import Served, read_card, read_catalogue
from langgraph_hpc_fanout.endpoints.first.endpoint import FirstEndpoint
from langgraph_hpc_fanout.endpoints.first.gateway import Gateway, gateway_of
from langgraph_hpc_fanout.endpoints.first.jobs import standing_of
from langgraph_hpc_fanout.endpoints.http import EXCHANGE_ERRORS, HttpClient, shown
from langgraph_hpc_fanout.records import Request

_KEEP_SECONDS = 60.0
_PAUSE_SECONDS = 0.11
"""Between two questions: a user may ask ten a second."""
_SHOWN_CHARACTERS = 60


class GatewayError(Exception):
    """The gateway, or a model behind it, gave no answer; the message says why."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that a user may ask.

    Attributes:
        cluster: Where.
        framework: What serves it there.
        model: Its id there.
        state: `running`, `starting`, `queued`, or `absent` of one that has to be woken.
        starts: When a queued one is expected to start, in the batch scheduler's words.
        tokens_per_minute: What a user may have; None where it is not told.
        context: Tokens of its context window; None where it is not told.
    """

    cluster: str
    framework: str
    model: str
    state: str
    starts: str | None
    tokens_per_minute: int | None
    context: int | None


async def find() -> list[Offer]:
    """Ask the gateway of the environment what it serves.

    Raises:
        GatewayError: If it does not answer, not as FIRST does, or lists nothing, as version 2.
        ValueError: If `FIRST_API_BASE` is no URL.
    """
    gateway = gateway_of(None, None)
    client = gateway.client(f"FIRST at {shown(gateway.root)}")
    if gateway.is_second:
        raise GatewayError(
            f"{client.name} is version 2, which does not list models; ask one with: "
            "hpc-fanout endpoints probe federated MODEL"
        )
    try:
        raw = await _look(gateway, client, "list-endpoints")
        catalogue = sorted(read_catalogue(raw), key=lambda each: (each.cluster, each.model))
        offers: list[Offer] = []
        for cluster in sorted({each.cluster for each in catalogue}):
            models = await _look(gateway, client, f"{cluster}/models")
            await asyncio.sleep(_PAUSE_SECONDS)
            jobs = await _look(gateway, client, f"{cluster}/jobs")
            there = [each for each in catalogue if each.cluster == cluster]
            offers += [_offer(each, models, jobs) for each in there]
            await asyncio.sleep(_PAUSE_SECONDS)
    except ValueError as error:
        raise GatewayError(f"{client.name}: {error}; is it a FIRST gateway?") from error
    finally:
        await client.close()
    return offers


async def ask(cluster: str, model: str) -> str:
    """Ask a model a short question; returns what it said, in a sentence.

    Raises:
        GatewayError: If there is no answer.
        ValueError: If `FIRST_API_BASE` is no URL.
    """
    endpoint = FirstEndpoint(cluster, model=model)
    await endpoint.open()
    try:
        health = await endpoint.probe()
        if not health.ok:
            why = "is not there" if health.failure is None else health.failure.message
            raise GatewayError(why)
        messages = [{"role": "user", "content": "Say hello."}]
        body = {"messages": messages, "max_tokens": 16}
        begun = time.monotonic()
        async for reply in endpoint.send([Request("probe", model, body, 3, 16)]):
            if reply.failure is not None:
                raise GatewayError(reply.failure.message)
            seconds = time.monotonic() - begun
            text = text_of((reply.body or {})["choices"][0]["message"])
            return f"{endpoint.name} answered in {seconds:.2f} s: {text[:_SHOWN_CHARACTERS]!r}"
        raise GatewayError(f"{endpoint.name} gave no reply.")
    finally:
        await endpoint.close()


def as_lines(offers: Sequence[Offer]) -> str:
    """A table for people."""
    if not offers:
        return "The gateway lists no model for you."
    head = ("cluster", "model", "state", "tokens/min", "context")
    rows = [head, *(_row(each) for each in offers)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_padded(row, widths) for row in rows)


def as_json(offers: Iterable[Offer]) -> str:
    """A list of objects for programs."""
    return orjson.dumps([asdict(each) for each in offers]).decode()


async def _look(gateway: Gateway, client: HttpClient, path: str) -> bytes:
    try:
        answer = await gateway.look(client, path, _KEEP_SECONDS)
    except EXCHANGE_ERRORS as error:
        raise GatewayError(client.failure_from(error).message) from error
    if answer.status != 200:
        raise GatewayError(gateway.failure_of(client, answer).message)
    return answer.raw


def _offer(served: Served, models: bytes, jobs: bytes) -> Offer:
    card, standing = read_card(models, served.model), standing_of(jobs, served)
    return Offer(
        served.cluster,
        served.framework,
        served.model,
        standing.phase,
        standing.starts,
        card.user_tokens,
        card.context,
    )


def _row(offer: Offer) -> tuple[str, ...]:
    state = offer.state if offer.starts is None else f"{offer.state}, starts {offer.starts}"
    numbers = (offer.tokens_per_minute, offer.context)
    counts = ("-" if number is None else f"{number:,}" for number in numbers)
    return (f"{offer.cluster}/{offer.framework}", offer.model, state, *counts)


def _padded(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
