"""What tasks return, as JSON data: the only thing that survives a journal and a checkpoint."""

from __future__ import annotations

from typing import Any

import orjson
from langchain_core.load import dumpd
from langchain_core.messages import BaseMessage
from pydantic import BaseModel


def to_json(value: Any) -> Any:
    """A value as dicts, lists, texts, numbers, booleans and None.

    Messages become what `langchain_core.load.load` reads, pydantic models and dataclasses dicts,
    dates and enums their usual texts and values.

    Raises:
        TypeError: If something in it has no such form; the message names its type.
    """
    try:
        return orjson.loads(orjson.dumps(value, default=_plain))
    except orjson.JSONEncodeError as error:
        raise TypeError(str(error.__cause__ or error)) from None


def _plain(value: Any) -> Any:
    if isinstance(value, BaseMessage):
        return dumpd(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is no JSON data")
