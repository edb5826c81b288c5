"""A bundle of chat requests, asked through the scheduler that also runs at the coordinator."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from langgraph_hpc_fanout.dispatch.job import Job, Ticket
from langgraph_hpc_fanout.dispatch.lane import Lane
from langgraph_hpc_fanout.dispatch.reasons import NoEndpointError, in_short
from langgraph_hpc_fanout.dispatch.retry import Retry
from langgraph_hpc_fanout.dispatch.scheduler import Scheduler
from langgraph_hpc_fanout.records import Failure, Reply, Request
from langgraph_hpc_fanout.remote.bundle import (
    Bundle,
    is_retryable,
    refusal,
    reply_of_body,
    reply_of_failure,
    unasked,
)
from langgraph_hpc_fanout.remote.compact import compact
from langgraph_hpc_fanout.remote.node import node_of

_GRACE = 1.0
"""Seconds after the deadline in which what is in flight is let go of."""
_PATIENT = 1e-3


class Asking:
    """Requests of one bundle for one model: the scheduler's client. Lives on the dispatch loop.

    Args:
        requests: Places in the bundle, and what to ask.
        model: Id of the model.
        replies: Where replies go, at the places of their requests.
        ends: When the bundle's time is up, in the loop's time.
    """

    def __init__(
        self,
        requests: Iterable[tuple[int, dict[str, Any]]],
        model: str,
        replies: list[dict[str, Any] | None],
        ends: float,
    ) -> None:
        self._waiting = deque(_ticket(place, body, model, ends) for place, body in requests)
        self._left = {ticket.tag: ticket for ticket in self._waiting}
        self._replies = replies
        self._done = asyncio.Event()
        self.aborted = False

    async def work_off(self, scheduler: Scheduler, job: Job, bundle: Bundle, ends: float) -> None:
        """Ask until every request has its reply, or time is up."""
        scheduler.add(job)
        try:
            async with asyncio.timeout_at(ends):
                await self._done.wait()
        except TimeoutError:
            await self._run_out(job, bundle)
        finally:
            scheduler.remove(job)

    # -- the scheduler's client -----------------------------------------------------------

    def feed(self, most: int) -> Sequence[Ticket]:
        """The next requests."""
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def unfed(self) -> int:
        """How many are still to be sent."""
        return len(self._waiting)

    def settle(self, ticket: Ticket, reply: Reply, lane: Lane, seconds: float) -> None:
        """Keep what came of a request."""
        if reply.body is None:
            self._answer(ticket.tag, reply_of_failure(reply, seconds, ticket.attempts))
        else:
            body = compact(reply.body, ticket.request.body)
            self._answer(ticket.tag, reply_of_body(body, seconds, ticket.attempts))

    def abort(self, failures: Sequence[Failure]) -> None:
        """No server can go on: the rest is for another task, perhaps on another node."""
        self.aborted = True
        first, said = failures[0], in_short(failures)
        failure = replace(first, message=said, retryable=is_retryable(first.kind))
        for place, ticket in tuple(self._left.items()):
            reply = reply_of_failure(Reply(0, failure=failure), tries=ticket.attempts)
            self._answer(place, reply)

    # -- replies --------------------------------------------------------------------------

    async def _run_out(self, job: Job, bundle: Bundle) -> None:
        """Time is up: nothing more is sent, and what is in flight ends by its own timer."""
        for place, ticket in tuple(self._left.items()):
            if not ticket.attempts:
                job.withdraw(ticket)
                self._answer(place, unasked(bundle.deadline))
        try:
            async with asyncio.timeout(_GRACE):
                await self._done.wait()
        except TimeoutError:
            for place, ticket in tuple(self._left.items()):
                late = f"Not answered within the {bundle.deadline:g} s that its bundle had."
                self._answer(place, refusal("timeout", late, tries=ticket.attempts))

    def _answer(self, place: int, reply: dict[str, Any]) -> None:
        if self._left.pop(place, None) is not None:
            self._replies[place] = reply
        if not self._left:
            self._done.set()


async def ask_all(bundle: Bundle) -> list[dict[str, Any]]:
    """The reply to each request of a bundle. Runs on the dispatch loop.

    Raises:
        BundleError: If there are no servers.
    """
    began = asyncio.get_running_loop().time()
    replies: list[dict[str, Any] | None] = [None] * len(bundle.requests)
    by_model: dict[str | None, list[tuple[int, dict[str, Any]]]] = {}
    for place, request in enumerate(bundle.requests):
        if not isinstance(request, dict) or not isinstance(request.get("messages"), list):
            said = f"This is no chat request, it has no messages: {request!r:.200}"
            replies[place] = refusal("permanent", said)
        else:
            model = request.get("model") or bundle.model
            by_model.setdefault(model, []).append((place, request))
    asked = sum(map(len, by_model.values()))
    groups = []
    for model, requests in by_model.items():
        share = max(1, bundle.window * len(requests) // asked)
        groups.append(_ask_for(model, requests, replies, bundle, share, began))
    for ended in await asyncio.gather(*groups, return_exceptions=True):
        if isinstance(ended, BaseException):
            raise ended
    return [reply or unasked(bundle.deadline) for reply in replies]


async def _ask_for(
    model: str | None,
    requests: list[tuple[int, dict[str, Any]]],
    replies: list[dict[str, Any] | None],
    bundle: Bundle,
    share: int,
    began: float,
) -> None:
    """Ask the requests for one model, a share of the window at once."""
    ends = began + bundle.deadline
    if bundle.deadline <= 0:
        return
    node = node_of(bundle)
    try:
        async with node.serving(model, began + bundle.patience, ends) as (servers, name):
            patience = max(_PATIENT, bundle.deadline)
            retry = Retry(attempts=bundle.attempts, timeout=bundle.timeout, patience=patience)
            asking = Asking(requests, name, replies, ends)
            job = Job(asking, name, retry, concurrency=share)
            await asking.work_off(servers.scheduler, job, bundle, ends)
            if asking.aborted:
                node.servers_died()
    except NoEndpointError as error:
        for place, _ in requests:
            replies[place] = refusal(error.kind, str(error))


def _ticket(place: int, body: dict[str, Any], model: str, ends: float) -> Ticket:
    asked = {name: value for name, value in body.items() if name not in ("model", "stream")}
    ticket = Ticket(place, Request(str(place), model, asked))
    ticket.deadline = ends
    return ticket
