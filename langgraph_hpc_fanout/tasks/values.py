"""What tasks return, as JSON data: the only thing that survives a journal and a checkpoint."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import orjson
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, BaseMessage
from pydantic import BaseModel


def to_json(value: Any) -> Any:
    """A value as dicts, lists, texts, numbers, booleans and None.

    Messages become what `langchain_core.load.load` reads, pydantic models and dataclasses dicts,
    arrays lists, dates and enums their usual texts and values.

    Raises:
        TypeError: If something in it has no such form; the message names its type.
    """
    try:
        written = orjson.dumps(value, default=plain)
    except orjson.JSONEncodeError as error:
        raise TypeError(str(error.__cause__ or error)) from None
    if b"null" in written and (odd := _not_finite(value)) is not None:
        raise TypeError(f"{odd} is no JSON data")
    return orjson.loads(written)


def plain(value: Any) -> Any:
    """One thing as JSON data, when it is none itself.

    Raises:
        TypeError: If it has no such form.
    """
    if isinstance(value, BaseMessage):
        return dumpd(_without_objects(value))
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):  # numpy's and pandas' numbers and arrays
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    try:  # dates, enums, UUIDs
        return orjson.loads(orjson.dumps(value))
    except orjson.JSONEncodeError:
        raise TypeError(f"{type(value).__name__} is no JSON data") from None


def _without_objects(message: BaseMessage) -> BaseMessage:
    """The message with the model that structured output leaves in it as plain data."""
    if not isinstance(message, AIMessage):
        return message
    parsed = message.additional_kwargs.get("parsed")
    if not isinstance(parsed, BaseModel):
        return message
    kwargs = {**message.additional_kwargs, "parsed": plain(parsed)}
    return message.model_copy(update={"additional_kwargs": kwargs})


def _not_finite(value: Any) -> float | None:
    """A number that JSON does not have, for which orjson writes null."""
    if isinstance(value, float):
        return None if math.isfinite(value) else value
    if hasattr(value, "tolist"):
        return _not_finite(value.tolist())
    inner: Any = ()
    if isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, list | tuple):
        inner = value
    return next((odd for each in inner if (odd := _not_finite(each)) is not None), None)
