"""What a chat completion says: a value that can be used, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langgraph_hpc_fanout.endpoints.chat import text_of
from langgraph_hpc_fanout.tasks.schema import MisfitError, Schema

_CUT_OFF = "was cut off at max_tokens; raise"


@dataclass(frozen=True, slots=True)
class Answer:
    """The reading of one completion.

    Attributes:
        text: What the model wrote, complete or not.
        value: What it comes to: the text, or the plain data in it; None with a fault.
        fault: Why it is not an answer, as the end of a sentence; None when it is one.
        misfit: Where the text does not fit the schema, when that is the fault.
        finish_reason: The server's own word for why it stopped.
        choices: How many choices came; the first is read.
    """

    text: str
    value: Any
    fault: str | None
    misfit: str | None
    finish_reason: str | None
    choices: int


def read_answer(
    body: Mapping[str, Any], *, allow_truncated: bool, schema: Schema | None = None
) -> Answer:
    """Read the first choice of a completion.

    Args:
        body: A chat completion with at least one choice that has a message.
        allow_truncated: Whether a text that was cut off is an answer.
        schema: What the text must fit.
    """
    choice = body["choices"][0]
    message = choice["message"]
    reason = choice.get("finish_reason")
    text = text_of(message)
    if schema is not None:
        return _read_data(body, text, reason, schema)
    fault = _fault(message, text, reason, allow_truncated=allow_truncated)
    if fault is not None and not text:
        text = _other_text(message)
    value = text if fault is None else None
    return Answer(text, value, fault, None, reason, len(body["choices"]))


def _read_data(body: Mapping[str, Any], text: str, reason: str | None, schema: Schema) -> Answer:
    """The data in an answer; whole data counts even where blanks behind it were cut off."""
    message, choices = body["choices"][0]["message"], len(body["choices"])
    fault = _fault(message, text, reason, allow_truncated=True)
    if fault is not None:
        return Answer(text or _other_text(message), None, fault, None, reason, choices)
    try:
        return Answer(text, schema.read(text), None, None, reason, choices)
    except MisfitError as error:
        if reason == "length":  # asked again, it would be cut off again
            return Answer(text, None, f"{_CUT_OFF} it", None, reason, choices)
        fault = f"does not fit the schema: {error}"
        return Answer(text, None, fault, str(error), reason, choices)


def _fault(
    message: Mapping[str, Any], text: str, reason: str | None, *, allow_truncated: bool
) -> str | None:
    if message.get("refusal"):
        return "was refused by the model"
    if reason == "content_filter":
        return "was stopped by a content filter"
    if not text.strip():
        if _reasoning(message):
            return "has reasoning but no answer; raise max_tokens"
        cut_off = "was cut off before its first word; raise max_tokens"
        return cut_off if reason == "length" else "is empty"
    if reason == "length" and not allow_truncated:
        return f"{_CUT_OFF} it, or accept such answers with allow_truncated"
    return None


def _reasoning(message: Mapping[str, Any]) -> str:
    """Servers call it `reasoning_content` (vLLM, FIRST) or `reasoning` (newer vLLM)."""
    found = message.get("reasoning_content") or message.get("reasoning")
    return found if isinstance(found, str) else ""


def _other_text(message: Mapping[str, Any]) -> str:
    refusal = message.get("refusal")
    return refusal if isinstance(refusal, str) else _reasoning(message)
