"""Keys: what is asked, in 32 characters. Equal keys are the same question."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import orjson

from langgraph_hpc_fanout.tasks.values import plain

_KEY_BYTES = 16


def content_key(asked: Any) -> str:
    """The key of JSON data, whatever the order of its fields.

    Raises:
        TypeError: If it is none.
    """
    return _digest(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS))


def item_key(item: Any) -> str:
    """The key of anything that has a form as JSON: models, dataclasses, dates, numbers of any size.

    Raises:
        TypeError: If something in it has none. Its `repr` would not do: it may leave out what
            makes two things different, or change from one process to the next.
    """
    # Not orjson, which writes one null for all numbers that are not finite.
    return _digest(json.dumps(item, default=plain, sort_keys=True).encode())


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=_KEY_BYTES).hexdigest()
