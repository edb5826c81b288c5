"""Outcomes as the output and error files of the OpenAI batch API."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import orjson

from langgraph_hpc_fanout.journal.export.files import PathLike, replacing_text
from langgraph_hpc_fanout.records import Failure, Outcome


def to_openai_batch(
    results: Iterable[Outcome], output: PathLike, errors: PathLike
) -> tuple[int, int]:
    """Write answers and failures as a batch of the OpenAI API would have left them.

    `custom_id` is the outcome's key. Completions are rebuilt from what an outcome keeps, so
    `created` is 0; an answer that is no text is its content as JSON. A failure with an HTTP status
    is a response with that status, any other an error whose code is the failure's kind.

    Args:
        results: The outcomes.
        output: File for those with an answer, compressed when it ends in `.gz`.
        errors: File for the others.

    Returns:
        Number of lines in each.

    Raises:
        ValueError: If both are one file.
        OSError: If a file cannot be written.
    """
    if os.path.realpath(output) == os.path.realpath(errors):
        raise ValueError(f"Answers and errors cannot both be written to {output}: name two files.")
    answered = failed = 0
    with replacing_text(errors) as error_file, replacing_text(output) as output_file:
        for number, outcome in enumerate(results):
            answered += outcome.ok
            failed += not outcome.ok
            (output_file if outcome.ok else error_file).write(_line(number, outcome))
    return answered, failed


def _line(number: int, outcome: Outcome) -> bytes:
    response, error = _answer(outcome) if outcome.ok else _failure(outcome)
    line = {
        "id": f"batch_req_{number}",
        "custom_id": outcome.key,
        "response": response,
        "error": error,
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _answer(outcome: Outcome) -> tuple[dict[str, Any], None]:
    return _response(outcome, 200, _completion(outcome)), None


def _failure(outcome: Outcome) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    failure = outcome.error or Failure("permanent", "No reason was kept.")
    if failure.status is None or failure.status < 400:
        return None, {"code": failure.kind, "message": failure.message}
    error = {"message": failure.message, "type": failure.kind, "param": None, "code": None}
    return _response(outcome, failure.status, {"error": error}), None


def _response(outcome: Outcome, status: int, body: dict[str, Any]) -> dict[str, Any]:
    return {"status_code": status, "request_id": outcome.key, "body": body}


def _completion(outcome: Outcome) -> dict[str, Any]:
    value, usage = outcome.value, outcome.usage
    content = value if isinstance(value, str) else orjson.dumps(value).decode()
    return {
        "id": f"chatcmpl-{outcome.key}",
        "object": "chat.completion",
        "created": 0,
        "model": outcome.model or "",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": None},
                "logprobs": None,
                "finish_reason": outcome.finish_reason or "stop",
            }
        ],
        "usage": usage
        and {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        },
    }
