"""A batch whose id is not known, found in the gateway's list by its file's name."""

from __future__ import annotations

import itertools
import logging
import time

from langgraph_hpc_fanout.endpoints.first.batches.file import name_of
from langgraph_hpc_fanout.endpoints.first.batches.routes import BatchRoutes, Listed, read_list
from langgraph_hpc_fanout.endpoints.first.batches.state import (
    TRIES,
    Batch,
    BatchState,
)
from langgraph_hpc_fanout.endpoints.http import EXCHANGE_ERRORS
from langgraph_hpc_fanout.endpoints.protocol import FateUnknownError, Sent
from langgraph_hpc_fanout.records import Request

logger = logging.getLogger("langgraph_hpc_fanout")

_UNLISTED_SECONDS = 60.0
"""For which a batch that was about to be submitted may not be listed yet."""
_MOST_TRIES = 20
"""Of the list, in a row, before the batch's fate counts as unknown."""


class Finder:
    """Finds batches of earlier processes, and those of ours whose submit had no answer.

    Args:
        state: How the endpoint stands.
        routes: The gateway's.
    """

    def __init__(self, state: BatchState, routes: BatchRoutes) -> None:
        self._state = state
        self._routes = routes

    async def find(self, sent: Sent) -> Batch | None:
        """A batch in the gateway's list; None if it was never submitted.

        Raises:
            FateUnknownError: If the list cannot be had.
        """
        wait = min(_UNLISTED_SECONDS, self._state.poll)
        while True:
            for each in await self.listed(sent):
                if each.file_name == name_of(sent.task_id):
                    requests = [Request(key, None, {}) for key in sent.keys]
                    return Batch(sent.task_id, each.id, requests, sent.at)
            if time.time() > sent.at + wait:
                return None
            await self._state.nap(self._state.poll, _fate_of(sent))

    async def listed(self, sent: Sent) -> tuple[Listed, ...]:
        """The user's batches, asked for until they are told.

        Args:
            sent: The batch that is looked for.

        Raises:
            FateUnknownError: If they are not told, time and again.
        """
        for tries in itertools.count(1):
            try:
                answer = await self._routes.listed()
                if answer.status == 200:
                    return read_list(answer.raw)
                failure = self._state.failure_of(answer)
            except EXCHANGE_ERRORS as error:
                failure = self._state.failure_from(error)
            except ValueError as error:
                failure = self._state.transient(f"the gateway gave {error}.")
            if tries == TRIES:
                logger.warning(
                    "%s: %d items wait to learn whether %s was submitted, and the gateway's list "
                    "of batches cannot be had: %s",
                    self._state.name,
                    len(sent.keys),
                    name_of(sent.task_id),
                    failure.message,
                )
            if tries == _MOST_TRIES:
                why = f"the gateway's list of batches cannot be had ({failure.message})."
                raise FateUnknownError(self._state.unknown(_fate_of(sent), why))
            await self._state.nap(self._state.poll, _fate_of(sent))
        raise AssertionError("it counts for ever")


def _fate_of(sent: Sent) -> str:
    return f"whether the batch of {sent.task_group_id} was submitted"
