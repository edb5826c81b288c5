"""The node that runs batches: reads a file, answers its lines, appends to another.

See FIRST main 329c0cd, its batch function, and vLLM's `vllm.entrypoints.openai.run_batch`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from langgraph_hpc_fanout.testing.first.backend import Backend
from langgraph_hpc_fanout.testing.first.batches import Batch
from langgraph_hpc_fanout.testing.first.checks import flaws, prompt_of
from langgraph_hpc_fanout.testing.first.clock import Clock, Timers
from langgraph_hpc_fanout.testing.first.faults import Faults
from langgraph_hpc_fanout.testing.first.model import Answer
from langgraph_hpc_fanout.testing.first.spec import ROUTES, Batching, ColdStart
from langgraph_hpc_fanout.testing.fleet.faults import Attempt

_SLICE = 200
"""Lines that are answered at once, so that the loop has time for others."""
_ENDPOINTS = {f"/v1/{route}": route for route in ROUTES}

Line = dict[str, Any]


class BatchFailedError(Exception):
    """A batch cannot go on."""


class Files:
    """A directory that stands for a cluster's file system.

    Args:
        root: The directory, or None for an empty file system.
    """

    def __init__(self, root: Path | None) -> None:
        self._root = None if root is None else root.resolve()

    def find(self, path: str) -> Path:
        """Where a path of the cluster is.

        A path that lies in the directory already is taken as it is.

        Raises:
            BatchFailedError: If it leads out of the file system.
        """
        if self._root is not None:
            plain = Path(path)
            inside = plain if plain.is_relative_to(self._root) else self._root / path.lstrip("/")
            if (found := inside.resolve()).is_relative_to(self._root):
                return found
        raise BatchFailedError(f"[Errno 2] No such file or directory: {path!r}")


class BatchNode:
    """Runs batches, a few at once for each cluster.

    Args:
        clock: The fake's clock.
        timers: Its timers.
        cold: How long a job waits, and a model loads.
        batching: How batches run.
        files: The clusters' file system.
        backend: Who answers in the models' place.
        faults: What goes wrong.
    """

    def __init__(
        self,
        clock: Clock,
        timers: Timers,
        *,
        cold: ColdStart,
        batching: Batching,
        files: Files,
        backend: Backend,
        faults: Faults,
    ) -> None:
        self._clock = clock
        self._timers = timers
        self._cold = cold
        self._batching = batching
        self._files = files
        self._backend = backend
        self._faults = faults
        self._blocks: dict[str, asyncio.Semaphore] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, batch: Batch) -> None:
        """Let a batch run, whatever its client does."""
        task = asyncio.get_running_loop().create_task(self._run(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, batch: Batch) -> None:
        cluster = batch.site.cluster.name
        block = self._blocks.setdefault(cluster, asyncio.Semaphore(self._batching.blocks))
        async with block:
            await self._timers.sleep(self._cold.queued)
            batch.runs = True
            try:
                result = await self._work(batch)
            except (BatchFailedError, OSError) as error:
                batch.end("failed", str(error), self._clock.now())
            else:
                batch.end("completed", result, self._clock.now())

    async def _work(self, batch: Batch) -> str:
        """Answer all lines; returns what the batch says of its end."""
        began = self._clock.now()
        source = self._files.find(batch.input_file)
        lines = await asyncio.to_thread(_read, source, self._batching.lines)
        out = Output(batch, datetime.fromtimestamp(self._clock.epoch(began), UTC), self._files)
        tokens = 0
        for chunk in _sliced(lines, self._batching.chunk):
            await self._timers.sleep(self._cold.starting)
            for part in _sliced(chunk, _SLICE):
                tokens += await self._answer(batch, part, out)
        seconds = self._clock.now() - began
        return out.result(self._batching.result, tokens, seconds)

    async def _answer(self, batch: Batch, part: list[Line], out: Output) -> int:
        """Answer some lines and write the answers down; returns their tokens."""
        fault = batch.fault
        asked = [(line, self._ask(batch, line)) for line in part if not self._lost(batch, line)]
        answers = [(line, await answer) for line, answer in asked]
        tokens = sum(answer.tokens for _, answer in answers)
        await self._timers.sleep(tokens / self._batching.tokens_per_second)
        batch.lines += len(part)
        batch.responses += len(answers)
        written = [_response(line, answer) for line, answer in answers]
        await asyncio.to_thread(out.append, written, batch.lines)
        if fault is not None and fault.kind == "batch_fails":
            raise BatchFailedError("TaskExecutionFailed: WorkerLost('Task failure due to loss')")
        return tokens

    def _ask(self, batch: Batch, line: Line) -> asyncio.Future[Answer]:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        route = _ENDPOINTS.get(line["url"])
        body = line["body"]
        if route is None or flaws(route, body):
            answer.set_result(_error(400, "BadRequestError", "The line cannot be served."))
        elif body["model"] != batch.site.model.name:
            message = f"The model `{body['model']}` does not exist."
            answer.set_result(_error(404, "NotFoundError", message))
        else:
            context = min(batch.site.model.context, self._batching.context)
            wanted = replace(batch.site.model, context=context)
            attempt = Attempt({**body, "stream": False}, prompt_of(route, body), 0, 0)
            self._backend.ask(route, wanted, attempt, lambda got, _: _settle(answer, got))
        return answer

    def _lost(self, batch: Batch, line: Line) -> bool:
        """Whether a line is to have no response."""
        fault = batch.fault
        if fault is None or fault.kind != "batch_loses":
            return False
        return self._faults.chance(Attempt({}, line["custom_id"], 0, 0), "lost") < fault.rate


class Output:
    """The files that a batch writes.

    Args:
        batch: The batch.
        began: When it began; part of the names, so a batch of a later time never finds them.
        files: The cluster's file system.
    """

    def __init__(self, batch: Batch, began: datetime, files: Files) -> None:
        source = PurePosixPath(batch.input_file)
        stem = f"{source.stem}_{began:%Y%m%d_%H%M%S}"
        folder = PurePosixPath(batch.folder) if batch.folder else source.parent
        self._batch = batch
        self.results = str(folder / f"{stem}.results.jsonl")
        self.progress = str(folder / f"{stem}.progress.json")
        self._results = files.find(self.results)
        self._progress = files.find(self.progress)

    def append(self, lines: list[bytes], processed: int) -> None:
        """Append answers, and note how far it is."""
        self._results.parent.mkdir(parents=True, exist_ok=True)
        with self._results.open("ab") as results:
            results.writelines(lines)
        progress = {"lines_processed": processed, "num_responses": self._batch.responses}
        self._progress.write_bytes(orjson.dumps(progress))

    def result(self, style: str, tokens: int, seconds: float) -> str:
        """What the batch says of its end."""
        counts = {
            "total_tokens": tokens,
            "num_responses": self._batch.responses,
            "lines_processed": self._batch.lines,
        }
        speed = tokens / seconds if seconds else 0.0
        where = {"results_file": self.results, "progress_file": self.progress}
        if style == "metrics":
            metrics = {
                "response_time": seconds,
                "throughput_tokens_per_second": speed,
                **counts,
            }
            return orjson.dumps({**where, "metrics": metrics}).decode()
        return str({**where, **counts, "duration_sec": seconds, "throughput_tokens_per_sec": speed})


def _read(source: Path, most: int) -> list[Line]:
    """The lines of a file, which must all be OpenAI batch requests.

    Raises:
        BatchFailedError: If there are too many, or one is none: vLLM's run_batch reads all lines
            before it answers the first.
    """
    with source.open("rb") as file:
        raw = [line for line in file if line.strip()]
    if len(raw) > most:
        raise BatchFailedError(f"The file has {len(raw)} lines; a batch takes {most}.")
    return [_line(text, number) for number, text in enumerate(raw, 1)]


def _line(text: bytes, number: int) -> Line:
    try:
        line = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BatchFailedError(f"Line {number} is no JSON: {error}") from None
    match line:
        case {"custom_id": str(), "method": "POST", "url": str(), "body": dict()}:
            return dict(line)
        case _:
            raise BatchFailedError(
                f"Line {number}: validation error for BatchRequestInput: custom_id, method, url "
                "and body are required"
            )


def _response(line: Line, answer: Answer) -> bytes:
    """A line of the results, as vLLM writes it."""
    request = f"vllm-batch-{line['custom_id']}"
    failed = isinstance(answer.body, bytes)
    body = orjson.loads(answer.body) if isinstance(answer.body, bytes) else answer.body
    response = {"status_code": answer.status, "request_id": request}
    return orjson.dumps(
        {
            "id": f"vllm-{line['custom_id']}",
            "custom_id": line["custom_id"],
            "response": {**response, "body": None if failed else body},
            "error": body if failed else None,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


def _error(status: int, kind: str, message: str) -> Answer:
    error = {"message": message, "type": kind, "param": None, "code": status}
    return Answer(status, orjson.dumps({"error": error}))


def _settle(answer: asyncio.Future[Answer], got: Answer) -> None:
    if not answer.done():
        answer.set_result(got)


def _sliced(lines: list[Line], size: int) -> Iterator[list[Line]]:
    """The lines in slices, in order."""
    remaining = iter(lines)
    while part := list(itertools.islice(remaining, size)):
        yield part
