"""What an endpoint answers without working for it: routes, keys, models, rejections."""

from __future__ import annotations

import hmac
import time
from typing import Any

import orjson

from langgraph_hpc_fanout.testing.fleet import answers, errors
from langgraph_hpc_fanout.testing.fleet.exchange import Exchange, Memory
from langgraph_hpc_fanout.testing.fleet.faults import Attempt, pick
from langgraph_hpc_fanout.testing.fleet.protocol import HttpRequest, HttpResponse
from langgraph_hpc_fanout.testing.fleet.spec import FakeEndpoint

CHAT = "/v1/chat/completions"
_MODELS = "/v1/models"


class Gate:
    """Stands before the slots of one endpoint.

    Args:
        spec: What to simulate.
        memory: What the endpoint shares with others.
    """

    __slots__ = ("_authorization", "_memory", "_model_list", "_spec")

    def __init__(self, spec: FakeEndpoint, memory: Memory) -> None:
        self._spec = spec
        self._memory = memory
        self._authorization = f"Bearer {spec.api_key}".encode() if spec.api_key else b""
        self._model_list = orjson.dumps(_model_list(spec.models))

    def probe(self, request: HttpRequest) -> HttpResponse:
        """Answer anything but a chat request."""
        if request.path == "/health":  # vLLM: empty, and open to all
            return HttpResponse(200, b"")
        if not self._authorized(request):
            return errors.wrong_key(_bearer(request))
        if request.path == _MODELS and request.method == "GET":
            return HttpResponse(200, self._model_list)
        return errors.not_allowed() if request.path in {_MODELS, CHAT} else errors.not_found()

    def refusal(
        self, exchange: Exchange, request: HttpRequest, arrival: int
    ) -> HttpResponse | None:
        """Read a chat request; returns why it goes no further, if so."""
        if not self._authorized(request):
            return errors.wrong_key(_bearer(request))
        try:
            body = orjson.loads(request.body)
        except orjson.JSONDecodeError as error:
            return errors.bad_request(f"JSON decode error: {error}")
        if (flaw := _flaw(body)) is not None:
            return flaw
        prompt = answers.last_user_message(body)
        exchange.attempt = Attempt(body, prompt, self._memory.nth(prompt), arrival)
        if body["model"] not in self._spec.models:
            return errors.unknown_model(body["model"])
        return self._rejection(exchange)

    def _rejection(self, exchange: Exchange) -> HttpResponse | None:
        """Throw the dice; returns the answer of a fault that needs no slot."""
        try:
            fault = pick(self._spec.faults, exchange.attempt, self._memory.dice)
        except Exception as error:  # noqa: BLE001 - a condition is the test's own code
            return errors.broken_rule(error)
        exchange.fault = fault
        if fault is None or fault.kind not in errors.REJECTIONS:
            return None
        return errors.REJECTIONS[fault.kind](fault)

    def _authorized(self, request: HttpRequest) -> bool:
        return not self._authorization or hmac.compare_digest(
            self._authorization, request.authorization.encode()
        )


def _flaw(body: Any) -> HttpResponse | None:
    """What is wrong with the body of a chat request."""
    if not isinstance(body, dict):
        return errors.bad_request("Input should be a valid dictionary.")
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        return errors.bad_request("messages must be a list of messages.", param="messages")
    if not isinstance(body.get("model"), str):
        return errors.bad_request("model must be a string.", param="model")
    limit = answers.token_limit(body)
    if limit is not None and limit < 1:  # in vLLM's words
        return errors.bad_request(
            f"max_tokens must be at least 1, got {limit}.", param="max_tokens"
        )
    if body.get("stream"):
        return errors.bad_request("FakeFleet does not stream; send stream=false.", param="stream")
    return None


def _model_list(models: tuple[str, ...]) -> dict[str, Any]:
    """What vLLM answers to GET /v1/models (vllm/entrypoints/openai/models/protocol.py)."""
    cards = [
        {"id": model, "object": "model", "created": int(time.time()), "owned_by": "vllm"}
        for model in models
    ]
    return {"object": "list", "data": cards}


def _bearer(request: HttpRequest) -> str:
    return request.authorization.removeprefix("Bearer ")
