"""Models behind FIRST's batch API, as an endpoint: a bundle is one batch."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from langgraph_hpc_fanout.endpoints.credentials import ApiKey
from langgraph_hpc_fanout.endpoints.first.batch_file import MOST_LINES, name_of
from langgraph_hpc_fanout.endpoints.first.batch_results import (
    Ended,
    Reconciler,
    read_ended,
    read_replies,
)
from langgraph_hpc_fanout.endpoints.first.batch_routes import (
    BatchRoutes,
    Listed,
    code_of,
    read_list,
    read_status,
    read_submitted,
)
from langgraph_hpc_fanout.endpoints.first.batch_storage import Fetch, Storage, Upload
from langgraph_hpc_fanout.endpoints.first.batch_turns import pause_after, turns_of
from langgraph_hpc_fanout.endpoints.first.catalogue import Served, find, read_catalogue
from langgraph_hpc_fanout.endpoints.first.endpoint import MODEL_VARIABLE
from langgraph_hpc_fanout.endpoints.first.faults import fault_of
from langgraph_hpc_fanout.endpoints.first.gateway import gateway_of
from langgraph_hpc_fanout.endpoints.http import EXCHANGE_ERRORS, Answer, shown
from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.endpoints.listeners import Listeners
from langgraph_hpc_fanout.endpoints.models import id_of
from langgraph_hpc_fanout.endpoints.price import Price
from langgraph_hpc_fanout.endpoints.protocol import Bundling, Health, Listener, Sent
from langgraph_hpc_fanout.endpoints.tags import Tags, as_tags
from langgraph_hpc_fanout.records import Failure, Reply, Request

logger = logging.getLogger("langgraph_hpc_fanout")

_CATALOGUE_SECONDS = 300.0
_LEAST = 1_000
_SHARE = 0.8
"""Of what waits: the documented batch made 3,900 tokens/s (ALCF user guide 7d04a3f), and a user
gets 1,000 tokens/s of a live model (60,000 a minute, FIRST main 329c0cd)."""
_LINGER = 1.0
_FAILS_SECONDS = 7 * 86_400.0
"""After which an unfinished batch counts as failed (FIRST main 329c0cd)."""
_TRIES = 3
"""Of a submit whose answer says that it may be otherwise in a moment."""
_UNLISTED_SECONDS = 60.0
"""For which a batch that was about to be submitted may not be listed yet."""
_NOT_READY = 503
_TOO_LONG = "maximum context length"
"""What vLLM says of a request that is longer than its context."""
_AT_ONCE = 512
"""Replies that are given in a row."""
_MOST_BACKOFF = 2**6


class _TroubleError(Exception):
    """A batch that brings no answers.

    Attributes:
        failure: Why.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch that the gateway has.

    Attributes:
        name: Our name of it, which is in the name of its file.
        id: The gateway's.
        requests: Its requests, in the order of their positions.
        at: When it was sent, in seconds since the epoch.
    """

    name: str
    id: str
    requests: Sequence[Request]
    at: float


class FirstBatchEndpoint:
    """A model on a cluster behind FIRST, asked by batches: a bundle is one file with many requests.

    In a pool with live endpoints a batch takes the bulk of a run, and the live endpoints work on
    the rest meanwhile. What is too little for a batch is left to them; alone in its pool, it
    takes whatever there is. Requests without an answer are sent again, to live endpoints, too.

    A user may have one batch at a time, so all endpoints of one gateway and token take turns, and
    wait for batches that others of the user's programs have under way. A batch cannot be
    cancelled: when a run ends before it, it goes on, and the next run with the same journal takes
    its results. Files of prompts are removed when their batch has ended, results stay.

    Args:
        cluster: The cluster, such as `sophia`.
        framework: The framework; needed only where a cluster serves the model by several.
        model: The model's logical name, such as `gpt-oss-120b`: its id there, or the last part
            of it. By default what `FIRST_MODEL` says. Not every model takes batches.
        directory: Where the files are: an absolute path that the cluster sees, too, such as one
            below `/eagle`, and in which its service may read and write. With `upload` any
            directory, by default that of temporary files.
        upload: Carries a file to the cluster, where this machine does not see its file systems: a
            function, sync or async, of the local path, which returns the path there; the file
            must keep its name.
        fetch: The way back, from a path there to a local one; needed with `upload`.
        base_url: The gateway; by default `FIRST_API_BASE`, else ALCF's. Version 2 has no batches.
        token: As of `FirstEndpoint`.
        poll: Seconds between two looks at a batch; longer for one that takes hours.
        least: Requests for which a batch is worth while: each loads the model anew, which takes
            minutes.
        name: Name in logs and outcomes; by default cluster, model and "batch".
        tags: Words by which tasks require or forbid it.
        price: What it costs; needed where a budget is in dollars or node-hours.

    Raises:
        ValueError: If no model is named, the address is no URL or of version 2, there is no way
            for files, or a number is out of range.

    Example:
        ```python
        Pool([
            FirstEndpoint("metis", model="gpt-oss-120b"),
            FirstBatchEndpoint(
                "sophia", model="gpt-oss-120b", directory="/eagle/my-project/batches"
            ),
        ])
        ```
    """

    def __init__(
        self,
        cluster: str,
        framework: str | None = None,
        model: str | None = None,
        *,
        directory: str | os.PathLike[str] | None = None,
        upload: Upload | None = None,
        fetch: Fetch | None = None,
        base_url: str | None = None,
        token: ApiKey | None = None,
        poll: float = 60.0,
        least: int = _LEAST,
        name: str | None = None,
        tags: Tags = (),
        price: Price | None = None,
    ) -> None:
        wanted = model or os.environ.get(MODEL_VARIABLE, "").strip()
        if not wanted:
            raise ValueError(
                f"FirstBatchEndpoint({cluster!r}) names no model; say model=..., or set "
                f"{MODEL_VARIABLE}."
            )
        if not poll > 0:
            raise ValueError(f"FirstBatchEndpoint(poll={poll!r}) must be positive seconds.")
        if not 2 <= least <= MOST_LINES:
            raise ValueError(
                f"FirstBatchEndpoint(least={least!r}) must lie between 2 and {MOST_LINES}."
            )
        self._cluster = cluster
        self._framework = framework
        self._model = wanted
        self._storage = Storage(directory, upload, fetch)
        self._gateway = gateway_of(base_url, token)
        if self._gateway.is_second:
            raise ValueError(
                f"FirstBatchEndpoint({cluster!r}) is given {shown(self._gateway.root)}, which is "
                "version 2 of the gateway and has no batches; use FirstEndpoint there."
            )
        self._turns = turns_of(self._gateway)
        self.name = name or f"{cluster}/{wanted.rpartition('/')[2]} batch"
        self._http = self._gateway.client(self.name)
        self._routes = BatchRoutes(self._gateway, self._http)
        self._poll = poll
        self.limits = Limits(concurrency=MOST_LINES)
        self.bundling = Bundling(
            MOST_LINES, max_bundles=1, linger=_LINGER, queues=True, least=least, share=_SHARE
        )
        self.tags = as_tags(tags, self.name)
        self.price = price
        self.models: Mapping[str, str] = {}
        self._served: Served | None = None
        self._unusable: Failure | None = None
        self._not_ready: Failure | None = None
        self._failed_in_a_row = 0
        self._too_long: dict[str, Failure] = {}
        self._listeners = Listeners()
        self._rng = random.Random()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None

    def __repr__(self) -> str:
        where = shown(self._gateway.root)
        return f"FirstBatchEndpoint({self._cluster!r}, model={self._model!r}, base_url={where!r})"

    # -- its life -------------------------------------------------------------------------

    async def open(self) -> None:
        """Make a session on the running loop, unless there is one."""
        self._http.open()
        loop = asyncio.get_running_loop()
        if self._closing is None or self._loop is not loop:
            self._loop, self._closing = loop, asyncio.Event()

    async def close(self) -> None:
        """Wait for no batch any more; those under way go on."""
        closing, self._closing = self._closing, None
        self._unusable = self._not_ready = None
        if closing is not None and self._loop is asyncio.get_running_loop():
            closing.set()
        await self._http.close()

    async def probe(self) -> Health:
        """Find the model in the gateway's list, and see that the user has no other batch."""
        if self._unusable is not None:
            return Health(ok=False, failure=self._unusable)
        if (not_ready := self._not_ready) is not None:
            # Whoever has just woken the model for live requests cannot submit a batch for it
            # (FIRST 3dde68d, endpoints/globus_compute.py); only another submit tells.
            self._not_ready = None
            return Health(ok=False, failure=not_ready, retry_after=self._poll)
        try:
            if (failure := await self._find()) is not None:
                return Health(ok=False, failure=failure)
            answer = await self._routes.listed()
            if answer.status != 200:
                return Health(ok=False, failure=self._failure_of(answer))
            active = [each for each in read_list(answer.raw) if each.is_active]
        except EXCHANGE_ERRORS as error:
            return Health(ok=False, failure=self._http.failure_from(error))
        except ValueError as error:
            return Health(ok=False, failure=self._cold(f"the gateway gave {error}."))
        others = [each for each in active if each.id not in self._turns.followed]
        if others:
            return Health(ok=False, failure=self._waits_for(others), retry_after=self._poll)
        return Health(ok=True)

    async def _find(self) -> Failure | None:
        """Learn under which framework and id the model is served; says why it is not."""
        answer = await self._gateway.look(self._http, "list-endpoints", _CATALOGUE_SECONDS)
        if answer.status != 200:
            return self._failure_of(answer)
        try:
            served = find(read_catalogue(answer.raw), self._model, self._cluster, self._framework)
        except LookupError as error:
            message = f"{self.name}: {error.args[0]}"
            return Failure("cold", message, None, retryable=False, endpoint=self.name)
        self._served, self.models = served, {self._model: served.model}
        return None

    # -- bundles --------------------------------------------------------------------------

    async def send(self, requests: Sequence[Request]) -> AsyncIterator[Reply]:
        """Send a bundle as a batch, or several in turn where it is too large for one."""
        await self.open()
        fit = []
        for position, request in enumerate(requests):
            if id_of(self.models, request.model) is None or request.function is not None:
                what = request.function or f"the model {request.model!r}"
                yield Reply(position, failure=self._cold(f"it does not serve {what}."))
            elif (too_long := self._too_long.get(request.key)) is not None:
                yield Reply(position, failure=too_long)
            else:
                fit.append(position)
        for start in range(0, len(fit), MOST_LINES):
            part = fit[start : start + MOST_LINES]
            chosen = [requests[position] for position in part]
            async with contextlib.aclosing(self._send_one(chosen)) as replies:
                async for reply in replies:
                    position = part[reply.position]
                    yield reply if position == reply.position else replace(reply, position=position)

    async def _send_one(self, requests: Sequence[Request]) -> AsyncGenerator[Reply, None]:
        """Send one batch and wait for it."""
        served = self._served
        assert served is not None  # noqa: S101 - a model is served only when it was found
        name = uuid.uuid4().hex[:16]
        if self._turns.lock.locked():
            logger.info("%s waits for another batch of this process", self.name)
        try:
            async with self._turns.lock:
                batch = await self._submit(name, served, requests)
                self._turns.followed.add(batch.id)
                try:
                    async with contextlib.aclosing(self._follow(batch)) as replies:
                        async for reply in replies:
                            yield reply
                finally:
                    self._turns.followed.discard(batch.id)
        except _TroubleError as trouble:
            delay = None
            if trouble.failure.kind == "transient":
                self._failed_in_a_row += 1
                delay = self._poll * min(2 ** (self._failed_in_a_row - 1), _MOST_BACKOFF)
            for position in range(len(requests)):
                yield Reply(position, failure=trouble.failure, retry_after=delay)
                if position % _AT_ONCE == 0:
                    await asyncio.sleep(0)

    async def _submit(self, name: str, served: Served, requests: Sequence[Request]) -> _Batch:
        """Write the file, note the batch, and submit it.

        It is noted before it is submitted: the name of its file tells, in the gateway's list,
        whether that came to pass.

        Raises:
            _TroubleError: If the gateway has not taken it.
        """
        try:
            here = await self._storage.write(name, requests, served.model)
        except OSError as error:
            message = f"the file of a batch cannot be written: {error}."
            self._unusable = self._cold(message)
            raise _TroubleError(self._unusable) from error
        try:
            path = await self._storage.carry(here)
        except Exception as error:
            message = f"the file of a batch cannot be carried to the cluster: {error!r}."
            raise _TroubleError(self._transient(message)) from error
        at = time.time()
        sent = Sent(name, path, tuple(request.key for request in requests), at)
        await asyncio.to_thread(self._listeners.tell, [sent])
        try:
            batch_id = await self._post(name, served, path)
        except _TroubleError:
            await self._storage.clear(name)
            raise
        except asyncio.CancelledError:
            self._say_it_goes_on(f"{name_of(name)}, if it was submitted,")
            raise
        logger.info(
            "%s: batch %s has %d requests; it cannot be cancelled",
            self.name,
            batch_id,
            len(sent.keys),
        )
        return _Batch(name, batch_id, requests, at)

    async def _post(self, name: str, served: Served, path: str) -> str:
        """Submit a batch; returns its id.

        Raises:
            _TroubleError: If the gateway has not taken it.
        """
        for tries in range(1, _TRIES + 1):
            try:
                answer = await self._routes.submit(served, path, self._storage.output_folder)
                if answer.status == 200:
                    return read_submitted(answer.raw)
                failure, code = self._failure_of(answer), code_of(answer.raw)
            except EXCHANGE_ERRORS as error:
                failure, code = self._http.failure_from(error), ""
            except ValueError as error:
                failure, code = self._transient(f"its batch was answered with {error}."), ""
            listed = await self._listed()
            for each in listed:
                if each.file_name == name_of(name):  # it was taken, whatever the answer says
                    return each.id
            if code in ("quota_exceeded", "batch_ongoing"):
                others = [each for each in listed if each.is_active]
                failure = self._waits_for(others) if others else self._cold(failure.message)
            elif failure.kind == "permanent":
                self._unusable = failure = Failure(
                    "cold", failure.message, failure.status, False, self.name
                )
            if failure.kind == "auth" or failure is self._unusable or tries == _TRIES:
                self._not_ready = failure if failure.status == _NOT_READY else None
                raise _TroubleError(failure)
            await self._nap(self._poll if code or tries > 1 else min(1.0, self._poll))
        raise AssertionError("the last try returns or raises")

    async def _listed(self) -> tuple[Listed, ...]:
        """The user's batches; nothing when that cannot be told now."""
        try:
            answer = await self._routes.listed()
            return read_list(answer.raw) if answer.status == 200 else ()
        except (*EXCHANGE_ERRORS, ValueError):
            return ()

    # -- batches under way ----------------------------------------------------------------

    async def _follow(self, batch: _Batch, *, soon: bool = False) -> AsyncGenerator[Reply, None]:
        """Wait for a batch and read what it has brought.

        Raises:
            _TroubleError: If it has brought nothing.
        """
        is_over = False
        try:
            lost, ended = await self._end_of(batch, soon=soon)
            is_over = True
        finally:
            if not is_over:
                self._say_it_goes_on(batch.id)
        paths = await self._paths_of(batch, ended, lost)
        seconds = None
        if ended is not None and ended.seconds is not None:
            seconds = ended.seconds / len(batch.requests)
        reconciler = Reconciler(batch.name, batch.requests, seconds, self.name)
        found, chunks = 0, read_replies(paths, reconciler)
        try:
            while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
                found += len(chunk)
                for reply in chunk:
                    yield reply
        except OSError as error:
            lost = self._transient(f"the results of batch {batch.id} cannot be read: {error}.")
            logger.error("%s", lost.message)  # noqa: TRY400 - no fault of ours
        if found:
            self._failed_in_a_row = 0
        elif ended is None:
            await self._storage.clear(batch.name)
            raise _TroubleError(lost)
        if reconciler.strange:
            logger.warning(
                "%s: batch %s has %d lines that cannot be read",
                self.name,
                batch.id,
                reconciler.strange,
            )
        for number, reply in enumerate(reconciler.rest(lost)):
            yield self._elsewhere_if_too_long(batch.requests[reply.position], reply)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        await self._storage.clear(batch.name)

    def _elsewhere_if_too_long(self, request: Request, reply: Reply) -> Reply:
        """Let what is too long for a batch be asked elsewhere, and fail only when it comes back.

        Batches have a context of 28,672 tokens, whatever the model has (FIRST main 329c0cd).
        """
        failure = reply.failure
        if failure is None or failure.status != 400 or _TOO_LONG not in failure.message.lower():
            return reply
        self._too_long[request.key] = failure
        return replace(reply, failure=replace(failure, kind="transient", retryable=True))

    async def _end_of(self, batch: _Batch, *, soon: bool) -> tuple[Failure, Ended | None]:
        """Wait for a batch's end.

        Returns:
            What is to be said of requests without a line, and what the batch says of itself;
            None of one that has failed.

        Raises:
            _TroubleError: If it cannot be asked for any more.
        """
        status = await self._status_at_end(batch, soon=soon)
        answer = await self._insist(lambda: self._routes.result(batch.id), batch)
        if answer.status == 200 and status == "completed":
            try:
                ended = read_ended(answer.raw)
            except ValueError as error:
                return self._transient(f"batch {batch.id} ended with {error}."), None
            message = f"batch {batch.id} has no line for it in {ended.results_file}."
            return self._transient(message), ended
        why = fault_of(answer.status, answer.raw).message
        return self._transient(f"batch {batch.id} {status}: {why}"), None

    async def _status_at_end(self, batch: _Batch, *, soon: bool) -> str:
        """Ask for a batch's status until it has ended; returns the last."""
        while True:
            elapsed = max(0.0, time.time() - batch.at)
            if not soon:
                await self._nap(pause_after(elapsed, self._poll, self._rng.random()))
            soon = False
            answer = await self._insist(lambda: self._routes.status(batch.id), batch)
            if answer.status != 200:
                return "is unknown"
            status = read_status(answer.raw)
            if status in ("completed", "failed"):
                return status
            if elapsed > _FAILS_SECONDS + self._poll:
                return "is pending for more than 7 days"

    async def _insist(self, ask: Callable[[], Awaitable[Answer]], batch: _Batch) -> Answer:
        """Ask until there is an answer that says something of the batch.

        Raises:
            _TroubleError: If the token is refused.
        """
        for tries in itertools.count(1):
            try:
                answer = await ask()
            except EXCHANGE_ERRORS as error:
                failure = self._http.failure_from(error)
            else:
                if answer.status in (200, 400, 403, 404):
                    return answer
                failure = self._failure_of(answer)
            if failure.kind == "auth":
                raise _TroubleError(failure)
            level = logging.WARNING if tries == _TRIES else logging.DEBUG
            logger.log(level, "batch %s cannot be asked for: %s", batch.id, failure.message)
            await self._nap(self._poll * (0.9 + 0.2 * self._rng.random()))
        raise AssertionError("it counts for ever")

    async def _paths_of(self, batch: _Batch, ended: Ended | None, lost: Failure) -> list[Path]:
        """Where the results of a batch are, here; of one that failed, those that it has left."""
        if ended is None:
            return await self._storage.partial(batch.name)
        for tries in range(1, _TRIES + 1):
            try:
                return [await self._storage.get(ended.results_file)]
            except Exception as error:
                message = f"the results of batch {batch.id} cannot be fetched: {error}."
                if tries == _TRIES:
                    logger.error("%s: %s", self.name, message)  # noqa: TRY400 - no fault of ours
                    raise _TroubleError(self._transient(message)) from error
            await self._nap(self._poll)  # what was paid for is worth a few tries
        raise AssertionError("the last try returns or raises")

    async def _nap(self, seconds: float) -> None:
        """Wait, but not beyond the endpoint's closing.

        Raises:
            _TroubleError: If it was closed.
        """
        if self._closing is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._closing.wait()
                    raise _TroubleError(self._transient("it was closed."))
            return
        raise _TroubleError(self._transient("it was closed."))

    # -- outliving a process --------------------------------------------------------------

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell of batches that are about to be submitted; see `Resumable`.

        Args:
            listener: Called in a thread, before the batch is submitted, so that no batch is under
                way that was not noted. Its task is our name of the batch, by which its file is
                found in the gateway's list, its group the file's path on the cluster.

        Returns:
            A function that ends it.
        """
        return self._listeners.add(listener)

    async def reattach(self, sent: Sequence[Sent]) -> AsyncGenerator[tuple[str, Reply], None]:
        """Take the answers of batches that an earlier process sent; never sends one again.

        Args:
            sent: The batches.

        Yields:
            A key and the reply to its request. Tokens that the server did not count are estimated
            without the prompt, which is not known here.
        """
        await self.open()
        for each in sent:
            if (batch := await self._find_sent(each)) is None:
                logger.info("%s: %s was never submitted", self.name, each.task_group_id)
                continue
            async with contextlib.aclosing(self._follow(batch, soon=True)) as replies:
                try:
                    async for reply in replies:
                        if reply.failure is None:
                            yield each.keys[reply.position], reply
                except _TroubleError as trouble:
                    logger.warning("%s", trouble)

    async def _find_sent(self, sent: Sent) -> _Batch | None:
        """A batch of an earlier process in the gateway's list, if it was submitted."""
        while True:
            try:
                answer = await self._routes.listed()
                listed = read_list(answer.raw) if answer.status == 200 else None
            except (*EXCHANGE_ERRORS, ValueError):
                listed = None
            for each in listed or ():
                if each.file_name == name_of(sent.task_id):
                    requests = [Request(key, None, {}) for key in sent.keys]
                    return _Batch(sent.task_id, each.id, requests, sent.at)
            if listed is not None and time.time() > sent.at + min(_UNLISTED_SECONDS, self._poll):
                return None
            try:
                await self._nap(self._poll)
            except _TroubleError:
                return None

    def _say_it_goes_on(self, batch: str) -> None:
        logger.warning(
            "%s: batch %s cannot be cancelled and goes on; the next run with the same journal "
            "takes its results.",
            self.name,
            batch,
        )

    # -- words ----------------------------------------------------------------------------

    def _waits_for(self, others: Sequence[Listed]) -> Failure:
        first = others[0]
        return self._cold(
            f"it waits for batch {first.id} ({first.file_name}, {first.status}), because FIRST "
            "lets a user have one at a time."
        )

    def _cold(self, message: str) -> Failure:
        return self._http.failure("cold", f"{self.name}: {message}")

    def _transient(self, message: str) -> Failure:
        return self._http.failure("transient", f"{self.name}: {message}")

    def _failure_of(self, answer: Answer) -> Failure:
        fault = fault_of(answer.status, answer.raw, answer.retry_after)
        message = f"{self.name} answered {answer.status}: {fault.message}"
        if fault.login:
            credentials = self._gateway.credentials
            message += f" It was asked with {credentials.describe()}; {credentials.remedy()}"
        return self._http.failure(fault.kind, message, answer.status)
