"""The OpenAI chat protocol as data: bodies, usage, and failures from HTTP answers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from langgraph_hpc_fanout.records import Failure, FailureKind, Request, Usage

_CHARACTERS_A_TOKEN = 4
_EXCERPT = 200
_NOT_HERE = re.compile(r"model.*(does not exist|not found|not supported)", re.IGNORECASE)

_KINDS: Mapping[int, FailureKind] = {
    401: "auth",
    403: "auth",
    408: "transient",
    409: "transient",
    425: "transient",
    429: "rate_limited",
    503: "overloaded",
    529: "overloaded",
}


def wire_body(request: Request, served: str) -> bytes:
    """What is posted for a request. Streaming is off: a fan-out reads whole answers."""
    return orjson.dumps({"model": served, **request.body, "stream": False})


def estimate_tokens(text: str) -> int:
    """A guess at the tokens of a text: four characters each, at least one."""
    return max(1, math.ceil(len(text) / _CHARACTERS_A_TOKEN)) if text else 0


def read_completion(raw: bytes) -> dict[str, Any]:
    """The chat completion in a 200 answer.

    Raises:
        ValueError: If it is none; the message says what came instead.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise ValueError(f"not JSON but {excerpt(raw)!r}") from None
    if not isinstance(body, dict):
        raise ValueError(f"JSON, but no chat completion: {excerpt(raw)!r}")
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise ValueError(f"a chat completion without choices: {excerpt(raw)!r}")
    if not isinstance(choices[0], dict) or not isinstance(choices[0].get("message"), dict):
        raise ValueError(f"a choice without a message: {excerpt(raw)!r}")
    return body


def text_of(message: Mapping[str, Any]) -> str:
    """The text of an assistant's message; servers send a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))
    return ""


def opening_of(body: Mapping[str, Any], characters: int) -> str:
    """The first characters of a request's messages, one after another."""
    opening = ""
    for message in body.get("messages", ()):
        opening += text_of(message)[: characters - len(opening)]
        if len(opening) >= characters:
            break
    return opening


def usage_of(request: Request, body: Mapping[str, Any]) -> Usage:
    """The usage that a completion reports, or an estimate that says so."""
    usage = body.get("usage")
    if isinstance(usage, dict):
        read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(read, int) and isinstance(written, int):
            return Usage(read, written)
    text = text_of(body["choices"][0]["message"])
    return Usage(request.prompt_tokens, estimate_tokens(text), estimated=True)


def failure_of(status: int, raw: bytes, endpoint: str) -> Failure:
    """What an HTTP answer other than 200 means.

    Sources: OpenAI's error codes, vLLM's ErrorResponse, llama.cpp's server, FastAPI's detail.
    """
    message = error_message(raw)
    if status == 404 and _NOT_HERE.search(message):
        return Failure("cold", f"{endpoint}: {message}", status, True, endpoint)
    kind = _KINDS.get(status)
    if kind is None:
        kind = "transient" if status >= 500 else "permanent"
    hint = ""
    if 300 <= status < 400 or status in (404, 405):
        hint = " Is the URL right? It usually ends in /v1."
    retryable = kind not in ("permanent", "auth")
    said = f"{endpoint} answered {status}: {message}{hint}"
    return Failure(kind, said, status, retryable, endpoint)


def error_message(raw: bytes) -> str:
    """The sentence in an error body, whichever of the usual shapes it has."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return excerpt(raw) or "(nothing)"
    if isinstance(body, dict):
        for key in ("error", "detail", "message"):
            value = body.get(key)
            if isinstance(value, dict):
                value = value.get("message")
            if isinstance(value, str) and value:
                return value[: 4 * _EXCERPT]
    return excerpt(raw)


def excerpt(raw: bytes) -> str:
    """The beginning of a body as one line; of an HTML page, its title."""
    text = raw[: 16 * _EXCERPT].decode("utf-8", "replace")
    if title := re.search(r"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL):
        return f"HTML page '{' '.join(title[1].split())[:_EXCERPT]}'"
    return " ".join(text.split())[:_EXCERPT]


def retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header, which is a number or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        if when.tzinfo is None:  # "-0000", or no zone at all: GMT is meant
            when = when.replace(tzinfo=UTC)
        seconds = (when - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
