"""Templates over langchain-core: which fields they want, and messages from an item."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from string import Formatter
from typing import Any

from langchain_core.messages import convert_to_openai_messages
from langchain_core.prompts import BasePromptTemplate
from langchain_core.prompts.string import get_template_variables
from pydantic import BaseModel

Message = dict[str, Any]
Render = Callable[[Mapping[str, Any]], list[Message]]

_SCALARS = (str, int, float, bool)
_CONVERSIONS = (None, "r", "s", "a")
_ABSENT = object()


class MissingFieldError(LookupError):
    """A template wants a field that an item does not have."""


class Template:
    """A prompt template and the fields it needs.

    Args:
        template: Text with `{fields}`, or a langchain-core prompt template.
        system: System text, which may have `{fields}` too.

    Raises:
        ValueError: If the text cannot be read as a template.
        TypeError: If `template` is neither, or `system` is given beside a chat template.
    """

    def __init__(self, template: str | BasePromptTemplate[Any], system: str | None) -> None:
        self.text = template if isinstance(template, str) else repr(template)
        if isinstance(template, str):
            self.fields, self._render = _from_text(template, system)
        elif isinstance(template, BasePromptTemplate):
            self.fields, self._render = _from_langchain(template, system)
        else:
            raise TypeError(
                f"A prompt is a text or a langchain-core template, not {type(template).__name__}."
            )

    def render(self, item: Any, shared: Mapping[str, Any]) -> list[Message]:
        """Messages for one item.

        Raises:
            MissingFieldError: If neither the item nor `shared` has a field.
        """
        values = {name: self._value(name, item, shared) for name in self.fields}
        return self._render(values)

    def missing(self, items: Iterable[Any], shared: Mapping[str, Any]) -> list[str]:
        """Fields that neither `shared` nor any of the items has."""
        wanted = [name for name in self.fields if name not in shared]
        for item in items:
            wanted = [name for name in wanted if not has_field(item, name)]
            if not wanted:
                break
        return wanted

    @staticmethod
    def _value(name: str, item: Any, shared: Mapping[str, Any]) -> Any:
        value = field_of(item, name, _ABSENT)
        if value is _ABSENT:
            value = shared.get(name, _ABSENT)
        if value is _ABSENT:
            raise MissingFieldError(f"it has no field {name!r}, which the prompt wants")
        return value


def field_of(item: Any, name: str, default: Any = None) -> Any:
    """A field of a mapping, a dataclass or a pydantic model; `item` of a scalar is itself."""
    if isinstance(item, Mapping):
        return item.get(name, default)
    if isinstance(item, _SCALARS) or item is None:
        return item if name == "item" and item is not None else default
    if isinstance(item, BaseModel) or dataclasses.is_dataclass(item):
        value = getattr(item, name, default)
        return default if name.startswith("__") or inspect.ismethod(value) else value
    raise TypeError(
        f"it is a {type(item).__name__}; a prompt takes mappings, dataclasses, pydantic models, "
        "texts and numbers"
    )


def has_field(item: Any, name: str) -> bool:
    """Whether an item has a field; one without any fields has none."""
    try:
        return field_of(item, name, _ABSENT) is not _ABSENT
    except TypeError:  # its own failure, told when it is asked
        return False


def _from_text(text: str, system: str | None) -> tuple[tuple[str, ...], Render]:
    fields = set(_fields_of(text))
    parts = [("user", text)]
    if system is not None:
        fields.update(_fields_of(system))
        parts.insert(0, ("system", system))

    def render(values: Mapping[str, Any]) -> list[Message]:
        # str.format_map, not langchain's format: the same f-string rules at a fortieth of the
        # cost, once langchain-core has validated the template.
        return [{"role": role, "content": part.format_map(values)} for role, part in parts]

    return tuple(sorted(fields)), render


def _fields_of(text: str) -> list[str]:
    try:
        for _, _, _, conversion in Formatter().parse(text):
            if conversion not in _CONVERSIONS:
                raise ValueError(f"!{conversion} is no conversion")
        return get_template_variables(text, "f-string")
    except ValueError as error:
        raise ValueError(
            f"The prompt {text[:60]!r} is no template: {error}. Write braces that are meant "
            "literally twice, as in {{ and }}."
        ) from error


def _from_langchain(
    template: BasePromptTemplate[Any], system: str | None
) -> tuple[tuple[str, ...], Render]:
    if system is not None:
        raise TypeError("Put the system text into the langchain-core template, not in system=.")

    def render(values: Mapping[str, Any]) -> list[Message]:
        messages = template.format_prompt(**values).to_messages()
        converted = convert_to_openai_messages(messages)
        return converted if isinstance(converted, list) else [converted]

    return tuple(sorted(template.input_variables)), render
