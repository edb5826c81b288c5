"""Of a chat completion only what is of use: results of Globus Compute tasks are at most 10 MB."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MESSAGE = ("role", "content", "tool_calls", "refusal", "reasoning_content", "reasoning")
_NUMBERS = ("prompt_tokens", "completion_tokens", "total_tokens")


def compact(completion: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """The completion's choices, usage and model; log probabilities if they were asked for."""
    choices = completion["choices"]
    keep_logprobs = bool(request.get("logprobs"))
    body: dict[str, Any] = {"choices": [_choice(each, keep_logprobs) for each in choices]}
    if isinstance(model := completion.get("model"), str):
        body["model"] = model
    if isinstance(usage := completion.get("usage"), dict):
        body["usage"] = {name: usage[name] for name in _NUMBERS if isinstance(usage.get(name), int)}
    return body


def _choice(choice: Any, keep_logprobs: bool) -> Any:
    if not isinstance(choice, dict):
        return choice
    said = choice.get("message")
    message = said if isinstance(said, dict) else {}
    kept: dict[str, Any] = {
        "index": choice.get("index", 0),
        "message": {name: message[name] for name in _MESSAGE if message.get(name) is not None},
        "finish_reason": choice.get("finish_reason"),
    }
    kept["message"].setdefault("content", None)
    if keep_logprobs and choice.get("logprobs") is not None:
        kept["logprobs"] = choice["logprobs"]
    return kept
