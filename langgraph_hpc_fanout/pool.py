"""A pool: the endpoints that a fan-out may use, shared by any number of graphs."""

from __future__ import annotations

import asyncio
import logging
import resource
import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from langgraph_hpc_fanout.dispatch.calls import Calls
from langgraph_hpc_fanout.dispatch.costs.budget import Budget
from langgraph_hpc_fanout.dispatch.loop import dispatch_loop
from langgraph_hpc_fanout.dispatch.policy import Policy
from langgraph_hpc_fanout.dispatch.reasons import NoEndpointError
from langgraph_hpc_fanout.dispatch.retry import Retry, actions_at
from langgraph_hpc_fanout.dispatch.scheduler import Scheduler
from langgraph_hpc_fanout.endpoints.openai import OpenAIEndpoint
from langgraph_hpc_fanout.endpoints.price import price_of
from langgraph_hpc_fanout.endpoints.protocol import Endpoint
from langgraph_hpc_fanout.endpoints.tags import Tags, as_tags, tags_of
from langgraph_hpc_fanout.records import Failure, Reply, Request

if TYPE_CHECKING:
    from langgraph_hpc_fanout.chat_models import PoolChatModel

logger = logging.getLogger("langgraph_hpc_fanout")

_CONNECTIONS = 1_024
"""Connections to be ready for, where no limit was given."""
_OTHER_FILES = 256
"""Files that a process may have open besides its connections."""


