"""Keys: what is asked, in 32 characters. Equal keys are the same question."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from langgraph_hpc_fanout.tasks.values import to_json

_KEY_BYTES = 16


def content_key(asked: Any) -> str:
    """The key of JSON data, whatever the order of its fields.

    Raises:
        TypeError: If it is none.
    """
    return _digest(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS))


def item_key(item: Any) -> str:
    """The key of anything; of what has no form as JSON, by its `repr`."""
    options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    return _digest(orjson.dumps(item, default=_plain_or_repr, option=options))


def _plain_or_repr(value: Any) -> Any:
    try:
        return to_json(value)
    except TypeError:
        return repr(value)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=_KEY_BYTES).hexdigest()
