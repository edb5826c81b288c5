"""How bundles become tasks of a Globus Compute function, and results replies again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, Literal, Protocol

import orjson

from langgraph_hpc_fanout import __version__
from langgraph_hpc_fanout.endpoints.chat import read_completion, usage_of
from langgraph_hpc_fanout.endpoints.globus_compute.faults import ParcelError, Trouble
from langgraph_hpc_fanout.records import Failure, Reply, Request, Usage, Work

Ship = Literal["package", "source", "first"]

_FORMAT = 1
_SOURCES = {"package": "stub", "source": "standalone"}
_NO_TOKENS = Usage()
_SOME_FUNCTION = "(some):function"
_LONGEST_WAIT = 3600.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came back of a bundle.

    Attributes:
        replies: One for each request, in their order.
        worker: Which worker did it.
        seconds: How long it worked.
        size: Bytes of the result, about.
    """

    replies: Sequence[Reply]
    worker: str
    seconds: float
    size: int


class Shipping(Protocol):
    """One way of having requests worked on by a task."""

    @property
    def bundles(self) -> bool:
        """Whether a task takes many requests."""
        ...

    @property
    def functions(self) -> bool:
        """Whether it also calls functions."""
        ...

    @property
    def source(self) -> tuple[str, str] | None:
        """Text and name of the function to register; None if it must be registered already."""
        ...

    def pack(self, requests: Sequence[Request], models: Sequence[str]) -> dict[str, Any]:
        """The argument of the task: requests of one function, or of none, and served ids."""
        ...

    def stand_ins(self, result: Any, keys: Sequence[str]) -> list[Request]:
        """What `unpack` has to know of requests that nothing but their keys is left of."""
        ...

    def unpack(
        self, result: Any, positions: Sequence[int], requests: Sequence[Request], seconds: float
    ) -> Delivery:
        """What a result says of requests at these positions; it took so many seconds to come.

        Raises:
            ParcelError: If the task could not do its work, or the result is none.
        """
        ...


@dataclass(frozen=True, slots=True)
class Node:
    """What a worker is told besides the requests, see `remote.bundle` for the meaning."""

    servers: tuple[str, ...]
    api_key_env: str | None = None
    verify: bool = True
    window: int = 64
    attempts: int = 3
    timeout: float = 600.0
    deadline: float = 3600.0
    patience: float = 30.0


class Bundles:
    """Tasks of this package's own function, see `remote`.

    Args:
        ship: `package` or `source`.
        node: What the workers are told.
        trouble: Reads errors.
    """

    bundles = True

    def __init__(self, ship: Ship, node: Node, trouble: Trouble) -> None:
        self.functions = ship == "package"
        self._ship = ship
        self._trouble = trouble
        self._head = {
            "format": _FORMAT,
            "version": __version__,
            "servers": list(node.servers),
            "api_key_env": node.api_key_env,
            "verify": node.verify,
            "window": node.window,
            "attempts": node.attempts,
            "timeout": node.timeout,
            "deadline": node.deadline,
            "patience": node.patience,
        }

    @property
    def source(self) -> tuple[str, str]:
        """Text and name of the function."""
        return source_of(self._ship)

    def pack(self, requests: Sequence[Request], models: Sequence[str]) -> dict[str, Any]:
        """The bundle."""
        function = _function_of(requests)
        bodies: list[Any]
        if function is not None:
            bodies = [request.body["item"] for request in requests]
        else:
            bodies = [
                {"model": model, **request.body} if model else request.body
                for request, model in zip(requests, models, strict=True)
            ]
        # There and back: orjson writes dates, UUIDs and dataclasses, which the SDK does not.
        return {**self._head, "function": function, "requests": orjson.loads(orjson.dumps(bodies))}

    def stand_ins(self, result: Any, keys: Sequence[str]) -> list[Request]:
        """Requests of a function, if the first answer in the result is what one returned."""
        told = result.get("replies") if isinstance(result, Mapping) else None
        told = told if isinstance(told, list) else []
        bodies = (each.get("body") for each in told if isinstance(each, Mapping))
        first = next((body for body in bodies if isinstance(body, Mapping)), {})
        function = _SOME_FUNCTION if first.keys() == {"value"} else None
        return [Request(key, None, {}, function=function) for key in keys]

    def unpack(
        self, result: Any, positions: Sequence[int], requests: Sequence[Request], seconds: float
    ) -> Delivery:
        """The replies in a result."""
        where = self._trouble.where
        if not isinstance(result, Mapping) or result.get("format") != _FORMAT:
            raise ParcelError(self._no_result(result))
        if (error := result.get("error")) is not None:
            raise self._trouble.of_bundle(error, of_function=bool(_function_of(requests)))
        told = result.get("replies")
        if not isinstance(told, list) or len(told) != len(requests):
            raise ParcelError(self._no_result(result))
        try:
            seconds = float(result.get("seconds", 0))
            work = Work(seconds, len(requests))
            replies = [
                replace(_reply(position, each, request, self._trouble.name, where), work=work)
                for position, each, request in zip(positions, told, requests, strict=True)
            ]
        except (AttributeError, KeyError, TypeError, ValueError, IndexError):
            raise ParcelError(self._no_result(result)) from None
        size = sum(_weight(reply.body) for reply in replies if reply.body is not None)
        return Delivery(replies, str(result.get("worker")), seconds, size)

    def _no_result(self, result: Any) -> Failure:
        message = (
            f"{self._trouble.where} returned what is no result of this package's function "
            f"({result!r:.100}); is function_id= the right one?"
        )
        return Failure("permanent", message, None, False, self._trouble.name)


