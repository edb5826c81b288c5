"""From a batch that the gateway has to its answers: the wait for its end, and its results."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from langgraph_hpc_fanout.endpoints.first.batches.file import name_of
from langgraph_hpc_fanout.endpoints.first.batches.results import (
    Ended,
    Reconciler,
    read_ended,
    read_replies,
)
from langgraph_hpc_fanout.endpoints.first.batches.routes import BatchRoutes, code_of, read_status
from langgraph_hpc_fanout.endpoints.first.batches.state import (
    TRIES,
    Batch,
    BatchState,
    TroubleError,
)
from langgraph_hpc_fanout.endpoints.first.batches.storage import Storage
from langgraph_hpc_fanout.endpoints.first.batches.submitter import say_it_goes_on
from langgraph_hpc_fanout.endpoints.first.batches.turns import pause_after
from langgraph_hpc_fanout.endpoints.first.faults import fault_of
from langgraph_hpc_fanout.endpoints.http import EXCHANGE_ERRORS, Answer
from langgraph_hpc_fanout.endpoints.protocol import FateUnknownError
from langgraph_hpc_fanout.records import Failure, Reply

logger = logging.getLogger("langgraph_hpc_fanout")

_UNSEEN = ("No such file or directory", "Permission denied")
_HOW_TO_BE_SEEN = (
    "Give a directory= that this machine and the cluster both see and that its service may read, "
    "or upload= and fetch=."
)
FAILS_SECONDS = 7 * 86_400.0
"""After which an unfinished batch counts as failed (FIRST main 329c0cd)."""
AT_ONCE = 512
"""Replies that are given in a row."""
_READ_AGAIN = (0.25, 0.5, 1.0, 2.0, 3.0, 3.0)
"""Pauses between readings of results that are not all there, in polls: ten minutes at a minute."""


class Follower:
    """Follows batches to their ends and reads their results.

    Args:
        state: How the endpoint stands.
        routes: The gateway's.
        storage: Where files are.
    """

    def __init__(self, state: BatchState, routes: BatchRoutes, storage: Storage) -> None:
        self._state = state
        self._routes = routes
        self._storage = storage
        self._rng = random.Random()

    async def follow(self, batch: Batch, *, soon: bool = False) -> AsyncGenerator[Reply, None]:
        """Wait for a batch and read what it has brought.

        Args:
            batch: The batch.
            soon: Whether to look at once, because it may have ended already.

        Yields:
            A reply to each of its requests.

        Raises:
            TroubleError: If it has brought nothing.
            FateUnknownError: If nobody tells what has become of it.
        """
        is_over = False
        try:
            lost, ended = await self._end_of(batch, soon=soon)
            is_over = True
        finally:
            if not is_over:
                say_it_goes_on(self._state.name, batch.id)
        try:
            async with aclosing(self._brought(batch, lost, ended)) as replies:
                async for reply in replies:
                    yield reply
        finally:
            await self._storage.clear(batch.name)

    # -- its end --------------------------------------------------------------------------

    async def _end_of(self, batch: Batch, *, soon: bool) -> tuple[Failure, Ended | None]:
        """Wait for a batch's end.

        Returns:
            What is to be said of requests without a line, and what the batch says of itself;
            None of one that has failed.

        Raises:
            TroubleError: If the token is refused.
            FateUnknownError: If it cannot be asked for any more.
        """
        status = await self._status_at_end(batch, soon=soon)
        answer = await self._insist(lambda: self._routes.result(batch.id), batch)
        if answer.status == 200 and status == "completed":
            try:
                ended = read_ended(answer.raw)
            except ValueError as error:
                return self._state.transient(f"batch {batch.id} ended with {error}."), None
            message = f"batch {batch.id} has no line for it in {ended.results_file}."
            return self._state.transient(message), ended
        message = f"batch {batch.id} {status}: {fault_of(answer.status, answer.raw).message}"
        if name_of(batch.name) in message and any(each in message for each in _UNSEEN):
            unseen = self._state.cold(f"{message.rstrip('.')}. {_HOW_TO_BE_SEEN}")
            return self._state.give_up(unseen), None
        return self._state.transient(message), None

    async def _status_at_end(self, batch: Batch, *, soon: bool) -> str:
        """Ask for a batch's status until it has ended; returns the last."""
        while True:
            elapsed = max(0.0, time.time() - batch.at)
            if not soon:
                pause = pause_after(elapsed, self._state.poll, self._rng.random())
                await self._state.nap(pause, _fate_of(batch))
            soon = False
            answer = await self._insist(lambda: self._routes.status(batch.id), batch)
            if answer.status != 200:
                return "is unknown"
            status = read_status(answer.raw)
            if status in ("completed", "failed"):
                return status
            if elapsed > FAILS_SECONDS + self._state.poll:
                return "is pending for more than 7 days"

    async def _insist(self, ask: Callable[[], Awaitable[Answer]], batch: Batch) -> Answer:
        """Ask until there is an answer that says something of the batch.

        Raises:
            TroubleError: If the token is refused, time and again: one refusal may be a stray.
            FateUnknownError: If there is none for 7 days.
        """
        began, refused = time.monotonic(), 0
        for tries in itertools.count(1):
            try:
                answer = await ask()
            except EXCHANGE_ERRORS as error:
                failure = self._state.failure_from(error)
            else:
                if _says_something(answer):
                    return answer
                failure = self._state.failure_of(answer)
            refused = refused + 1 if failure.kind == "auth" else 0
            if refused == TRIES:
                raise TroubleError(failure)
            message = f"batch {batch.id} cannot be asked for: {failure.message}"
            logger.log(logging.WARNING if tries == TRIES else logging.DEBUG, "%s", message)
            if time.monotonic() > began + FAILS_SECONDS:
                raise FateUnknownError(self.unknown(batch, failure.message))
            pause = self._state.poll * (0.9 + 0.2 * self._rng.random())
            await self._state.nap(pause, _fate_of(batch))
        raise AssertionError("it counts for ever")

    def unknown(self, batch: Batch, why: str) -> Failure:
        """Why requests of a batch fail when nobody tells what has become of it."""
        return self._state.unknown(_fate_of(batch), why)

    # -- its results ----------------------------------------------------------------------

    async def _brought(
        self, batch: Batch, lost: Failure, ended: Ended | None
    ) -> AsyncGenerator[Reply, None]:
        """Replies to all requests of a batch that is over.

        Raises:
            TroubleError: If it has brought nothing.
        """
        seconds = None
        if ended is not None and ended.seconds is not None:
            seconds = ended.seconds / len(batch.requests)
        found = Reconciler(batch.name, batch.requests, seconds, self._state.name)
        answers = self._whole(batch, ended, found) if ended else self._partial(batch, found)
        async with aclosing(answers):
            async for reply in answers:
                yield reply
        if found.strange:
            logger.warning(
                "%s: batch %s has %d lines that cannot be read",
                self._state.name,
                batch.id,
                found.strange,
            )
        delay = None
        if found.is_answered:
            self._state.brought_answers()
        elif ended is None:
            raise TroubleError(lost, is_over=True)
        else:
            delay = self._state.brought_nothing()
        for number, reply in enumerate(found.rest(lost)):
            assert reply.failure is not None  # noqa: S101 - narrows the type
            is_passing = delay is not None and reply.failure.kind == "transient"
            yield replace(reply, retry_after=delay) if is_passing else reply
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _whole(
        self, batch: Batch, ended: Ended, found: Reconciler
    ) -> AsyncGenerator[Reply, None]:
        """Answers of a completed batch: read again while there are fewer lines than it says.

        Shared file systems are late, and what was paid for is worth some patience.

        Raises:
            TroubleError: If nothing of it can be read. It is not to be paid for again, so the
                endpoint sends nothing any more; the next run with the same journal reads it.
        """
        told, why, is_whole = ended.answers, "", False
        for pause in (0.0, *_READ_AGAIN):
            if pause:
                self._say_late(batch, ended, why, is_first=pause == _READ_AGAIN[0])
                await self._state.nap(pause * self._state.poll, _fate_of(batch))
            try:
                path = await self._storage.get(ended.results_file)
                async with aclosing(_read([path], found)) as answers:
                    async for reply in answers:
                        yield reply
            except Exception as error:  # noqa: BLE001 - whatever the user's `fetch` raises
                why = str(error) or repr(error)
                continue
            why = f"it has {found.lines} of {told} lines, and {found.strange} that cannot be read"
            if is_whole := told is None or found.lines >= told:
                break
        if not found.is_told_of and (told or not is_whole):
            raise TroubleError(self._unreadable(batch, ended, why))

    def _say_late(self, batch: Batch, ended: Ended, why: str, *, is_first: bool) -> None:
        logger.log(
            logging.WARNING if is_first else logging.DEBUG,
            "%s: the results of batch %s in %s are not all there and are read again: %s",
            self._state.name,
            batch.id,
            ended.results_file,
            why,
        )

    def _unreadable(self, batch: Batch, ended: Ended, why: str) -> Failure:
        failure = self._state.cold(
            f"batch {batch.id} is completed and paid for, and its results on the cluster, "
            f"{ended.results_file}, cannot be read: {why}. It is not submitted again; once they "
            "can be read, the next run with the same journal takes them."
        )
        logger.error("%s", failure.message)
        return self._state.give_up(failure)

    async def _partial(self, batch: Batch, found: Reconciler) -> AsyncGenerator[Reply, None]:
        """Answers that a failed batch has left."""
        try:
            paths = await self._storage.partial(batch.name)
            async with aclosing(_read(paths, found)) as answers:
                async for reply in answers:
                    yield reply
        except OSError as error:
            logger.warning(
                "%s: what batch %s has left cannot be read: %s", self._state.name, batch.id, error
            )


def _fate_of(batch: Batch) -> str:
    return f"what has become of batch {batch.id}"


def _says_something(answer: Answer) -> bool:
    """Whether an answer says something of a batch.

    A proxy's page, a route that is gone for a moment and a refused login say nothing.
    """
    if answer.status in (403, 404):
        has_code = bool(code_of(answer.raw))
        return has_code and not fault_of(answer.status, answer.raw).login
    return answer.status in (200, 400)


async def _read(paths: Sequence[Path], found: Reconciler) -> AsyncGenerator[Reply, None]:
    """Answers in files of results that were not given before.

    Raises:
        OSError: If a file cannot be read.
    """
    chunks = read_replies(paths, found)
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        for reply in chunk:
            yield reply
