"""Chat completions as OpenAI-compatible servers write them, good and odd ones."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from langgraph_hpc_fanout.testing.fleet import errors
from langgraph_hpc_fanout.testing.fleet.faults import Attempt, Fault, FaultKind
from langgraph_hpc_fanout.testing.fleet.protocol import HttpResponse
from langgraph_hpc_fanout.testing.fleet.spec import AnswerRule

Json = dict[str, Any]

CHARACTERS_PER_TOKEN = 4
_HEAD = 24
_REFUSAL = "I'm sorry, I can't help with that."


def echo(prompt: str) -> str:
    """The text that a fake endpoint answers by default.

    Short enough for small `max_tokens` (12 tokens), and yet no two prompts share one: it holds
    a hash of the whole prompt besides its first characters.
    """
    digest = hashlib.blake2b(prompt.encode(), digest_size=8).hexdigest()
    return f"echo {digest} {prompt[:_HEAD]}"


def last_user_message(body: Mapping[str, Any]) -> str:
    """Text of the last message of the user, or empty."""
    for message in reversed(body["messages"]):
        if message.get("role") == "user":
            return text_of(message.get("content"))
    return ""


def text_of(content: object) -> str:
    """Text of a message's content, which is a string or a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "".join(
        part["text"]
        for part in parts
        if isinstance(part, dict) and isinstance(part.get("text"), str)
    )


def token_count(characters: int) -> int:
    """Tokens for so many characters; the same rule of thumb that estimates use."""
    return -(-characters // CHARACTERS_PER_TOKEN)


def token_limit(body: Mapping[str, Any]) -> int | None:
    """Most tokens that the answer may have, if the request says so, by either name."""
    limit = body.get("max_completion_tokens")
    if limit is None:
        limit = body.get("max_tokens")
    return limit if isinstance(limit, int) else None


def respond(
    rule: AnswerRule | None, attempt: Attempt, fault: Fault | None
) -> tuple[HttpResponse, int]:
    """The answer to a request that has a slot, and its tokens."""
    if fault is not None and fault.kind in errors.BREAKDOWNS:
        return errors.BREAKDOWNS[fault.kind](fault), 0
    try:
        answer = completion(attempt.body, _apply(rule, attempt))
    except Exception as error:  # noqa: BLE001 - the rule is the test's own code
        return errors.broken_rule(error), 0
    tokens: int = answer["usage"]["completion_tokens"]
    if fault is not None and fault.kind in ODDITIES:
        ODDITIES[fault.kind](answer)
    return HttpResponse(200, orjson.dumps(answer)), tokens


def completion(body: Mapping[str, Any], answer: str | Mapping[str, Any]) -> Json:
    """A chat completion of a text or of an assistant's message.

    The shape is vLLM's `ChatCompletionResponse`
    (vllm/entrypoints/openai/chat_completion/protocol.py), less the fields that are always null.
    A text ends before the first of the request's `stop` texts, then it is cut to `max_tokens`.
    A cut answer says finish_reason `length`, one that calls tools `tool_calls`
    (https://platform.openai.com/docs/api-reference/chat/object).
    """
    said = {"content": answer} if isinstance(answer, str) else answer
    message: Json = {"role": "assistant", **said}
    reason = "tool_calls" if message.get("tool_calls") else "stop"
    if isinstance(text := message.get("content"), str):
        whole = _until_stop(text, body.get("stop"))
        message["content"] = whole[: _most_characters(body)]
        if message["content"] != whole:
            reason = "length"
    read = token_count(sum(len(text_of(each.get("content"))) for each in body["messages"]))
    written = token_count(_characters(message))
    return {
        "id": f"chatcmpl-{time.perf_counter_ns():x}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        },
    }


def _until_stop(text: str, stop: str | Sequence[str] | None) -> str:
    """The text before the first stop text, which servers leave out."""
    stops = [stop] if isinstance(stop, str) else stop or ()
    ends = [text.index(each) for each in stops if each and each in text]
    return text[: min(ends, default=None)]


def _most_characters(body: Mapping[str, Any]) -> int | None:
    limit = token_limit(body)
    return None if limit is None else limit * CHARACTERS_PER_TOKEN


def _characters(message: Mapping[str, Any]) -> int:
    """What a model had to write for a message: its text, its tools' names and arguments."""
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    called = sum(len(function["name"]) + len(function["arguments"]) for function in functions)
    return len(text_of(message.get("content"))) + called


def _wrong_model(answer: Json) -> None:
    """A gateway that falls back to another model and says so only here."""
    answer["model"] = f"not-{answer['model']}"


def _length(answer: Json) -> None:
    """Cut by the server's own limit: OpenAI's finish_reason `length`."""
    text = _said(answer)
    _say(answer, text[: len(text) // 2])
    answer["choices"][0]["finish_reason"] = "length"


def _empty(answer: Json) -> None:
    """The first token was the end token; seen with small models and with bad chat templates."""
    _say(answer, "")


def _refusal(answer: Json) -> None:
    """OpenAI's refusal (https://platform.openai.com/docs/guides/structured-outputs#refusals)."""
    _replace(answer, content=None, refusal=_REFUSAL)


def _reasoning_only(answer: Json) -> None:
    """All of the answer was taken for thought.

    `reasoning_content` with content null is what vLLM's and llama.cpp's reasoning parsers leave
    when the model never closes its thinking
    (https://docs.vllm.ai/en/latest/features/reasoning_outputs.html; `--reasoning-format` in
    llama.cpp's tools/server/README.md).
    """
    _replace(answer, content=None, reasoning_content=_said(answer))


def _many_choices(answer: Json) -> None:
    """Two choices, as for `n=2`."""
    message = {"role": "assistant", "content": "another choice"}
    other = {"index": 1, "message": message, "logprobs": None, "finish_reason": "stop"}
    answer["choices"].append(other)


def _no_usage(answer: Json) -> None:
    """A proxy that drops what it does not know; `usage` is optional in the API reference."""
    del answer["usage"]


ODDITIES: Mapping[FaultKind, Callable[[Json], None]] = {
    "wrong_model": _wrong_model,
    "length": _length,
    "empty": _empty,
    "refusal": _refusal,
    "reasoning_only": _reasoning_only,
    "many_choices": _many_choices,
    "no_usage": _no_usage,
}
"""Faults that are a well-formed completion all the same: each changes a good one in place."""


def _apply(rule: AnswerRule | None, attempt: Attempt) -> str | Mapping[str, Any]:
    if rule is None:
        return echo(attempt.prompt)
    return rule if isinstance(rule, str) else rule(attempt.body)


def _said(answer: Json) -> str:
    return text_of(answer["choices"][0]["message"].get("content"))


def _say(answer: Json, text: str) -> None:
    _replace(answer, content=text)
    usage = answer["usage"]
    usage["completion_tokens"] = token_count(len(text))
    usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]


def _replace(answer: Json, **message: Any) -> None:
    """Put another message in the place of the first, whose tools are not called then."""
    choice = answer["choices"][0]
    choice["message"] = {"role": "assistant", **message}
    if choice["finish_reason"] == "tool_calls":
        choice["finish_reason"] = "stop"
