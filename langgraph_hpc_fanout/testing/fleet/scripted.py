"""Answers as a model gives them that does what it is told: tools, JSON, else an echo."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from langgraph_hpc_fanout.testing.fleet.answers import echo, last_user_message, text_of
from langgraph_hpc_fanout.testing.fleet.schemas import fitting, names, quoted

_COMMON = (
    "about after also from function give have input into please return returns some tell that "
    "their them then there these this tool using value what when where which will with would your"
)
"""Words that say nothing about a tool."""
_LONG_ENOUGH = 4


def scripted(body: Mapping[str, Any]) -> str | Mapping[str, Any]:
    """The answer to a request, made of nothing but the request.

    In this order:

    - A call of a tool, with arguments that fit its parameters: whenever `tool_choice` forces one;
      else when the last message is the user's and either names a tool or shares a word with its
      name, description or parameters.
    - JSON, when `response_format` wants some: what fits the schema; without one, an object with
      the keys that the user's text has in quotation marks.
    - The results of tools, when they are the last messages.
    - `echo` of the last user message.

    Use it as `FakeFleet(answer=scripted)`.

    Raises:
        ValueError: If no value fits the schema, or `tool_choice` names none of the tools.
    """
    text = last_user_message(body)
    if (tool := _tool_to_call(body, text)) is not None:
        return {"content": None, "tool_calls": [_call(tool, text)]}
    if (schema := _schema(body.get("response_format"), text)) is not None:
        return orjson.dumps(fitting(schema, text)).decode()
    if results := _tool_results(body["messages"]):
        return f"The tools say: {'; '.join(results)}"
    return echo(text)


def _tool_to_call(body: Mapping[str, Any], text: str) -> Mapping[str, Any] | None:
    """The function to call, if any is to be."""
    functions = [tool["function"] for tool in body.get("tools") or ()]
    choice = body.get("tool_choice") or "auto"
    if not functions or choice == "none":
        return None
    if isinstance(choice, Mapping):
        return _named(functions, choice["function"]["name"])
    best: Mapping[str, Any] = max(functions, key=lambda each: _relevance(each, text))
    if choice in ("required", "any"):
        return best
    asked = [message.get("role") for message in body["messages"][-1:]] == ["user"]
    return best if asked and any(_relevance(best, text)) else None


def _named(functions: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    for function in functions:
        if function["name"] == name:
            return function
    raise ValueError(f"tool_choice names {name!r}, which is none of the tools")


def _relevance(function: Mapping[str, Any], text: str) -> tuple[bool, int]:
    """Whether a text names a function, and how many words the two share."""
    properties = (function.get("parameters") or {}).get("properties", {})
    told = [function["name"], function.get("description") or "", *properties]
    told += [each.get("description") or "" for each in properties.values()]
    return names(text, function["name"]), len(_words(" ".join(told)) & _words(text))


def _words(text: str) -> set[str]:
    """The words of a text that mean something."""
    words = {word for word in re.split(r"[\W_]+", text.lower()) if len(word) >= _LONG_ENOUGH}
    return words.difference(_COMMON.split())


def _call(function: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A tool call as OpenAI writes it: an id of 24 letters and digits, arguments as text.

    See https://platform.openai.com/docs/guides/function-calling.
    """
    arguments = fitting({"type": "object", **(function.get("parameters") or {})}, text)
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": function["name"], "arguments": orjson.dumps(arguments).decode()},
    }


def _schema(wanted: Mapping[str, Any] | None, text: str) -> Mapping[str, Any] | None:
    """The schema that an answer must fit, if it must fit one."""
    match wanted:
        case {"type": "json_schema", "json_schema": {"schema": Mapping() as schema}}:
            return schema
        case {"type": "json_object"}:
            keys = [each for each in quoted(text) if each.isidentifier()]
            return {"type": "object", "required": keys or ["answer"]}
        case _:
            return None


def _tool_results(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the tools returned whose results are the last messages."""
    results: list[str] = []
    for message in reversed(messages):
        if message.get("role") != "tool":
            break
        results.insert(0, text_of(message.get("content")))
    return results