class Pool:
    """Endpoints that pull from one queue.

    A pool opens its endpoints when it is first used and closes them at exit, so it may be
    made at import time, used from several graphs, threads and event loops at once, closed and
    used again, and inherited by a forked process.

    Args:
        endpoints: Endpoints, or URLs of OpenAI-compatible servers; one of them or several.
        policy: How endpoints and requests that fail are treated.
        budget: What all that use the pool together may use, until it is closed.

    Raises:
        ValueError: If there are none, or two have the same name.
        TypeError: If one is neither a URL nor an endpoint.
        TypeError, ValueError: If the tags, the price or the actions of one make no sense.

    Example:
        ```python
        pool = Pool(["http://127.0.0.1:8000/v1", "http://127.0.0.1:8001/v1"])
        ```
    """

    def __init__(
        self,
        endpoints: str | Endpoint | Iterable[str | Endpoint],
        *,
        policy: Policy = Policy(),
        budget: Budget | None = None,
    ) -> None:
        if isinstance(endpoints, str) or not isinstance(endpoints, Iterable):
            endpoints = [endpoints]
        self.endpoints: tuple[Endpoint, ...] = tuple(_endpoint(each) for each in endpoints)
        if not self.endpoints:
            raise ValueError("The pool is empty; give it at least one URL or endpoint.")
        names = Counter(endpoint.name for endpoint in self.endpoints)
        if twice := sorted(name for name, count in names.items() if count > 1):
            raise ValueError(f"The pool has several endpoints named {', '.join(twice)}.")
        self._policy = policy
        self._budget = budget
        self._scheduler: Scheduler | None = None
        self._calls: dict[tuple[Any, ...], Calls] = {}
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def __repr__(self) -> str:
        return f"Pool([{', '.join(endpoint.name for endpoint in self.endpoints)}])"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # limits hold for all who share a pool, copies of a chat model included

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, endpoint: str | Endpoint) -> None:
        """Take in one more endpoint; what waits may go there at once.

        Raises:
            ValueError: If the pool has one of that name.
            TypeError: If it is neither a URL nor an endpoint.
            TypeError, ValueError: If its tags, its price or its actions make no sense.
        """
        dispatch_loop().wait_for(self._join(_endpoint(endpoint)))

    def remove(self, name: str) -> None:
        """Send nothing more to an endpoint, and close it once what is in flight there has ended.

        Returns at once. An endpoint that comes back, or another of its name, may be added.

        Raises:
            LookupError: If the pool has no such endpoint.
        """
        dispatch_loop().wait_for(self._leave(name))

    def chat_model(
        self,
        model: str | None = None,
        *,
        retry: Retry = Retry(),
        require: Tags = (),
        forbid: Tags = (),
        **settings: Any,
    ) -> PoolChatModel:
        """A LangChain chat model whose calls go through this pool's lanes.

        It keeps the pool's limits together with everything else that uses the pool, and is what
        chains and agents that are a fan-out's task should ask. Make it where the graph is made:
        the first one imports langchain-openai, which takes about half a second.

        Args:
            model: Logical model name; by default the only model that the pool serves.
            retry: How hard to try for one call.
            require: Tags that an endpoint must have to be asked.
            forbid: Tags that it must not have.
            settings: What langchain-openai's chat models take: `temperature`, `max_tokens`,
                `seed`, `stop`, `extra_body` and so on.

        Raises:
            ChatError: From its calls, if one has no answer after all tries.

        Example:
            ```python
            question = ChatPromptTemplate.from_template("Is {name} toxic?")
            chain = question | pool.chat_model(temperature=0) | StrOutputParser()
            screen = FanOutNode("molecules", chain)
            ```
        """
        from langgraph_hpc_fanout.chat_models import PoolChatModel  # noqa: PLC0415 - LangChain

        return PoolChatModel(
            pool=self,
            model=model or "",
            retry=retry,
            require=as_tags(require, "pool.chat_model(require=...)"),
            forbid=as_tags(forbid, "pool.chat_model(forbid=...)"),
            **settings,
        )

    async def ask(
        self,
        request: Request,
        retry: Retry = Retry(),
        *,
        require: frozenset[str] = frozenset(),
        forbid: frozenset[str] = frozenset(),
    ) -> Reply:
        """The last word of the lanes on one request, from any event loop.

        The limits, retries and failover are those of a run.
        """
        dispatch = dispatch_loop()
        if not dispatch.is_current_thread:
            asking = self.ask(request, retry, require=require, forbid=forbid)
            return await asyncio.wrap_future(dispatch.submit(asking))
        scheduler = self.scheduler()
        try:
            model = await scheduler.resolve(request.model, require, forbid)
        except NoEndpointError as error:
            return Reply(0, failure=Failure(error.kind, str(error)))
        way = (model, retry, require, forbid)
        if (calls := self._calls.get(way)) is None:
            calls = self._calls[way] = Calls(scheduler, *way)
        return await calls.ask(replace(request, model=model))

    def close(self) -> None:
        """End what is running and close all connections; the next use opens them again."""
        if self._scheduler is not None:
            dispatch_loop().wait_for(self._close())

    def scheduler(self) -> Scheduler:
        """The pool's scheduler on the running loop; made anew after a close or a fork."""
        loop = asyncio.get_running_loop()
        if self._scheduler is None or self._scheduler.loop is not loop:
            if self._finalizer is not None:
                self._finalizer.detach()
            _allow_connections(sum(map(_connections, self.endpoints)))
            self._scheduler = scheduler = Scheduler(
                self.endpoints, policy=self._policy, budget=self._budget
            )
            self._calls = {}
            dispatch = dispatch_loop()
            if dispatch.loop is loop:
                dispatch.at_exit(scheduler.close)
                self._finalizer = weakref.finalize(self, _abandon, scheduler)
                self._finalizer.atexit = False
        return self._scheduler

    async def _join(self, endpoint: Endpoint) -> None:
        """On the loop where schedulers are made, so nobody sees half of it."""
        if any(each.name == endpoint.name for each in self.endpoints):
            raise ValueError(f"The pool has an endpoint named {endpoint.name} already.")
        if self._scheduler is not None and self._scheduler.loop is asyncio.get_running_loop():
            _allow_connections(sum(map(_connections, (*self.endpoints, endpoint))))
            self._scheduler.join(endpoint)
        self.endpoints = (*self.endpoints, endpoint)

    async def _leave(self, name: str) -> None:
        rest = tuple(each for each in self.endpoints if each.name != name)
        if len(rest) == len(self.endpoints):
            names = ", ".join(each.name for each in self.endpoints) or "none"
            raise LookupError(f"The pool has no endpoint {name!r}, only {names}.")
        self.endpoints = rest
        if self._scheduler is not None and self._scheduler.loop is asyncio.get_running_loop():
            for lane in [each for each in self._scheduler.lanes if each.name == name]:
                self._scheduler.leave(lane)

    async def _close(self) -> None:
        scheduler, self._scheduler = self._scheduler, None
        if self._finalizer is not None:
            self._finalizer.detach()
        if scheduler is not None and scheduler.loop is asyncio.get_running_loop():
            dispatch_loop().forget(scheduler.close)
            await scheduler.close()


def _endpoint(given: str | Endpoint) -> Endpoint:
    if isinstance(given, str):
        return OpenAIEndpoint(given)
    if isinstance(given, Endpoint):
        for says in (tags_of, price_of, actions_at):  # now, and not in the middle of a run
            says(given)
        return given
    raise TypeError(
        f"A pool takes URLs and endpoints, not {type(given).__name__}; "
        "see langgraph_hpc_fanout.Endpoint for what an endpoint has."
    )


def _connections(endpoint: Endpoint) -> int:
    """Most connections of its own; what queues somewhere else is worked on somewhere else."""
    if endpoint.bundling.queues:
        return 0
    limit = endpoint.limits.concurrency
    return _CONNECTIONS if limit is None else limit


def _allow_connections(wanted: int) -> None:
    """Raise the soft limit of open files, often 1,024, to what the pool's limits may need."""
    needed = wanted + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        logger.warning(
            "The pool's limits add up to %d requests at once, but this process may open only %d "
            "files; raise the hard limit (ulimit -Hn) or lower Limits(concurrency=...).",
            wanted,
            allowed,
        )


def _abandon(scheduler: Scheduler) -> None:
    """Close the connections of a pool that was garbage collected."""
    dispatch = dispatch_loop()
    if dispatch.loop is scheduler.loop:
        dispatch.forget(scheduler.close)
        dispatch.submit(scheduler.close())
