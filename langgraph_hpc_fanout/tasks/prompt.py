"""The task that asks a model one question an item."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import orjson
from langchain_core.prompts import BasePromptTemplate

from langgraph_hpc_fanout.endpoints.chat import estimate_tokens, text_of
from langgraph_hpc_fanout.records import NOTHING, Outcome, Request
from langgraph_hpc_fanout.tasks.answer import Answer, read_answer
from langgraph_hpc_fanout.tasks.template import MissingFieldError, Template

_KEY_BYTES = 16
_OURS = ("messages", "model", "stream", "n")


class Prompt:
    """One chat completion for each item.

    Fields of the template are taken from the item (a mapping, a dataclass or a pydantic
    model; `{item}` is a text or number itself), then from the state keys that the fan-out
    shares.

    Args:
        template: Text with `{fields}`, or a langchain-core prompt template.
        system: System text; it may have fields too.
        model: Logical model name; by default the only model that the pool serves.
        max_tokens: Most tokens of an answer.
        temperature: Sampling temperature.
        seed: Sampling seed.
        stop: Texts at which an answer ends.
        extra_body: Further fields of the request's body, for example `{"top_k": 20}`.
        allow_truncated: Whether an answer that was cut off at `max_tokens` counts. By default
            it is a failure of kind `invalid_output` that keeps the text in `meta["raw"]`.

    Raises:
        ValueError: If the template cannot be read, or a parameter cannot be sent.

    Example:
        ```python
        prompt = Prompt("Is {smiles} soluble in water?", max_tokens=8, temperature=0)
        prompt.request({"smiles": "CCO"}).body["messages"]
        ```
    """

    def __init__(
        self,
        template: str | BasePromptTemplate[Any],
        *,
        system: str | None = None,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        stop: str | Iterable[str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        allow_truncated: bool = False,
    ) -> None:
        self._template = Template(template, system)
        self.model = model
        self._max_tokens = _positive(max_tokens)
        self._allow_truncated = allow_truncated
        given = {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
            "stop": [stop] if isinstance(stop, str) else list(stop) if stop is not None else None,
        }
        parameters = {name: value for name, value in given.items() if value is not None}
        self._parameters: Mapping[str, Any] = MappingProxyType(
            parameters | _checked_extra(extra_body, taken=parameters)
        )

    def __repr__(self) -> str:
        model = "" if self.model is None else f", model={self.model!r}"
        return f"Prompt({self._template.text!r}{model})"

    def describe(self) -> str:
        """The prompt in a line, for graphs and logs."""
        text = " ".join(self._template.text.split())
        return text if len(text) <= 80 else f"{text[:79]}…"

    def missing_fields(self, items: Iterable[Any], shared: Mapping[str, Any]) -> list[str]:
        """Fields of the template that neither `shared` nor any item has."""
        return self._template.missing(items, shared)

    def request(
        self, item: Any, shared: Mapping[str, Any] = NOTHING, *, model: str | None = None
    ) -> Request:
        """What is sent for an item.

        Args:
            item: One item.
            shared: Fields for those that the item does not have.
            model: The logical model where the prompt names none.

        Raises:
            MissingFieldError: If a field is neither in the item nor in `shared`.
            TypeError: If the item is of a kind that has no fields.
        """
        messages = self._template.render(item, shared)
        body = {"messages": messages, **self._parameters}
        asked = self.model or model
        identity = orjson.dumps({"model": asked, "body": body, "sample": 0}, option=_CANONICAL)
        key = hashlib.blake2b(identity, digest_size=_KEY_BYTES).hexdigest()
        tokens = sum(estimate_tokens(text_of(message)) for message in messages)
        return Request(key, asked, body, tokens, self._max_tokens)

    def accepts(self, outcome: Outcome) -> bool:
        """Whether an earlier answer to the same question counts here as well."""
        return self._allow_truncated or outcome.finish_reason != "length"

    def read(self, body: Mapping[str, Any]) -> Answer:
        """The answer in a chat completion."""
        return read_answer(body, allow_truncated=self._allow_truncated)


_CANONICAL = orjson.OPT_SORT_KEYS


def item_key(item: Any) -> str:
    """A key for an item of which no request could be made."""
    identity = orjson.dumps(item, default=repr, option=_CANONICAL | orjson.OPT_NON_STR_KEYS)
    return hashlib.blake2b(identity, digest_size=_KEY_BYTES).hexdigest()


def _positive(max_tokens: int | None) -> int | None:
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"Prompt(max_tokens={max_tokens!r}) leaves no room for an answer.")
    return max_tokens


def _checked_extra(extra: Mapping[str, Any] | None, taken: Iterable[str]) -> dict[str, Any]:
    body = dict(extra or {})
    if twice := [name for name in taken if name in body]:
        raise ValueError(f"Prompt gives {', '.join(twice)} twice: once in extra_body=.")
    if ours := [name for name in _OURS if name in body]:
        raise ValueError(
            f"Prompt(extra_body=...) may not set {', '.join(ours)}: the fan-out sets messages, "
            "model and stream itself, and reads one choice an item."
        )
    try:
        orjson.dumps(body)
    except TypeError as error:
        raise ValueError(f"Prompt(extra_body=...) cannot be sent as JSON: {error}.") from error
    return body


__all__ = ["MissingFieldError", "Prompt", "item_key"]
