"""Structured output: what answers must look like, told to the server, the model and the reader."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jsonschema_rs
import orjson
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from langgraph_hpc_fanout.records import Failure

_MOST_ERRORS = 5
_EXCERPT = 120
_FENCE = re.compile(r"```[a-zA-Z]*[^\S\n]*\n(.*?)```", re.DOTALL)
_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_REFUSED = re.compile(
    r"response_format|json[ _]?schema|(parse|compile) grammar|grammar error|xgrammar|guided decod"
    r"|structured output",
    re.IGNORECASE,
)
"""What servers say that cannot keep to a schema: llama.cpp ("JSON schema error at ...", "failed to
parse grammar"), vLLM ("Failed to compile grammar", "guided decoding"), OpenAI ("'response_format'
of type 'json_schema' is not supported with this model")."""
_KEYWORDS = {
    "$ref", "$defs", "type", "enum", "const", "properties", "items", "prefixItems", "required",
    "anyOf", "oneOf", "allOf", "not", "if", "additionalProperties", "patternProperties",
    "minimum", "maximum", "minLength", "maxLength", "pattern", "format", "minItems", "maxItems",
}  # fmt: skip
_REFUSALS = (400, 422, 500, 501)


class MisfitError(ValueError):
    """A text does not fit a schema; the message says where, for a person or a model."""


class Schema:
    """A JSON schema and what checks texts against it.

    Args:
        given: A pydantic model (or anything else that pydantic can validate, such as a
            dataclass), or a JSON schema.

    Raises:
        TypeError: If it is neither.
        ValueError: If the JSON schema is none.
    """

    def __init__(self, given: Any) -> None:
        self._adapter: TypeAdapter[Any] | None = None
        self._check: Callable[[str], Any]
        if isinstance(given, Mapping):
            self.document: dict[str, Any] = dict(given)
            self._validator = _validator(self.document)
            self._check = self._check_document
        else:
            self._adapter = adapter = _adapter(given)
            self.document = adapter.json_schema()
            self._check = self._check_model
        self.name = _NAME.sub("_", str(self.document.get("title") or "answer"))[:64]

    @property
    def response_format(self) -> dict[str, Any]:
        """The field of a chat request; OpenAI, vLLM and llama.cpp take the same one."""
        schema = {"name": self.name, "schema": self.document}
        return {"type": "json_schema", "json_schema": schema}

    @property
    def instructions(self) -> str:
        """The same for a model whose server does not know the field."""
        document = orjson.dumps(self.document).decode()
        return f"Answer only with JSON, without other text, that fits this JSON schema: {document}"

    def read(self, text: str) -> Any:
        """The plain data in an answer, of which `parse` makes the model; without a code fence.

        The data is as pydantic writes the model, with its defaults; or as it came, where reading
        that again would give another model.

        Raises:
            MisfitError: If it is no JSON, or does not fit.
        """
        *earlier, last = _candidates(text)
        for candidate in earlier:
            with contextlib.suppress(MisfitError):
                return self._check(candidate)
        return self._check(last)

    def fits(self, value: Any) -> bool:
        """Whether a value that was kept fits (still)."""
        try:
            self._check(orjson.dumps(value).decode())
        except (MisfitError, orjson.JSONEncodeError):
            return False
        return True

    def parse(self, value: Any) -> Any:
        """The pydantic model of an answer's plain data; plain data under a JSON schema."""
        if self._adapter is None or value is None:
            return value
        return self._adapter.validate_json(orjson.dumps(value))

    def _check_model(self, text: str) -> Any:
        assert self._adapter is not None  # noqa: S101 - narrows the type
        try:
            model = self._adapter.validate_json(text)
            value = self._adapter.dump_python(model, mode="json", by_alias=True)
            if self._gives_back(value, model):
                return value
            # Its validators change what they are given, or its aliases differ by direction.
            value = orjson.loads(text)
            orjson.dumps(value)
            if json.loads(text) != value:
                raise ValueError("a number is too large to be kept")
        except ValidationError as error:
            found = [
                f"{_path(each['loc'])}{each['msg']}" for each in error.errors(include_url=False)
            ]
            raise _misfit(found) from None
        except Exception as error:  # noqa: BLE001
            # The model's own code, or numbers and depths that JSON libraries do not take.
            raise _misfit([f"{type(error).__name__}: {error}"]) from None
        return value

    def _gives_back(self, value: Any, model: Any) -> bool:
        try:
            return bool(self.parse(value) == model)
        except (ValidationError, orjson.JSONEncodeError):
            return False

    def _check_document(self, text: str) -> Any:
        try:
            value = orjson.loads(text)
            orjson.dumps(value)  # what cannot be written cannot be kept
        except orjson.JSONDecodeError as error:
            raise MisfitError(f"Invalid JSON: {error}") from None
        except orjson.JSONEncodeError as error:
            raise _misfit([f"JSON that cannot be kept: {error}"]) from None
        errors = self._validator.iter_errors(value)
        if found := [f"{_path(each.instance_path)}{each.message}" for each in errors]:
            raise _misfit(found)
        return value


def refuses_schema(failure: Failure) -> bool:
    """Whether a server said that it cannot keep to a schema, or not to this one."""
    return failure.status in _REFUSALS and bool(_REFUSED.search(failure.message))


def _adapter(given: Any) -> TypeAdapter[Any]:
    try:
        if isinstance(given, str) or inspect.isroutine(given):
            raise TypeError  # pydantic would look for a class of that name, or check arguments
        return TypeAdapter(given)
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError):
        raise TypeError(
            f"Prompt(schema=...) takes a pydantic model or a JSON schema, not {given!r:.80}."
        ) from None


def _validator(document: dict[str, Any]) -> jsonschema_rs.Validator:
    if document and not _KEYWORDS & document.keys():
        raise ValueError(
            "Prompt(schema=...) is no JSON schema: it has none of its keywords, such as type; "
            'fields belong under {"type": "object", "properties": ...}.'
        )
    try:
        return jsonschema_rs.validator_for(document, retriever=_no_traffic)
    except Exception as error:  # noqa: BLE001 - it raises classes of several kinds
        why = str(error).partition("\n")[0]
        raise ValueError(f"Prompt(schema=...) is no JSON schema: {why}") from None


def _no_traffic(uri: str) -> Any:
    raise ValueError(f"{uri} is elsewhere; put it under $defs")


def _candidates(text: str) -> Iterator[str]:
    """The text itself, then what stands in its code fences."""
    yield text.strip()
    yield from (inside.strip() for inside in _FENCE.findall(text))


def _path(location: Any) -> str:
    return ".".join(map(str, location)) + ": " if location else ""


def _misfit(errors: list[str]) -> MisfitError:
    more = f" (and {len(errors) - _MOST_ERRORS} more)" if len(errors) > _MOST_ERRORS else ""
    shown = [error[:_EXCERPT] for error in errors[:_MOST_ERRORS]]
    return MisfitError("; ".join(shown) + more)
