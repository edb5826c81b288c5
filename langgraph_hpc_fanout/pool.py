"""A pool: the endpoints that a fan-out may use, shared by any number of graphs."""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from langgraph_hpc_fanout.dispatch.calls import Calls
from langgraph_hpc_fanout.dispatch.costs.budget import Budget
from langgraph_hpc_fanout.dispatch.loop import dispatch_loop
from langgraph_hpc_fanout.dispatch.policy import Policy
from langgraph_hpc_fanout.dispatch.reasons import NoEndpointError
from langgraph_hpc_fanout.dispatch.retry import Retry, actions_at
from langgraph_hpc_fanout.dispatch.scheduler import Scheduler
from langgraph_hpc_fanout.endpoints.connections import Connections
from langgraph_hpc_fanout.endpoints.credentials import ApiKey
from langgraph_hpc_fanout.endpoints.first.endpoint import FirstEndpoint, model_named
from langgraph_hpc_fanout.endpoints.first.gateway import FEDERATED, gateway_of
from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.endpoints.models import Models
from langgraph_hpc_fanout.endpoints.openai import OpenAIEndpoint
from langgraph_hpc_fanout.endpoints.price import Price, price_of
from langgraph_hpc_fanout.endpoints.protocol import Endpoint
from langgraph_hpc_fanout.endpoints.tags import Tags, as_tags, tags_of
from langgraph_hpc_fanout.instances.federation import Federation, ServingCluster
from langgraph_hpc_fanout.instances.instance import Instance
from langgraph_hpc_fanout.instances.listing import Change
from langgraph_hpc_fanout.instances.sources import source_of
from langgraph_hpc_fanout.instances.watch import Watch, Watched
from langgraph_hpc_fanout.records import Failure, Reply, Request

if TYPE_CHECKING:
    from langgraph_hpc_fanout.chat_models import PoolChatModel

logger = logging.getLogger("langgraph_hpc_fanout")


