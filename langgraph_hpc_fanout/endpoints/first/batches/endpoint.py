"""Models behind FIRST's batch API, as an endpoint: a bundle is one batch."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from langgraph_hpc_fanout.endpoints.credentials import ApiKey
from langgraph_hpc_fanout.endpoints.first.batches.file import MOST_LINES
from langgraph_hpc_fanout.endpoints.first.batches.finder import Finder
from langgraph_hpc_fanout.endpoints.first.batches.follower import AT_ONCE, Follower
from langgraph_hpc_fanout.endpoints.first.batches.routes import BatchRoutes, read_list
from langgraph_hpc_fanout.endpoints.first.batches.state import BatchState, TroubleError
from langgraph_hpc_fanout.endpoints.first.batches.storage import Fetch, Storage, Upload
from langgraph_hpc_fanout.endpoints.first.batches.submitter import Submitter, words_for
from langgraph_hpc_fanout.endpoints.first.batches.turns import turns_of
from langgraph_hpc_fanout.endpoints.first.catalogue import Served
from langgraph_hpc_fanout.endpoints.first.endpoint import model_named
from langgraph_hpc_fanout.endpoints.first.gateway import gateway_of
from langgraph_hpc_fanout.endpoints.http import EXCHANGE_ERRORS, shown
from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.endpoints.listeners import Listeners
from langgraph_hpc_fanout.endpoints.models import id_of
from langgraph_hpc_fanout.endpoints.price import Price
from langgraph_hpc_fanout.endpoints.protocol import (
    Bundling,
    FateUnknownError,
    Health,
    Listener,
    Sent,
)
from langgraph_hpc_fanout.endpoints.tags import Tags, as_tags
from langgraph_hpc_fanout.records import Failure, Reply, Request

logger = logging.getLogger("langgraph_hpc_fanout")

_LEAST = 1_000
_SHARE = 0.8
"""Of what waits: the documented batch made 3,900 tokens/s (ALCF user guide 7d04a3f), and a user
gets 1,000 tokens/s of a live model (60,000 a minute, FIRST main 329c0cd)."""
_LINGER = 1.0
_TOO_LONG = "maximum context length"
"""What vLLM says of a request that is longer than its context."""


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
        wanted = model_named(model, f"FirstBatchEndpoint({cluster!r})")
        if not poll > 0:
            raise ValueError(f"FirstBatchEndpoint(poll={poll!r}) must be positive seconds.")
        if not 2 <= least <= MOST_LINES:
            raise ValueError(
                f"FirstBatchEndpoint(least={least!r}) must lie between 2 and {MOST_LINES}."
            )
        self._cluster = cluster
        self._framework = framework
        self._model = wanted
        self._gateway = gateway_of(base_url, token)
        if self._gateway.is_second:
            raise ValueError(
                f"FirstBatchEndpoint({cluster!r}) is given {shown(self._gateway.root)}, which is "
                "version 2 of the gateway and has no batches; use FirstEndpoint there."
            )
        self._turns = turns_of(self._gateway)
        self.name = name or f"{cluster}/{wanted.rpartition('/')[2]} batch"
        self._http = self._gateway.client(self.name)
        self.limits = Limits(concurrency=MOST_LINES)
        self.bundling = Bundling(
            MOST_LINES, max_bundles=1, linger=_LINGER, queues=True, least=least, share=_SHARE
        )
        self.tags = as_tags(tags, self.name)
        self.price = price
        self.models: Mapping[str, str] = {}
        self._served: Served | None = None
        self._too_long: dict[str, Failure] = {}
        self._listeners = Listeners()
        self._state = BatchState(self.name, self._gateway, self._http, poll)
        self._routes = BatchRoutes(self._gateway, self._http)
        storage = Storage(directory, upload, fetch)
        self._finder = Finder(self._state, self._routes)
        self._submitter = Submitter(
            self._state, self._routes, storage, self._finder, self._listeners
        )
        self._follower = Follower(self._state, self._routes, storage)

    def __repr__(self) -> str:
        where = shown(self._gateway.root)
        return f"FirstBatchEndpoint({self._cluster!r}, model={self._model!r}, base_url={where!r})"

    # -- its life -------------------------------------------------------------------------

    async def open(self) -> None:
        """Make a session on the running loop, unless there is one."""
        self._http.open()
        self._state.open()

    async def close(self) -> None:
        """Wait for no batch any more; those under way go on."""
        self._state.close()
        await self._http.close()

    async def probe(self) -> Health:
        """Find the model in the gateway's list, and see that the user has no other batch."""
        state = self._state
        if state.unusable is not None:
            return Health(ok=False, failure=state.unusable)
        if (not_ready := state.not_ready) is not None:
            # Whoever has just woken the model for live requests cannot submit a batch for it
            # (FIRST 3dde68d, endpoints/globus_compute.py); only another submit tells.
            state.not_ready = None
            return Health(ok=False, failure=not_ready, retry_after=state.poll)
        try:
            if (failure := await self._find()) is not None:
                return Health(ok=False, failure=failure)
            answer = await self._routes.listed()
            if answer.status != 200:
                return Health(ok=False, failure=state.failure_of(answer))
            active = [each for each in read_list(answer.raw) if each.is_active]
        except EXCHANGE_ERRORS as error:
            return Health(ok=False, failure=state.failure_from(error))
        except ValueError as error:
            return Health(ok=False, failure=state.cold(f"the gateway gave {error}."))
        state.in_doubt = None
        others = [each for each in active if each.id not in self._turns.followed]
        if others:
            waits = state.cold(words_for(others))
            return Health(ok=False, failure=waits, retry_after=state.poll)
        return Health(ok=True)

    async def _find(self) -> Failure | None:
        """Learn under which framework and id the model is served; says why it is not."""
        served = await self._gateway.find(self._http, self._model, self._cluster, self._framework)
        if isinstance(served, Failure):
            return served
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
                failure = self._state.cold(f"it does not serve {what}.")
                yield Reply(position, failure=failure, tries=0)
            elif (too_long := self._too_long.get(request.key)) is not None:
                yield Reply(position, failure=too_long, tries=0)
            else:
                fit.append(position)
        for start in range(0, len(fit), MOST_LINES):
            part = fit[start : start + MOST_LINES]
            chosen = [requests[position] for position in part]
            async with aclosing(self._send_one(chosen)) as replies:
                async for reply in replies:
                    position = part[reply.position]
                    yield reply if position == reply.position else replace(reply, position=position)

    async def _send_one(self, requests: Sequence[Request]) -> AsyncGenerator[Reply, None]:
        """Send one batch and wait for it."""
        served = self._served
        assert served is not None  # noqa: S101 - a model is served only when it was found
        if self._turns.lock.locked():
            logger.info("%s waits for another batch of this process", self.name)
        lost = None
        try:
            async with self._turns.lock:
                batch = await self._submitter.submit(served, requests)
                self._turns.followed.add(batch.id)
                try:
                    async with aclosing(self._follower.follow(batch)) as replies:
                        async for reply in replies:
                            yield self._elsewhere_if_too_long(requests[reply.position], reply)
                finally:
                    self._turns.followed.discard(batch.id)
        except FateUnknownError as unknown:
            # No other endpoint is to be asked in this run, but the next run may ask again.
            lost = Reply(0, failure=replace(unknown.failure, kind="permanent"), may_cost=True)
        except TroubleError as trouble:
            failure, may_cost = trouble.failure, trouble.may_cost
            delay = self._state.brought_nothing() if failure.kind == "transient" else None
            lost = Reply(
                0, failure=failure, retry_after=delay, tries=int(may_cost), may_cost=may_cost
            )
        if lost is None:
            return
        for position in range(len(requests)):
            yield replace(lost, position=position)
            if position % AT_ONCE == 0:
                await asyncio.sleep(0)

    def _elsewhere_if_too_long(self, request: Request, reply: Reply) -> Reply:
        """Let what is too long for a batch be asked elsewhere, and fail only when it comes back.

        Batches have a context of 28,672 tokens, whatever the model has (FIRST main 329c0cd).
        """
        failure = reply.failure
        if failure is None or failure.status != 400 or _TOO_LONG not in failure.message.lower():
            return reply
        self._too_long[request.key] = failure
        return replace(reply, failure=replace(failure, kind="transient", retryable=True))

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

        Raises:
            FateUnknownError: If a batch may be under way or paid for, and its answers cannot be
                had: nobody tells whether it was submitted or what has become of it, the token is
                refused, the endpoint was closed, or its results cannot be read.
        """
        await self.open()
        unreadable = None
        for each in sent:
            if (batch := await self._finder.find(each)) is None:
                logger.info("%s: %s was never submitted", self.name, each.task_group_id)
                continue
            async with aclosing(self._follower.follow(batch, soon=True)) as replies:
                try:
                    async for reply in replies:
                        request = batch.requests[reply.position]
                        if self._elsewhere_if_too_long(request, reply).failure is None:
                            yield request.key, reply
                except TroubleError as trouble:
                    if trouble.is_over:
                        logger.warning("%s", trouble)
                    elif trouble.failure is self._state.unusable:  # others may be readable
                        unreadable = replace(trouble.failure, kind="transient")
                    else:
                        why = self._follower.unknown(batch, trouble.failure.message)
                        raise FateUnknownError(why) from trouble
        if unreadable is not None:
            raise FateUnknownError(unreadable)