class First:
    """Tasks of FIRST's own function, `vllm_inference_function`: one request each.

    Its contract: `{"model_params": {...}}` goes in, with `openai_endpoint`, `api_port` and the
    request's body; a JSON text comes out; every answer of the server but 200 is an exception.

    Args:
        port: The server's port on the node.
        trouble: Reads errors.
    """

    bundles = False
    functions = False
    source = None

    def __init__(self, port: int, trouble: Trouble) -> None:
        self._port = port
        self._trouble = trouble

    def pack(self, requests: Sequence[Request], models: Sequence[str]) -> dict[str, Any]:
        """The parameters of one chat completion; of a health check, when there is no request."""
        if not requests:
            return {"model_params": {"openai_endpoint": "health", "api_port": self._port}}
        (request,), (model,) = requests, models
        return {
            "model_params": {
                "openai_endpoint": "chat/completions",
                "api_port": self._port,
                "model": model,
                **request.body,
                "stream": False,
            }
        }

    def stand_ins(self, result: Any, keys: Sequence[str]) -> list[Request]:
        """Chat completions."""
        return [Request(key, None, {}) for key in keys]

    def unpack(
        self, result: Any, positions: Sequence[int], requests: Sequence[Request], seconds: float
    ) -> Delivery:
        """The completion in a text."""
        if not requests:
            return Delivery((), self._trouble.where, seconds, 0)
        text = result if isinstance(result, str) else orjson.dumps(result).decode()
        try:
            body = read_completion(text.encode())
        except ValueError as error:
            message = f"{self._trouble.where} answered {error}."
            failure = Failure("transient", message, None, True, self._trouble.name)
            raise ParcelError(failure) from None
        spent = body.pop("response_time", None)
        body.pop("throughput_tokens_per_second", None)
        took = float(spent) if isinstance(spent, int | float) else None
        work = None if took is None else Work(took, 1)
        usage = usage_of(requests[0], body)
        reply = Reply(positions[0], body=body, usage=usage, seconds=took, work=work)
        return Delivery((reply,), self._trouble.where, took or seconds, len(text))


def source_of(ship: str) -> tuple[str, str]:
    """Text and name of the function that `ship` registers; it runs by itself, anywhere."""
    name = _SOURCES[ship]
    return (files("langgraph_hpc_fanout") / "remote" / f"{name}.py").read_text(), name


def _function_of(requests: Sequence[Request]) -> str | None:
    return requests[0].function if requests else None


def size_of(payload: Any) -> int:
    """Most bytes of a payload in the body of a submit, where it is JSON inside JSON.

    ASCII is counted; anything else is written out, because each letter of it becomes up to
    seven.
    """
    raw = orjson.dumps(payload)
    if raw.isascii() and b"\x7f" not in raw:
        # Quotes and backslashes are escaped once more, and the SDK puts blanks after separators.
        twice = raw.count(b'"') + raw.count(b"\\")
        return len(raw) + twice + raw.count(b",") + raw.count(b":") + 2
    return len(json.dumps(json.dumps(payload)))


def _reply(
    position: int, told: Mapping[str, Any], request: Request, name: str, where: str
) -> Reply:
    """A reply.

    Raises:
        Exception: Whatever it raises when it is told something else; it comes from elsewhere.
    """
    seconds, tries = float(told.get("seconds", 0.0)), max(1, int(told.get("tries", 1)))
    body = told.get("body")
    if body is None:
        why = told.get("failure") or {}
        kind = why.get("kind", "permanent")
        if kind == "cold" and why.get("status") is None:
            # The node's server is not there (yet). The endpoint is: to ask it again later costs
            # patience, while a cold one would be given up after a few probes.
            kind = "overloaded"
        failure = Failure(
            kind,
            f"{where[0].upper()}{where[1:]}: {why.get('message')}",
            why.get("status"),
            bool(why.get("retryable")),
            name,
        )
        wait = why.get("retry_after")
        wait = None if wait is None else max(0.0, min(float(wait), _LONGEST_WAIT))
        return Reply(position, None, failure, None, wait, seconds, tries)
    if request.function is None and not isinstance(body["choices"][0]["message"], Mapping):
        raise TypeError("no message")
    if request.function is not None:
        return Reply(position, {"value": body["value"]}, None, _NO_TOKENS, None, seconds, tries)
    return Reply(position, body, None, usage_of(request, body), None, seconds, tries)


def _weight(body: Mapping[str, Any]) -> int:
    """Bytes of a body as the worker writes it, with what is not ASCII as six letters."""
    raw = orjson.dumps(body)
    return len(raw) if raw.isascii() else len(json.dumps(body))