class Pool:
    """Endpoints that pull from one queue.

    A pool opens its endpoints when it is first used and closes them at exit, so it may be
    made at import time, used from several graphs, threads and event loops at once, closed and
    used again, and inherited by a forked process.

    Args:
        endpoints: Endpoints, or URLs of OpenAI-compatible servers; one of them or several. Those
            that a launcher lists are what `from_instances` is for.
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
        endpoints: str | Endpoint | Iterable[str | Endpoint] | Watched[Any],
        *,
        policy: Policy = Policy(),
        budget: Budget | None = None,
    ) -> None:
        watched = endpoints if isinstance(endpoints, Watched) else None
        if isinstance(endpoints, Watched):
            endpoints = ()
        elif isinstance(endpoints, str) or not isinstance(endpoints, Iterable):
            endpoints = [endpoints]
        given = tuple(_endpoint(each) for each in endpoints)
        if not given and watched is None:
            raise ValueError("The pool is empty; give it at least one URL or endpoint.")
        names = Counter(endpoint.name for endpoint in given)
        if twice := sorted(name for name, count in names.items() if count > 1):
            raise ValueError(f"The pool has several endpoints named {', '.join(twice)}.")
        self.endpoints = given
        self._policy = policy
        self._budget = budget
        self._scheduler: Scheduler | None = None
        self._calls: dict[tuple[Any, ...], Calls] = {}
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._watched = watched
        self._watch: Watch[Any] | None = None
        self._connections = Connections()

    @classmethod
    def from_instances(
        cls,
        source: str | os.PathLike[str],
        *,
        models: Models | None = None,
        api_key: ApiKey | None = None,
        limits: Limits = Limits(),
        tags: Tags = (),
        price: Price | None = None,
        policy: Policy = Policy(),
        budget: Budget | None = None,
        wait: float = 600.0,
        every: float = 3.0,
    ) -> Self:
        """A pool of the servers that a launcher lists, as they come and go.

        The list is read when the pool is first used, and looked at again while it is in use:
        instances that appear join, those that vanish from it get nothing more and leave when
        what they have is done. A list that is empty or away for a moment changes nothing.

        Args:
            source: Path of a file with `host:port` or a URL a line, and `key=value` after it,
                which become tags; or the URL of a registry such as Aegis's,
                `http://node1:8471`. Neither need be there yet.
            models: What each instance serves; by default what its `/models` lists.
            api_key: The token that all of them want, as for `OpenAIEndpoint`.
            limits: What may be asked of each.
            tags: Words that all of them carry, by which tasks require or forbid them.
            price: What each costs.
            policy: How instances and requests that fail are treated.
            budget: What all that use the pool together may use, until it is closed.
            wait: Seconds for which a run or a call waits while no instance answers.
            every: Seconds between looks at the list.

        Raises:
            ValueError: If the source is no path and no URL, or a time is out of range.
            TypeError: If the source is something else.

        Example:
            ```python
            pool = Pool.from_instances("hosts.tsv", limits=Limits(concurrency=64))
            ```
        """
        common = as_tags(tags, "Pool.from_instances(tags=...)")

        def make(instance: Instance) -> Endpoint:
            return OpenAIEndpoint(
                instance.url,
                name=instance.name,
                models=models,
                api_key=api_key,
                limits=limits,
                tags=common | instance.tags,
                price=price,
            )

        watched = Watched(source_of(source), make, every, wait)
        return cls(watched, policy=policy, budget=budget)

    @classmethod
    def from_aegis(
        cls, source: str | os.PathLike[str] = "aegis_endpoints.txt", **settings: Any
    ) -> Self:
        """A pool of the vLLM instances that Aegis started: `from_instances` of its file.

        Args:
            source: The file that `aegis launch` writes, or the URL of its registry, which it
                writes to `aegis_registry_url.txt`.
            settings: What `from_instances` takes.
        """
        return cls.from_instances(source, **settings)

    @classmethod
    def from_first(
        cls,
        model: str | None = None,
        *,
        clusters: str | Iterable[str] | None = None,
        base_url: str | None = None,
        token: ApiKey | None = None,
        limits: Limits | Literal["discover"] = "discover",
        tags: Tags = (),
        price: Price | None = None,
        policy: Policy = Policy(),
        budget: Budget | None = None,
        wait: float = 60.0,
        every: float = 300.0,
    ) -> Self:
        """A pool of all clusters behind FIRST that serve a model to you.

        The gateway's list is read when the pool is first used, and looked at again while it is
        in use. A cluster that is in maintenance is left alone, and the others do its work.
        Version 2 has no list and finds a cluster itself; there the pool is one endpoint, or one
        for each of `clusters`.

        Args:
            model: The model's logical name; by default what `FIRST_MODEL` says.
            clusters: Clusters that may be asked; by default all.
            base_url: The gateway, as for `FirstEndpoint`.
            token: The token, as for `FirstEndpoint`.
            limits: What may be asked of each; by default what the gateway tells.
            tags: Words that all of them carry, by which tasks require or forbid them.
            price: What each costs.
            policy: How clusters and requests that fail are treated.
            budget: What all that use the pool together may use, until it is closed.
            wait: Seconds for which a run or a call waits while no cluster answers; one that is
                on its way is waited for longer.
            every: Seconds between looks at the list.

        Raises:
            ValueError: If no model is named, the list of clusters is empty, the address is no URL,
                or a time is out of range.

        Example:
            ```python
            pool = Pool.from_first("gpt-oss-120b")
            ```
        """
        wanted = model_named(model, "Pool.from_first()")
        some = (clusters,) if isinstance(clusters, str) else clusters
        named = None if some is None else tuple(dict.fromkeys(some))
        if named == ():
            raise ValueError(
                "Pool.from_first(clusters=...) is empty; name some, or leave it out for all that "
                "serve the model."
            )
        common = as_tags(tags, "Pool.from_first(tags=...)")
        gateway = gateway_of(base_url, token)

        def at(cluster: str, framework: str | None = None, name: str | None = None) -> Endpoint:
            return FirstEndpoint(
                cluster,
                framework,
                wanted,
                base_url=str(gateway.root),  # the environment may name another one later
                token=token,
                limits=limits,
                name=name,
                tags=common,
                price=price,
            )

        def make(each: ServingCluster) -> Endpoint:
            return at(each.served.cluster, each.served.framework, each.name)

        source = Federation(gateway, wanted, named)
        watched = Watched(source, make, every, wait)
        endpoints = map(at, named or (FEDERATED,)) if gateway.is_second else watched
        return cls(endpoints, policy=policy, budget=budget)

    def __repr__(self) -> str:
        if self._watched is not None:
            return f"Pool({len(self.endpoints)} instances of {self._watched.source.name})"
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
        try:
            scheduler, model = await self.resolve(request.model, require, forbid)
        except NoEndpointError as error:
            return Reply(0, failure=Failure(error.kind, str(error)))
        way = (model, retry, require, forbid)
        if (calls := self._calls.get(way)) is None:
            calls = self._calls[way] = Calls(scheduler, *way)
        return await calls.ask(replace(request, model=model))

    async def resolve(
        self, model: str | None, require: frozenset[str], forbid: frozenset[str]
    ) -> tuple[Scheduler, str]:
        """The scheduler on the running loop, and the logical model to ask it for.

        A pool of listed instances waits for the first that answers.

        Raises:
            NoEndpointError: If nobody can be asked, or no model is meant.
        """
        scheduler = self.scheduler()
        if self._watch is not None:
            return scheduler, await self._watch.resolve(model, require, forbid)
        return scheduler, await scheduler.resolve(model, require, forbid)

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
            self._connections.allow(self.endpoints)
            self._scheduler = scheduler = Scheduler(
                self.endpoints, policy=self._policy, budget=self._budget
            )
            self._calls = {}
            self._watch = watch = self._watch_of(scheduler)
            dispatch = dispatch_loop()
            if dispatch.loop is loop:
                dispatch.at_exit(scheduler.close)
                if watch is not None:
                    dispatch.at_exit(watch.close)
                self._finalizer = weakref.finalize(self, _abandon, scheduler, watch)
                self._finalizer.atexit = False
        return self._scheduler

    async def _join(self, endpoint: Endpoint) -> None:
        """On the loop where schedulers are made, so nobody sees half of it."""
        if any(each.name == endpoint.name for each in self.endpoints):
            raise ValueError(f"The pool has an endpoint named {endpoint.name} already.")
        if self._scheduler is not None and self._scheduler.loop is asyncio.get_running_loop():
            self._connections.allow((*self.endpoints, endpoint))
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

    def _watch_of(self, scheduler: Scheduler) -> Watch[Any] | None:
        if self._watched is None:
            return None
        follow = weakref.WeakMethod(self._follow)  # a pool that nobody holds is to be closed

        def change(change: Change[Any]) -> None:
            if (call := follow()) is not None:
                call(scheduler, change)

        return Watch(self._watched, scheduler, change)

    def _follow(self, scheduler: Scheduler, change: Change[Any]) -> None:
        """Let listed instances leave and join, on the loop; all at once, for they may be many."""
        assert self._watched is not None  # noqa: S101 - there is a watch
        left = set(change.left)
        leaving = [lane for lane in scheduler.lanes if lane.name in left]
        self.endpoints = tuple(each for each in self.endpoints if each.name not in left)
        names = {each.name for each in self.endpoints}
        joined = []
        for instance in change.joined:
            if instance.name in names:
                continue  # it was added by hand
            endpoint = self._watched.make(instance)
            try:
                scheduler.join(endpoint)
            except ValueError as error:
                logger.error("%s cannot join: %s", instance.name, error)  # noqa: TRY400
                continue
            joined.append(endpoint)
        self._connections.allow((*self.endpoints, *joined))
        self.endpoints = (*self.endpoints, *joined)
        if leaving:
            scheduler.leave_all(leaving)

    async def _close(self) -> None:
        scheduler, self._scheduler = self._scheduler, None
        watch, self._watch = self._watch, None
        if watch is not None and watch.loop is asyncio.get_running_loop():
            dispatch_loop().forget(watch.close)
            await watch.close()
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


def _abandon(scheduler: Scheduler, watch: Watch[Any] | None) -> None:
    """Close the connections of a pool that was garbage collected."""
    dispatch = dispatch_loop()
    if dispatch.loop is scheduler.loop:
        dispatch.forget(scheduler.close)
        if watch is not None:
            dispatch.forget(watch.close)
            dispatch.submit(watch.close())
        dispatch.submit(scheduler.close())
