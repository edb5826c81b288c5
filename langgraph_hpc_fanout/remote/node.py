"""The servers of this node, kept warm: endpoints, connections and health outlive the tasks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from langgraph_hpc_fanout.dispatch.loop import dispatch_loop
from langgraph_hpc_fanout.dispatch.policy import Policy
from langgraph_hpc_fanout.dispatch.reasons import NoEndpointError, in_short
from langgraph_hpc_fanout.dispatch.scheduler import Scheduler
from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.endpoints.openai import OpenAIEndpoint
from langgraph_hpc_fanout.records import Failure
from langgraph_hpc_fanout.remote.bundle import Bundle, BundleError, worker_name
from langgraph_hpc_fanout.remote.discovery import discover, is_fixed, is_range, without_user

_MOST_AT_ONCE = 8192
"""Requests at one server; bundles have windows of their own, which are what holds."""
_OTHER_FILES = 256
_LOOK_AGAIN = 1.0
"""Seconds between looks for servers that are not there, at first less."""
_PROBE_SECONDS = 5.0


class KeyFrom:
    """A key that an environment variable of any name holds.

    Args:
        variable: The variable's name.
    """

    def __init__(self, variable: str) -> None:
        self._variable = variable
        self.__qualname__ = f"os.environ[{variable!r}]"

    def __call__(self) -> str:
        """The key.

        Raises:
            LookupError: If the variable is not set.
        """
        key = os.environ.get(self._variable, "").strip()
        if not key:
            raise LookupError(f"the environment variable {self._variable} is not set on this node")
        return key


@dataclass(frozen=True, slots=True)
class Settings:
    """What a node's servers are known by.

    Attributes:
        rules: URLs and rules, see `discovery`.
        api_key_env: Environment variable that holds their key.
        verify: Whether their certificates must be trusted ones.
    """

    rules: tuple[str, ...]
    api_key_env: str | None = None
    verify: bool = True

    def secret(self) -> str | None:
        """The key, if one is wanted and there is one."""
        return os.environ.get(self.api_key_env, "").strip() if self.api_key_env else None

    def key(self) -> str | None:
        """The key, if one is wanted.

        Raises:
            LookupError: If there is none.
        """
        return KeyFrom(self.api_key_env)() if self.api_key_env else None

    def endpoint(self, url: str) -> OpenAIEndpoint:
        """The door to one of the servers."""
        return OpenAIEndpoint(
            url,
            api_key=self.api_key_env and KeyFrom(self.api_key_env),
            limits=Limits(concurrency=_MOST_AT_ONCE),
            verify=self.verify,
        )


class Servers:
    """Some servers and the scheduler over them. Lives on the dispatch loop.

    Args:
        settings: How to reach them.
        urls: Where they are.
    """

    def __init__(self, settings: Settings, urls: Sequence[str]) -> None:
        self.urls = tuple(urls)
        # Whoever sent the functions decides how long to wait for servers that are away.
        policy = Policy(absence=0.0)
        self.scheduler = Scheduler([settings.endpoint(url) for url in urls], policy=policy)
        self._users = 0
        self._retired = False
        dispatch_loop().at_exit(self.scheduler.close)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep them open meanwhile."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._close_if_done()

    def retire(self) -> None:
        """Others have taken their place: close them when nobody uses them."""
        self._retired = True
        self._close_if_done()

    def first_model(self) -> str | None:
        """The model that the first server which is there lists first."""
        for lane in self.scheduler.lanes:
            if lane.condition.is_hot and lane.endpoint.models:
                return next(iter(lane.endpoint.models))
        return None

    def urls_of(self, model: str | None) -> list[str]:
        """Where a model is served now."""
        return [
            url
            for url, lane in zip(self.urls, self.scheduler.lanes, strict=True)
            if lane.condition.is_hot and (model is None or model in lane.serves)
        ]

    def doubt(self) -> None:
        """Somebody could not reach them: whether they are there must be seen again."""
        for lane in self.scheduler.lanes:
            message = f"{lane.name} could not be reached by a function."
            lane.chill(Failure("cold", message, None, True, lane.name))

    def explain(self) -> str:
        """Why no server can be asked, in a few reasons however many servers there are."""
        return in_short(self.scheduler.why_not())

    def _close_if_done(self) -> None:
        if self._retired and not self._users:
            dispatch_loop().forget(self.scheduler.close)
            _keep(asyncio.get_running_loop().create_task(self.scheduler.close()))


class Node:
    """Finds the servers that settings mean, and finds them again when they have gone.

    Lives on the dispatch loop.

    Args:
        settings: Which servers, and how to reach them.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self._servers: Servers | None = None
        self._stale = True
        self._looking = asyncio.Lock()

    def servers_died(self) -> None:
        """Look for servers again before the next requests, and at those that there were."""
        self._stale = True
        if self._servers is not None:
            self._servers.doubt()

    @contextlib.asynccontextmanager
    async def serving(
        self, model: str | None, until: float, ends: float
    ) -> AsyncIterator[tuple[Servers, str]]:
        """Servers of a model, by default of the first that is listed, and its name.

        They stay open meanwhile. At least one look is taken at them.

        Args:
            model: Id of the model.
            until: When to stop waiting for servers that are not there, in the loop's time.
            ends: When to stop whatever happens.

        Raises:
            BundleError: If there are no servers.
            NoEndpointError: If they cannot be asked for the model.
        """
        delay = _LOOK_AGAIN / 8
        while True:
            servers = await self._find()
            if servers is not None:
                with servers.in_use():
                    name = await self._resolve(servers, model, until, ends)
                    if name is not None:
                        yield servers, name
                        return
            elif self.loop.time() >= until:
                raise self._nothing()
            await asyncio.sleep(max(0.0, min(delay, until - self.loop.time())))
            delay = min(_LOOK_AGAIN, 2 * delay)

    async def _resolve(
        self, servers: Servers, model: str | None, until: float, ends: float
    ) -> str | None:
        """The model to ask for, if a server of it is there; None if it may still come.

        Raises:
            NoEndpointError: If it is not worth waiting for.
        """
        try:
            async with asyncio.timeout_at(ends):
                return await servers.scheduler.resolve(model)
        except NoEndpointError as error:
            if error.kind == "permanent" and (first := servers.first_model()) is not None:
                return first
            reasons = servers.scheduler.why_not()
            if error.kind != "cold" or not any(reason.retryable for reason in reasons):
                lasting = any(reason.kind == "permanent" for reason in reasons)
                kind = "permanent" if lasting else error.kind
                raise NoEndpointError(str(error), kind) from None
        except TimeoutError:
            pass
        self._stale = True
        if self.loop.time() < until:
            return None
        raise NoEndpointError(
            f"No server on {worker_name()} can be asked for {model or 'any model'}: "
            f"{servers.explain()}"
        )

    async def _find(self) -> Servers | None:
        """The servers, looked for again if that may find others."""
        async with self._looking:
            if not self._stale:
                return self._servers
            rules = self.settings.rules
            if self._servers is None or not is_fixed(rules):
                urls = await asyncio.to_thread(discover, rules)
                if urls and any(map(is_range, rules)):
                    urls = await self._leave_out_strangers(urls)
                self._use(urls)
            self._stale = self._servers is None
            return self._servers

    def _use(self, urls: Sequence[str]) -> None:
        if self._servers is not None and set(urls) == set(self._servers.urls):
            return
        if self._servers is not None:
            self._servers.retire()
        _allow_connections()
        self._servers = Servers(self.settings, urls) if urls else None

    async def _leave_out_strangers(self, urls: Sequence[str]) -> list[str]:
        """Those of a range of ports that are chat servers, or may be when they have started."""
        strange = await asyncio.gather(*map(self._is_stranger, urls))
        fitting = [url for url, is_strange in zip(urls, strange, strict=True) if not is_strange]
        return fitting or list(urls)

    async def _is_stranger(self, url: str) -> bool:
        endpoint = self.settings.endpoint(url)
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                failure = (await endpoint.probe()).failure
        except TimeoutError:
            return True
        finally:
            await endpoint.close()
        return failure is not None and (failure.kind == "auth" or failure.status in (200, 404, 405))

    def _nothing(self) -> BundleError:
        rules = ", ".join(map(without_user, self.settings.rules)) or "none was named"
        return BundleError(
            f"{worker_name()} found no server ({rules}); does one run, and do the rules name it?",
            "cold",
        )


_nodes: dict[Settings, Node] = {}
_inherited: list[dict[Settings, Node]] = []
"""Nodes of before a fork. Collecting them would close connections that the parent uses."""
_tasks: set[asyncio.Task[None]] = set()


def node_of(bundle: Bundle) -> Node:
    """The node as a bundle sees it; the same one for like bundles. Runs on the dispatch loop."""
    settings = Settings(bundle.servers, bundle.api_key_env, bundle.verify)
    node = _nodes.get(settings)
    if node is None or node.loop is not asyncio.get_running_loop():
        node = _nodes[settings] = Node(settings)
    return node


def _after_fork() -> None:
    global _nodes
    _inherited.append(_nodes)
    _nodes = {}


os.register_at_fork(after_in_child=_after_fork)


def _keep(task: asyncio.Task[None]) -> None:
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def _allow_connections() -> None:
    """Raise the soft limit of open files, often 1,024, as far as that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _MOST_AT_ONCE + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
