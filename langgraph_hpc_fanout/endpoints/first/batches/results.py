"""What a batch says of its end, and the file with its answers.

Lines are not in order, may be missing, and the last may be cut off: the documented sample has
99,985 answers to 100,000 requests (ALCF user guide 7d04a3f). So `custom_id` tells whose they are.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from langgraph_hpc_fanout.endpoints.chat import (
    error_message,
    failure_of,
    read_completion,
    usage_of,
)
from langgraph_hpc_fanout.endpoints.first.batches.file import position_of
from langgraph_hpc_fanout.records import Failure, Reply, Request

_READ_BYTES = 256_000
"""Of a file's lines, which are read before others have their turn."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What a completed batch says of itself.

    Attributes:
        results_file: Path of its results, on the cluster.
        answers: Answers that it has written; None where it does not say.
        seconds: How long it took; None where it does not say.
    """

    results_file: str
    answers: int | None = None
    seconds: float | None = None


def read_ended(raw: bytes) -> Ended:
    """Read what `/v1/batches/{id}/result` answers.

    It is a JSON string that holds the `repr` of a dict (FIRST main 329c0cd), or JSON with its
    figures in `metrics` (ALCF user guide 7d04a3f).

    Raises:
        ValueError: If it is neither, or names no file.
    """
    told = _unwrapped(raw)
    if not isinstance(told, dict) or not isinstance(told.get("results_file"), str):
        raise ValueError(f"no result of a batch but {raw[:200]!r}")
    nested = told.get("metrics")
    figures = {**told, **nested} if isinstance(nested, dict) else told
    answers, seconds = figures.get("num_responses"), figures.get("duration_sec")
    if seconds is None:
        seconds = figures.get("response_time")
    return Ended(
        told["results_file"],
        answers if isinstance(answers, int) else None,
        float(seconds) if isinstance(seconds, int | float) and seconds >= 0 else None,
    )


def _unwrapped(raw: bytes) -> object:
    try:
        told = orjson.loads(raw)
    except orjson.JSONDecodeError:
        told = raw.decode("utf-8", "replace")
    if not isinstance(told, str):
        return told
    try:
        return orjson.loads(told)
    except orjson.JSONDecodeError:
        pass
    try:
        return ast.literal_eval(told)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return told


class Reconciler:
    """Puts the lines of a batch's results to its requests.

    An answer counts before an error, whichever comes first, and of several answers the first.

    Args:
        batch: Name of the batch.
        requests: Its requests, in the order of their positions.
        seconds: What an answer took of the batch's time; None for not known.
        endpoint: Name of the endpoint, for failures.

    Attributes:
        lines: Whole lines that were read since `begin`.
        strange: Lines since then that could not be read, or are of another batch.
    """

    def __init__(
        self, batch: str, requests: Sequence[Request], seconds: float | None, endpoint: str
    ) -> None:
        self.lines = self.strange = 0
        self._batch = batch
        self._requests = requests
        self._seconds = seconds
        self._endpoint = endpoint
        self._answered = bytearray(len(requests))
        self._failures: dict[int, Failure] = {}

    @property
    def is_answered(self) -> bool:
        """Whether any request has an answer."""
        return any(self._answered)

    @property
    def is_told_of(self) -> bool:
        """Whether there is a line of any request, be it an error."""
        return self.is_answered or bool(self._failures)

    def begin(self) -> None:
        """Results are read from their beginning; what was found before stays."""
        self.lines = self.strange = 0

    def take(self, line: bytes) -> Reply | None:
        """The reply that a line gives, if it is an answer that was not given before."""
        try:
            told = orjson.loads(line)
            position = position_of(self._batch, told["custom_id"], len(self._requests))
        except (orjson.JSONDecodeError, KeyError, TypeError):
            position, told = None, None
        if position is None or not isinstance(told, dict):
            self._strange(line)
            return None
        if self._answered[position]:
            self.lines += 1
            return None
        try:
            reply = self._reply(position, told)
        except TypeError:  # orjson reads what is nested deeper than what it writes
            self._strange(line)
            return None
        self.lines += 1
        if reply.failure is not None:
            self._failures.setdefault(position, reply.failure)
            return None
        self._answered[position] = 1
        self._failures.pop(position, None)
        return reply

    def _strange(self, line: bytes) -> None:
        """Count what is no line of the batch's; one without an end may still be under way."""
        self.strange += 1
        self.lines += line.endswith(b"\n") and not line.isspace()

    def rest(self, lost: Failure) -> Iterator[Reply]:
        """Replies to all requests without an answer.

        Args:
            lost: Why those have none of which there is no line.
        """
        for position, is_answered in enumerate(self._answered):
            if not is_answered:
                yield Reply(position, failure=self._failures.get(position, lost))

    def _reply(self, position: int, told: Mapping[str, Any]) -> Reply:
        response = told.get("response")
        response = response if isinstance(response, dict) else {}
        error, status = told.get("error"), response.get("status_code")
        body = response.get("body")
        if error is None and status in (None, 200):
            try:
                completion = read_completion(orjson.dumps(body))
            except ValueError as why:
                message = f"{self._endpoint} answered {why}."
                return Reply(position, failure=self._transient(message))
            usage = usage_of(self._requests[position], completion)
            return Reply(position, body=completion, usage=usage, seconds=self._seconds)
        raw = orjson.dumps({"error": body if error is None else error})
        if (status := _status_of(status, error)) is None:
            message = f"{self._endpoint} answered in a batch: {error_message(raw)}"
            return Reply(position, failure=self._transient(message))
        return Reply(position, failure=failure_of(status, raw, self._endpoint))

    def _transient(self, message: str) -> Failure:
        return Failure("transient", message, None, True, self._endpoint)


def _status_of(status: object, error: object) -> int | None:
    """The HTTP status of a line's error: its own, or the one in the error."""
    if isinstance(status, int) and status != 200:
        return status
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, dict):  # as vLLM nests it, from 0.10 on
        code = code.get("code")
    return code if isinstance(code, int) and 400 <= code < 600 else None


def read_replies(paths: Sequence[Path], reconciler: Reconciler) -> Iterator[list[Reply]]:
    """Answers in files of results that were not given before, some at a time. Blocks.

    Raises:
        OSError: If a file cannot be read.
    """
    reconciler.begin()
    for path in paths:
        with path.open("rb") as file:
            while lines := file.readlines(_READ_BYTES):
                yield [reply for each in lines if (reply := reconciler.take(each)) is not None]
