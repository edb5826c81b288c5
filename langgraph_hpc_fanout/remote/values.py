"""What users' functions return, as JSON data: nothing else travels."""

from __future__ import annotations

import json
from typing import Any

import orjson


def to_json(value: Any) -> Any:
    """A value as dicts, lists, texts, numbers, booleans and None.

    Dataclasses and pydantic models become dicts, arrays lists, dates and enums their usual texts
    and values. Numbers that JSON does not have, such as NaN, are no data.

    Raises:
        TypeError: If something in it has no such form; the message says what.
    """
    try:
        return json.loads(json.dumps(value, default=_plain, allow_nan=False))
    except (ValueError, RecursionError) as error:
        raise TypeError(str(error)) from None


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        return value.tolist()
    if hasattr(value, "model_dump"):  # pydantic's models
        return value.model_dump(mode="json")
    try:  # dataclasses, dates, enums, UUIDs
        return orjson.loads(orjson.dumps(value))
    except orjson.JSONEncodeError:
        raise TypeError(f"{type(value).__name__} is no JSON data") from None
