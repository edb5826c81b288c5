"""From requests to a batch that the gateway has: its file, the note of it, the submit."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace

from langgraph_hpc_fanout.endpoints.credentials import CredentialError
from langgraph_hpc_fanout.endpoints.first.batches.file import name_of
from langgraph_hpc_fanout.endpoints.first.batches.finder import Finder
from langgraph_hpc_fanout.endpoints.first.batches.routes import (
    BatchRoutes,
    Listed,
    code_of,
    read_list,
    read_submitted,
)
from langgraph_hpc_fanout.endpoints.first.batches.state import (
    TRIES,
    Batch,
    BatchState,
    TroubleError,
)
from langgraph_hpc_fanout.endpoints.first.batches.storage import Storage
from langgraph_hpc_fanout.endpoints.first.catalogue import Served
from langgraph_hpc_fanout.endpoints.http import EXCHANGE_ERRORS
from langgraph_hpc_fanout.endpoints.listeners import Listeners
from langgraph_hpc_fanout.endpoints.protocol import FateUnknownError, Sent
from langgraph_hpc_fanout.records import Failure, Request

logger = logging.getLogger("langgraph_hpc_fanout")

_NOT_READY = 503


class Submitter:
    """Submits batches.

    Args:
        state: How the endpoint stands.
        routes: The gateway's.
        storage: Where files are.
        finder: Finds what may have been submitted.
        listeners: Who is told of a batch before it is submitted.
    """

    def __init__(
        self,
        state: BatchState,
        routes: BatchRoutes,
        storage: Storage,
        finder: Finder,
        listeners: Listeners,
    ) -> None:
        self._state = state
        self._routes = routes
        self._storage = storage
        self._finder = finder
        self._listeners = listeners

    async def submit(self, served: Served, requests: Sequence[Request]) -> Batch:
        """Write the file, note the batch, and submit it.

        It is noted before it is submitted: the name of its file tells, in the gateway's list,
        whether that came to pass.

        Raises:
            TroubleError: If the gateway has not taken it.
            FateUnknownError: If nobody tells whether it has.
        """
        if (why := self._state.unusable or self._state.in_doubt) is not None:
            raise TroubleError(why, may_cost=False)
        name = uuid.uuid4().hex[:16]
        path = await self._place(name, served, requests)
        at = time.time()
        sent = Sent(name, path, tuple(request.key for request in requests), at)
        await asyncio.to_thread(self._listeners.tell, [sent])
        try:
            batch_id = await self._post(sent, served)
        except TroubleError:
            await self._storage.clear(name)
            raise
        except FateUnknownError as unknown:  # a batch may read the file, so it stays
            self._state.in_doubt = replace(unknown.failure, kind="cold")
            raise
        except asyncio.CancelledError:
            say_it_goes_on(self._state.name, f"{name_of(name)}, if it was submitted,")
            raise
        logger.info(
            "%s: batch %s has %d requests; it cannot be cancelled",
            self._state.name,
            batch_id,
            len(requests),
        )
        return Batch(name, batch_id, requests, at)

    async def _place(self, name: str, served: Served, requests: Sequence[Request]) -> str:
        """Put the file where the cluster reads it; returns its path there.

        Raises:
            TroubleError: If that cannot be.
        """
        try:
            here = await self._storage.write(name, requests, served.model)
        except OSError as error:
            failure = self._state.cold(
                f"the file of a batch cannot be written: {error}. directory= must be there."
            )
            raise TroubleError(self._state.give_up(failure), may_cost=False) from error
        try:
            return await self._storage.carry(here)
        except Exception as error:
            message = f"the file of a batch cannot be carried to the cluster: {error!r}."
            raise TroubleError(self._state.transient(message), may_cost=False) from error

    async def _post(self, sent: Sent, served: Served) -> str:
        """Submit a batch; returns its id.

        Raises:
            TroubleError: If the gateway has not taken it.
            FateUnknownError: If nobody tells whether it has.
        """
        path, may_cost = sent.task_group_id, False
        for tries in range(1, TRIES + 1):
            code = ""
            try:
                answer = await self._routes.submit(served, path, self._storage.output_folder(path))
                if answer.status == 200:
                    return read_submitted(answer.raw)
                failure, code = self._state.failure_of(answer), code_of(answer.raw)
                may_cost |= _may_be_taken(answer.status)
            except EXCHANGE_ERRORS as error:
                failure = self._state.failure_from(error)
                may_cost |= _may_have_come(error, failure)
            except ValueError as error:
                failure = self._state.transient(f"its batch was answered with {error}.")
                may_cost = True
            # What may have been taken is not submitted again before the list has told.
            listed = await (self._finder.listed(sent) if may_cost else self._listed())
            for each in listed:
                if each.file_name == name_of(sent.task_id):
                    return each.id  # it was taken, whatever the answer says
            failure = self._meant(failure, code, listed)
            if failure.kind == "auth" or failure is self._state.unusable or tries == TRIES:
                self._state.not_ready = failure if failure.status == _NOT_READY else None
                raise TroubleError(failure, may_cost=may_cost)
            poll = self._state.poll
            await self._state.nap(poll if code or tries > 1 else min(1.0, poll))
        raise AssertionError("the last try returns or raises")

    def _meant(self, failure: Failure, code: str, listed: Sequence[Listed]) -> Failure:
        """What a refusal means for the endpoint."""
        if code in ("quota_exceeded", "batch_ongoing"):
            others = [each for each in listed if each.is_active]
            if others:
                return self._state.cold(words_for(others))
            return replace(failure, kind="cold", retryable=True)
        return self._state.give_up(failure) if failure.kind == "permanent" else failure

    async def _listed(self) -> tuple[Listed, ...]:
        """The user's batches, to say which is waited for; nothing when that cannot be told now."""
        try:
            answer = await self._routes.listed()
            return read_list(answer.raw) if answer.status == 200 else ()
        except (*EXCHANGE_ERRORS, ValueError):
            return ()


def words_for(others: Sequence[Listed]) -> str:
    """Why nothing can be submitted while the user has other batches."""
    first = others[0]
    return (
        f"it waits for batch {first.id} ({first.file_name}, {first.status}), because FIRST "
        "lets a user have one at a time."
    )


def say_it_goes_on(endpoint: str, batch: str) -> None:
    """Warn that a batch outlives who has sent it."""
    logger.warning(
        "%s: batch %s cannot be cancelled and goes on; the next run with the same journal "
        "takes its results.",
        endpoint,
        batch,
    )


def _may_have_come(error: Exception, failure: Failure) -> bool:
    """Whether a submit that ended so may have reached the gateway: not without token and server."""
    return not isinstance(error, CredentialError) and failure.kind not in ("cold", "permanent")


def _may_be_taken(status: int) -> bool:
    """Whether a submit that was answered so may have come to pass all the same."""
    return status == 408 or (status >= 500 and status != _NOT_READY)
