"""Answers as server-sent events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from langgraph_hpc_fanout.testing.first.spec import CHAT
from langgraph_hpc_fanout.testing.fleet.answers import text_of

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"x-accel-buffering: no\r\ntransfer-encoding: chunked\r\n\r\n"
)
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"
_PIECE = 16
"""Characters of a piece: four tokens."""


def piece(data: bytes) -> bytes:
    """Bytes as a chunk of HTTP's."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(body: object) -> bytes:
    """A server-sent event."""
    return b"data: " + orjson.dumps(body) + b"\n\n"


def chunks(endpoint: str, request: Mapping[str, Any], answer: Mapping[str, Any]) -> list[bytes]:
    """A good answer as vLLM streams it, less `[DONE]`: pieces, the finish, and usage if wanted."""
    parts = _chat(answer) if endpoint == CHAT else _text(answer)
    head = {key: answer.get(key) for key in ("id", "created", "model")}
    head["object"] = "chat.completion.chunk" if endpoint == CHAT else "text_completion"
    events = [event({**head, "choices": [part]}) for part in parts]
    options = request.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage"):
        events.append(event({**head, "choices": [], "usage": answer.get("usage")}))
    return events


def timed_out(seconds: float) -> bytes:
    """No chunk came through Globus Compute (FIRST 3dde68d, endpoints/globus_compute.py)."""
    return event(
        {
            "object": "error",
            "message": (
                "Streaming task timed out: No data received from compute endpoint after "
                f"{seconds:g} seconds. This may indicate network or endpoint configuration issues."
            ),
            "type": "StreamingTimeoutError",
            "param": None,
            "code": 504,
        }
    )


def failed(body: bytes) -> bytes:
    """The function on the node has failed, seen through Globus Compute.

    Only errors in vLLM's earlier form, with `object` at the top, are passed on. Of all others
    neither the text nor the status is left (FIRST 085b7e8, streaming.py).
    """
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        told = None
    if isinstance(told, dict) and told.get("object") == "error":
        return event(told)
    return event(
        {
            "object": "error",
            "message": "An error occurred during processing",
            "type": "InternalServerError",
            "param": None,
            "code": 500,
        }
    )


def error_as_text(model: str, message: str) -> bytes:
    """An error as the assistant's words (FIRST 01aabea, endpoints/direct_api.py)."""
    delta = {"role": "assistant", "content": f"\n\n[ERROR] {message}"}
    return event(
        {
            "id": "chatcmpl-api-error",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}],
        }
    )


def _chat(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    choice = answer["choices"][0]
    message = choice["message"]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": text} for text in _pieces(text_of(message.get("content")))]
    if message.get("tool_calls"):
        calls = [{"index": place, **call} for place, call in enumerate(message["tool_calls"])]
        deltas.append({"tool_calls": calls})
    parts = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    return [*parts, {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]


def _text(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    choice = answer["choices"][0]
    parts = [{"index": 0, "text": text, "finish_reason": None} for text in _pieces(choice["text"])]
    return [*parts, {"index": 0, "text": "", "finish_reason": choice["finish_reason"]}]


def _pieces(text: str) -> list[str]:
    return [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
