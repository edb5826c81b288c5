"""The task that asks a model one question an item."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Self

import orjson
from langchain_core.prompts import BasePromptTemplate

from langgraph_hpc_fanout.endpoints.chat import estimate_tokens, text_of
from langgraph_hpc_fanout.records import NOTHING, Outcome, Request
from langgraph_hpc_fanout.tasks.answer import Answer, read_answer
from langgraph_hpc_fanout.tasks.keys import content_key
from langgraph_hpc_fanout.tasks.schema import Schema
from langgraph_hpc_fanout.tasks.template import MissingFieldError, Template

_OURS = ("messages", "model", "stream", "n")
_FORMAT = "response_format"


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
        allow_truncated: Whether a text that was cut off at `max_tokens` counts. By default
            it is a failure of kind `invalid_output` that keeps the text in `meta["raw"]`.
        schema: A pydantic model, or a JSON schema, that answers must fit. Values are then
            plain data; `parse` gives the model back.
        reasks: How often to ask again, with the reason, when an answer does not fit the schema.
        samples: How often to ask for each item. Each answer is an outcome of its own, with
            its `sample` number; a `seed` is raised by it.

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
        schema: Any = None,
        reasks: int = 2,
        samples: int = 1,
    ) -> None:
        if reasks < 0:
            raise ValueError(f"Prompt(reasks={reasks!r}) must not be negative.")
        self._template = Template(template, system)
        self.model = model
        self.reasks = reasks
        self.samples = _at_least_one(samples)
        self._allow_truncated = allow_truncated
        self._schema = None if schema is None else Schema(schema)
        given: dict[str, Any] = {
            "max_tokens": _positive(max_tokens),
            "temperature": temperature,
            "seed": seed,
            "stop": [stop] if isinstance(stop, str) else list(stop) if stop is not None else None,
        }
        if self._schema is not None:
            given[_FORMAT] = self._schema.response_format
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
        self,
        item: Any,
        shared: Mapping[str, Any] = NOTHING,
        *,
        model: str | None = None,
        sample: int = 0,
    ) -> Request:
        """What is sent for an item.

        Args:
            item: One item.
            shared: Fields for those that the item does not have.
            model: The logical model where the prompt names none.
            sample: Number of the sample, from 0.

        Raises:
            MissingFieldError: If a field is neither in the item nor in `shared`.
            TypeError: If the item is of a kind that has no fields.
        """
        messages = self._template.render(item, shared)
        body = {"messages": messages, **self._parameters}
        if sample and "seed" in body:
            body["seed"] += sample
        asked = self.model or model
        key = content_key({"model": asked, "body": body, "sample": sample})
        return Request(key, asked, body, _tokens_of(messages), body.get("max_tokens"))

    def ask_again(self, request: Request, answer: Answer) -> Request:
        """The request once more, with an answer that does not fit the schema and the reason."""
        assert self._schema is not None  # noqa: S101 - narrows the type
        complaint = f"That does not fit: {answer.misfit}. {self._schema.instructions}"
        return _with_messages(
            request,
            [
                *request.body["messages"],
                {"role": "assistant", "content": answer.text},
                {"role": "user", "content": complaint},
            ],
        )

    def in_words(self, request: Request) -> Request:
        """The request with its schema as instructions, for a server that refuses schemas."""
        assert self._schema is not None  # noqa: S101 - narrows the type
        said = self._schema.instructions
        first, *others = request.body["messages"]
        if first["role"] == "system":
            messages = [{**first, "content": f"{text_of(first)}\n\n{said}"}, *others]
        else:
            messages = [{"role": "system", "content": said}, first, *others]
        body = {name: value for name, value in request.body.items() if name != _FORMAT}
        return _with_messages(replace(request, body=body), messages)

    def has_schema(self, request: Request) -> bool:
        """Whether a request carries this prompt's schema, for the server to keep to."""
        return self._schema is not None and _FORMAT in request.body

    def adapted(
        self, *, model: str | None = None, samples: int | None = None, **parameters: Any
    ) -> Self:
        """The same prompt with other settings; None leaves one as it is.

        Args:
            model: Logical model name.
            samples: How often to ask for each item.
            parameters: Fields of the request's body, such as `temperature`.

        Raises:
            ValueError: If one cannot be sent.
        """
        if "max_tokens" in parameters:
            _positive(parameters["max_tokens"])
        wished = {name: value for name, value in parameters.items() if value is not None}
        adapted = copy.copy(self)
        adapted.model = model or self.model
        adapted.samples = self.samples if samples is None else _at_least_one(samples)
        adapted._parameters = MappingProxyType(  # noqa: SLF001
            {**self._parameters, **_checked_extra(wished, taken=())}
        )
        return adapted

    def accepts(self, outcome: Outcome) -> bool:
        """Whether an earlier answer to the same question counts here as well."""
        if self._schema is not None:  # under a key of the user's, it may have been another one
            return self._schema.fits(outcome.value)
        return self._allow_truncated or outcome.finish_reason != "length"

    def read(self, body: Mapping[str, Any]) -> Answer:
        """The answer in a chat completion."""
        return read_answer(body, allow_truncated=self._allow_truncated, schema=self._schema)

    def parse(self, value: Any) -> Any:
        """The model that `schema=` names, made of an outcome's value; None stays None.

        Example:
            ```python
            predictions = [prompt.parse(value) for value in state["predictions"]]
            ```
        """
        return value if self._schema is None else self._schema.parse(value)


def _with_messages(request: Request, messages: list[dict[str, Any]]) -> Request:
    """The same question in other words: its key stays."""
    body = {**request.body, "messages": messages}
    return replace(request, body=body, prompt_tokens=_tokens_of(messages))


def _tokens_of(messages: Iterable[Mapping[str, Any]]) -> int:
    return sum(estimate_tokens(text_of(message)) for message in messages)


def _at_least_one(samples: int) -> int:
    if samples < 1:
        raise ValueError(f"Prompt(samples={samples!r}) must be at least 1.")
    return samples


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
            f"A prompt's parameters may not set {', '.join(ours)}: the fan-out sets messages, "
            "model and stream itself, and reads one choice an item."
        )
    try:
        orjson.dumps(body)
    except TypeError as error:
        raise ValueError(f"A prompt's parameters cannot be sent as JSON: {error}.") from error
    return body


__all__ = ["MissingFieldError", "Prompt"]
