"""Errors in the words of the servers that send them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import orjson

from langgraph_hpc_fanout.testing.fleet.faults import Fault, FaultKind
from langgraph_hpc_fanout.testing.fleet.protocol import HttpResponse

_NGINX_502 = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    b"<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx/1.24.0</center>\r\n"
    b"</body>\r\n</html>\r\n"
)
_LOGIN_PAGE = (
    b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head>"
    b"<body><form action='/login' method='post'>Please sign in.</form></body></html>\n"
)


def not_found() -> HttpResponse:
    """FastAPI's answer, and so vLLM's, to a path that it does not know."""
    return _json(404, {"detail": "Not Found"})


def not_allowed() -> HttpResponse:
    """FastAPI's answer, and so vLLM's, to a method that the path does not take."""
    return _json(405, {"detail": "Method Not Allowed"})


def unknown_model(model: object) -> HttpResponse:
    """The words of vLLM's `_check_model` (vllm/entrypoints/openai/engine/serving.py)."""
    return vllm(404, "NotFoundError", f"The model `{model}` does not exist.", param="model")


def bad_request(message: str, param: str | None = None) -> HttpResponse:
    """What vLLM answers to a body that it cannot take."""
    return vllm(400, "BadRequestError", message, param=param)


def broken_rule(error: Exception) -> HttpResponse:
    """What a test sees of an exception in its own answer rule."""
    return vllm(500, "InternalServerError", f"The answer rule raised {error!r}.")


def wrong_key(key: str) -> HttpResponse:
    """OpenAI's 401 (https://platform.openai.com/docs/guides/error-codes#api-errors)."""
    shown = f"{key[:3]}***" if key else "''"
    return openai(
        401,
        f"Incorrect API key provided: {shown}. You can find your API key at "
        "https://platform.openai.com/account/api-keys.",
        kind="invalid_request_error",
        code="invalid_api_key",
    )


def overloaded(status: Literal[429, 503]) -> HttpResponse:
    """The queue is full.

    503 as SGLang says it with `--max-queued-requests` (`_abort_on_queued_limit` in
    python/sglang/srt/managers/scheduler.py), 429 as Hugging Face's text-generation-inference
    does (router/src/server.rs).
    """
    if status == 429:
        return _json(429, {"error": "Model is overloaded", "error_type": "overloaded"})
    message = "The request queue is full."
    return _json(503, {"object": "error", "message": message, "type": "503", "code": 503})


def _context_length(_: Fault) -> HttpResponse:
    """What vLLM answers to a prompt that is too long (same module as `unknown_model`)."""
    return bad_request(
        "This model's maximum context length is 2048 tokens. However, your request has 4096 "
        "input tokens. Please reduce the length of the input messages.",
        param="input_tokens",
    )


def _unauthorized(_: Fault) -> HttpResponse:
    return wrong_key("sk-expired")


def _rate_limit(fault: Fault) -> HttpResponse:
    """OpenAI's rate limit (https://platform.openai.com/docs/guides/rate-limits)."""
    response = openai(
        429,
        "Rate limit reached for requests. Please slow down.",
        kind="requests",
        code="rate_limit_exceeded",
    )
    return _with_retry_after(response, fault)


def _engine_dead(_: Fault) -> HttpResponse:
    """The words of vLLM's `EngineDeadError` (vllm/v1/engine/exceptions.py)."""
    return vllm(
        500,
        "InternalServerError",
        "EngineCore encountered an issue. See stack trace (above) for the root cause.",
    )


def _loading(fault: Fault) -> HttpResponse:
    """llama.cpp while it loads (`format_error_response`, tools/server/server.cpp)."""
    error = {"code": 503, "message": "Loading model", "type": "unavailable_error"}
    return _with_retry_after(_json(503, {"error": error}), fault)


def _schema_refused(_: Fault) -> HttpResponse:
    """The words of vLLM's `validate_xgrammar_grammar`.

    It looks at the schema before anything is generated
    (vllm/v1/structured_output/backend_xgrammar.py); uniqueItems or patternProperties will do.
    """
    return bad_request("The provided JSON schema contains features not supported by xgrammar.")


def _bad_gateway(_: Fault) -> HttpResponse:
    """The page of nginx when the server behind it does not answer."""
    return HttpResponse(502, _NGINX_502, content_type="text/html")


def _login(_: Fault) -> HttpResponse:
    """An identity-aware proxy that sends its page to clients that expect JSON."""
    return HttpResponse(200, _LOGIN_PAGE, content_type="text/html; charset=utf-8")


REJECTIONS: Mapping[FaultKind, Callable[[Fault], HttpResponse]] = {
    "http_400": _context_length,
    "http_401": _unauthorized,
    "http_429": _rate_limit,
    "http_503": _loading,
    "html_502": _bad_gateway,
    "html_200": _login,
    "schema_refused": _schema_refused,
}
"""Faults that a gate in front of the model answers: at once, without a slot."""

BREAKDOWNS: Mapping[FaultKind, Callable[[Fault], HttpResponse]] = {"http_500": _engine_dead}
"""Faults that happen to the model at work: in a slot, after the latency."""


def vllm(status: int, kind: str, message: str, *, param: str | None = None) -> HttpResponse:
    """An error in vLLM's shape: `ErrorResponse` in vllm/entrypoints/openai/engine/protocol.py."""
    return _json(
        status, {"error": {"message": message, "type": kind, "param": param, "code": status}}
    )


def openai(status: int, message: str, *, kind: str, code: str) -> HttpResponse:
    """An error in OpenAI's shape (https://platform.openai.com/docs/guides/error-codes)."""
    return _json(status, {"error": {"message": message, "type": kind, "param": None, "code": code}})


def _with_retry_after(response: HttpResponse, fault: Fault) -> HttpResponse:
    if fault.retry_after is None:
        return response
    headers = {"retry-after": f"{fault.retry_after:g}"}
    return HttpResponse(response.status, response.body, response.content_type, headers)


def _json(status: int, body: object) -> HttpResponse:
    return HttpResponse(status, orjson.dumps(body))
