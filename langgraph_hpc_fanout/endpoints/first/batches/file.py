"""The file that a batch reads: one request a line, in OpenAI's batch format.

FIRST gives the file to vLLM's `run_batch` as it is (FIRST main 329c0cd, compute-functions/), which
needs `custom_id`, `method`, `url` and `body` in each line, whatever the user guide shows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import orjson

from langgraph_hpc_fanout.atomic import replacing
from langgraph_hpc_fanout.endpoints.chat import wire_body
from langgraph_hpc_fanout.records import Request

MOST_LINES = 150_000
"""Requests in a file (ALCF user guide 7d04a3f)."""

_MOST_DIGITS = 9
_PREFIX = "hpc-fanout-"
_CHAT = b'"method":"POST","url":"/v1/chat/completions","body":'


def name_of(batch: str) -> str:
    """Name of the file of a batch, by which it is known again in the gateway's list."""
    return f"{_PREFIX}{batch}.jsonl"


def results_pattern(batch: str) -> str:
    """What the names of a batch's results match: FIRST adds the time at which it began."""
    return f"{_PREFIX}{batch}_*.results.jsonl"


def results_folders(batch: str) -> str:
    """What the names of folders match in which FIRST puts a batch's results, a folder each.

    They have the model and FIRST's id of the batch (FIRST b618b84, compute-functions/).
    """
    return f"{_PREFIX}{batch}_*/"


def id_of_line(batch: str, position: int) -> str:
    """The `custom_id` of a request: no other batch has it."""
    return f"{batch}-{position}"


def position_of(batch: str, custom_id: object, most: int) -> int | None:
    """The place of a request in its batch; None of what is none of the batch's."""
    if not isinstance(custom_id, str) or not custom_id.startswith(f"{batch}-"):
        return None
    digits = custom_id[len(batch) + 1 :]
    if not (digits.isascii() and digits.isdigit()) or len(digits) > _MOST_DIGITS:
        return None
    position = int(digits)
    return position if position < most and digits == str(position) else None


def line_of(custom_id: str, request: Request, served: str) -> bytes:
    """One line, with its end."""
    return b'{"custom_id":%b,%b%b}\n' % (orjson.dumps(custom_id), _CHAT, wire_body(request, served))


def write_file(path: Path, batch: str, requests: Iterable[Request], served: str) -> None:
    """Write a batch's file, which appears whole or not at all. Blocks.

    Args:
        path: Of the file.
        batch: Name of the batch.
        requests: Its requests, in the order of their positions.
        served: The id of their model.

    Raises:
        OSError: If it cannot be written.
    """
    with replacing(path, path.with_name(f"{path.name}.{os.getpid()}.draft")) as file:
        for position, request in enumerate(requests):
            file.write(line_of(id_of_line(batch, position), request, served))
