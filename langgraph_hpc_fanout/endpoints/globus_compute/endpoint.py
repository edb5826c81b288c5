"""Models on nodes that Globus Compute reaches: a bundle of requests is one task there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from yarl import URL

from langgraph_hpc_fanout.endpoints.globus_compute.faults import Trouble
from langgraph_hpc_fanout.endpoints.globus_compute.losses import Losses
from langgraph_hpc_fanout.endpoints.globus_compute.pace import Pace, parts_of
from langgraph_hpc_fanout.endpoints.globus_compute.session import Part, Session, Traffic
from langgraph_hpc_fanout.endpoints.globus_compute.shipping import (
    Bundles,
    First,
    Node,
    Ship,
    Shipping,
    size_of,
    source_of,
)
from langgraph_hpc_fanout.endpoints.globus_compute.submitter import MOST_BYTES
from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.endpoints.listeners import Listeners
from langgraph_hpc_fanout.endpoints.models import Models, as_mapping, id_of
from langgraph_hpc_fanout.endpoints.price import Price
from langgraph_hpc_fanout.endpoints.protocol import FUNCTIONS, Bundling, Health, Listener, Sent
from langgraph_hpc_fanout.endpoints.tags import Tags, as_tags
from langgraph_hpc_fanout.records import Failure, Reply, Request

if TYPE_CHECKING:
    from globus_compute_sdk import Client
    from globus_sdk.authorizers import GlobusAuthorizer

    from langgraph_hpc_fanout.endpoints.globus_compute.service import Service

DEFAULT_MODEL = "default"
"""Logical name of whatever the node's server serves, where no model is named."""

_HEADROOM = 200
"""Bytes that a request takes besides its body."""
_AT_ONCE = 10_000
_BUNDLE_SECONDS = 60.0
_SERVER = re.compile(r"https?://.+|env:\w+|file:.+|ports:\d+-\d+")
_SHRINK = 8
"""By how much a bundle that may have killed its worker is cut, each time."""


class GlobusComputeEndpoint:
    """Models served on nodes behind a Globus Compute endpoint of yours.

    Requests travel in bundles: one bundle is one task, a worker on the node works on many of its
    requests at once over connections that stay open from task to task, and returns all answers
    together. Arguments and results are JSON. Nothing of the SDK runs on an event loop.

    A task can be lost in silence (a killed endpoint, a node that is gone), so no bundle is waited
    for without end, see `Losses`; what is lost is sent again under the run's `Retry`. Delivery is
    at least once, each item still has one outcome, and what was sent again is counted in
    `traffic` and in `Outcome.attempts`.

    Args:
        endpoint_id: The endpoint's UUID.
        url: The models' server as the node sees it: a base URL, several, or rules by which a
            worker finds the servers of its own node: `env:NAME` (a variable that holds URLs),
            `file:PATH` (lines of host and port), `ports:8000-8007`. FIRST's function asks its
            own host by https, whatever the URL says but for the port.
        name: Name in logs, graphs and outcomes; by default "globus-" and the id's first part.
        model: What is served: an id, ids, or a mapping of logical names to ids. By default
            whatever the node's server lists first, under the logical name "default".
        limits: What may be asked of it. By default 10,000 requests at once.
        tags: Words by which tasks require or forbid it, such as `"on-site"`.
        price: What it costs; needed where a budget is in dollars or node-hours.
        ship: How the code gets there. `"package"`: this package is installed there, in the same
            version (0.1.x with 0.1.x). `"source"`: nothing is; the function travels as text and
            needs only Python's standard library. `"first"`: FIRST's own
            `vllm_inference_function`, one request a task; needs `function_id` and `model`.
        function_id: A function that is registered already, for endpoints with
            `allowed_functions`; `register_function` makes one.
        user_endpoint_config: Values for the endpoint's configuration template. Endpoints with
            other values are other lanes: give each a `GlobusComputeEndpoint` and a name.
        resource_specification: Resources of a task, for engines that take them (MPI).
        window: Requests that a worker works on at once.
        workers: Workers at full scale (blocks by nodes by workers a node), of which each gets two
            bundles, one to work on and one that waits, so that the endpoint's provider sees
            reason to start all blocks. By default as many as have been heard of, and at least
            four bundles; every block that starts raises it.
        attempts: Most times that a worker tries a request, before it comes back as failed and
            is subject to the run's `Retry`.
        timeout: Seconds that a worker waits for one answer. (`Retry.timeout` does not apply,
            for a bundle may wait in a batch scheduler's queue.)
        bundle_seconds: Seconds of work that a bundle is made to be, by what requests have taken
            so far; at most this much is lost with a worker.
        bundle_deadline: Seconds that a worker works on a bundle at most; what is unanswered then
            fails with kind `timeout`.
        server_patience: Seconds that a worker waits for a server that is not there (yet), before
            it gives the bundle back; it is sent again under `Retry(patience=)`.
        losses: When a bundle counts as lost.
        api_key_env: Name of the environment variable, on the node, that holds the server's key.
        verify: Whether the server's certificate must be trusted; vLLM on a node often has one
            of its own.
        client: A `globus_compute_sdk.Client`.
        authorizer: A `globus_sdk` authorizer for the Globus Compute scope. Without both,
            GLOBUS_COMPUTE_CLIENT_ID and GLOBUS_COMPUTE_CLIENT_SECRET count, else the login that
            is stored on this machine. There is never an interactive login (unless a client of
            yours that was never logged in begins one).
        amqp_port: Port by which results come, 443, 5671 or 5672; by default what the service
            says.

    Raises:
        ValueError: If a value cannot be what is meant.

    Example:
        ```python
        GlobusComputeEndpoint(
            "4b116d3c-1703-4f8f-9f6f-39921e5864df",
            url="http://127.0.0.1:8000/v1",
            model={"gpt-oss-120b": "openai/gpt-oss-120b"},
            user_endpoint_config={"account": "my-project", "queue": "debug"},
            window=128,
        )
        ```
    """

    def __init__(
        self,
        endpoint_id: str | UUID,
        *,
        url: str | Sequence[str] = "http://127.0.0.1:8000/v1",
        name: str | None = None,
        model: Models | None = None,
        limits: Limits = Limits(),
        tags: Tags = (),
        price: Price | None = None,
        ship: Ship = "package",
        function_id: str | UUID | None = None,
        user_endpoint_config: Mapping[str, Any] | None = None,
        resource_specification: Mapping[str, Any] | None = None,
        window: int = 64,
        workers: int | None = None,
        attempts: int = 3,
        timeout: float = 600.0,
        bundle_seconds: float = _BUNDLE_SECONDS,
        bundle_deadline: float = 3600.0,
        server_patience: float = 30.0,
        losses: Losses = Losses(),
        api_key_env: str | None = None,
        verify: bool = True,
        client: Client | None = None,
        authorizer: GlobusAuthorizer | None = None,
        amqp_port: int | None = None,
    ) -> None:
        self.endpoint_id = _uuid("endpoint_id", endpoint_id)
        self.name = name or f"globus-{str(self.endpoint_id).partition('-')[0]}"
        where = f"the Globus Compute endpoint {self.name}"
        self._trouble = Trouble(self.name, where, never_raises=ship != "first")
        self._function_id = None if function_id is None else _uuid("function_id", function_id)
        if client is not None and authorizer is not None:
            raise ValueError(f"{self.name} is given a client= and an authorizer=; give one.")
        _check(window=window, attempts=attempts, timeout=timeout, bundle_seconds=bundle_seconds)
        _check(bundle_deadline=bundle_deadline, workers=1 if workers is None else workers)
        _check(server_patience=server_patience)
        servers = _servers(url, self.name)
        node = Node(
            servers,
            api_key_env,
            verify,
            window,
            attempts,
            timeout,
            bundle_deadline,
            server_patience,
        )
        self._shipping = _shipping(ship, node, self._trouble, function_id)
        if ship == "first":
            if model is None:
                raise ValueError(f'{self.name}: ship="first" needs model=, the id that is served.')
            if (
                replace(node, servers=()) != Node(())
                or workers is not None
                or bundle_seconds != _BUNDLE_SECONDS
            ):
                raise ValueError(
                    f'{self.name}: ship="first" sends one request a task to a function that is '
                    "not ours, so window, workers, attempts, timeout, bundle_seconds, "
                    "bundle_deadline, server_patience, api_key_env and verify have no meaning; "
                    "drop them."
                )
        self._models = as_mapping(model) if model is not None else {DEFAULT_MODEL: ""}
        if not self._models:
            raise ValueError(f"{self.name} serves no model; drop model= to take what is served.")
        self.limits = limits.at_most(_AT_ONCE)
        self.tags = as_tags(tags, self.name)
        self.price = price
        self._settings = {
            "user_endpoint_config": _plain("user_endpoint_config", user_endpoint_config),
            "resource_specification": _plain("resource_specification", resource_specification),
            "amqp_port": amqp_port,
        }
        self._client = client
        self._authorizer = authorizer
        self._losses = losses
        self._pace = Pace(window, workers, bundle_seconds)
        self._listeners = Listeners()
        self._session: Session | None = None
        self._traffic = Traffic()

    def __repr__(self) -> str:
        return f"GlobusComputeEndpoint({self.name!r}, {self.limits.describe()})"

    # -- what it is -----------------------------------------------------------------------

    @property
    def models(self) -> Mapping[str, str]:
        """Logical names and served ids; an id that is empty means what the node lists first."""
        return {**self._models, FUNCTIONS: ""} if self._shipping.functions else self._models

    @property
    def bundling(self) -> Bundling:
        """How the next bundles are to be made, by what is known of the last."""
        return self._pace.bundling() if self._shipping.bundles else Bundling(queues=True)

    @property
    def traffic(self) -> Traffic:
        """What it has done since it was last opened, see `Traffic`."""
        return self._traffic if self._session is None else self._session.traffic

    @property
    def outstanding(self) -> tuple[Sent, ...]:
        """The bundles that the service has and no result has come of, with their task ids."""
        return () if self._session is None else self._session.outstanding

    # -- its life -------------------------------------------------------------------------

    async def open(self) -> None:
        """Be ready to start the thread that talks to the service."""
        loop = asyncio.get_running_loop()
        if self._session is None or not self._session.belongs_to(loop):
            # Perhaps in a forked process, which has inherited no threads.
            self._session = Session(
                self._connect,
                self._shipping,
                self._trouble,
                self._pace,
                self._losses,
                self._listeners.tell,
            )

    async def close(self) -> None:
        """Wait for nothing more; tasks that the service has cannot be taken back."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
            self._traffic = session.traffic

    async def probe(self) -> Health:
        """Ask the service whether the endpoint is online, and so whether it lets us in."""
        await self.open()
        assert self._session is not None  # noqa: S101 - it has just been opened
        if (failure := await self._session.why_not()) is not None:
            return Health(ok=False, failure=failure)
        return Health(ok=True)

    async def send(self, requests: Sequence[Request]) -> AsyncIterator[Reply]:
        """Send a bundle, in parts where it is too large for one task."""
        await self.open()
        assert self._session is not None  # noqa: S101 - it has just been opened
        session = self._session
        parts, refused = self._parts(requests, session)
        for reply in refused:
            yield reply
        tasks = [asyncio.ensure_future(session.deliver(part)) for part in parts]
        try:
            for done in asyncio.as_completed(tasks):
                for reply in await done:
                    yield reply
        finally:
            for task in tasks:
                task.cancel()

    # -- outliving a process --------------------------------------------------------------

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell of bundles that the service has taken, before anything can come of them.

        Of one that is sent again, too, which is then another task.

        Args:
            listener: Called in the thread that submits, once for all bundles of a submit, and
                nothing is submitted until it returns. It may outlive `close`, and must not raise.

        Returns:
            A function that ends it.
        """
        return self._listeners.add(listener)

    async def reattach(self, sent: Sequence[Sent]) -> AsyncGenerator[tuple[str, Reply], None]:
        """Fetch what became of bundles that an earlier process sent; never sends one again.

        Results that are there come at once, others when they are. A bundle is waited for until
        its result is there, or is gone (abandoned 30 minutes after completion, or fetched
        before), or its task has failed, or it is lost by the rules of `Losses`. Several may wait
        for the same bundle, and all get its replies.

        Args:
            sent: The bundles, and only those of which something is missing: the service forgets
                what it has handed out.

        Yields:
            A key and the reply to its request, in no order. Tokens that the server did not count
            are estimated without the prompt, which is not known here.
        """
        await self.open()
        assert self._session is not None  # noqa: S101 - it has just been opened
        async with contextlib.aclosing(self._session.reattach(sent)) as found:
            async for key, reply in found:
                yield key, reply

    def _parts(
        self, requests: Sequence[Request], session: Session
    ) -> tuple[list[Part], list[Reply]]:
        """The requests cut into tasks, and the replies to those that cannot be sent."""
        refused: list[Reply] = []
        groups: dict[tuple[str | None, int], list[tuple[int, Request, str, int]]] = {}
        for position, request in enumerate(requests):
            served = id_of(self._models if request.function is None else self.models, request.model)
            size = size_of(request.body) + _HEADROOM
            if served is None:
                message = f"{self.name} does not serve the model {request.model!r}."
                failure = Failure("cold", message, None, True, self.name)
                refused.append(Reply(position, failure=failure))
            elif size > MOST_BYTES:
                refused.append(Reply(position, failure=self._oversize(size)))
            else:
                group = (request.function, session.suspicion(request.key))
                groups.setdefault(group, []).append((position, request, served, size))
        parts = []
        for (_, suspicion), members in groups.items():
            most = len(members) if self._shipping.bundles else 1
            if suspicion:
                most = max(1, self._pace.bundling().max_items // _SHRINK**suspicion)
            for run in parts_of([size for *_, size in members], MOST_BYTES, most):
                chosen = [members[each] for each in run]
                positions, asked, models, sizes = zip(*chosen, strict=True)
                parts.append(Part(positions, asked, models, sum(sizes)))
        return parts, refused

    def _oversize(self, size: int) -> Failure:
        message = (
            f"its request is {size / 1e6:.1f} MB long as it travels, and a Globus Compute task "
            f"takes {MOST_BYTES / 1e6:.0f} MB; shorten it."
        )
        return Failure("permanent", message, 413, False, self.name)

    def _connect(self) -> tuple[Service, str]:
        """Import the SDK, log in, register the function. Blocks."""
        access, service = _sdk_side()
        client = self._client or access.client_from(self._authorizer)
        connected: Service = service.Service(
            self.endpoint_id, client, self._settings, owned=self._client is None
        )
        if self._function_id is not None:
            return connected, str(self._function_id)
        assert self._shipping.source is not None  # noqa: S101 - the constructor sees to it
        return connected, connected.register(*self._shipping.source)


def register_function(
    ship: Literal["package", "source"] = "package",
    *,
    client: Client | None = None,
    authorizer: GlobusAuthorizer | None = None,
) -> str:
    """Register the function that bundles are sent to, for an endpoint's `allowed_functions`.

    Args:
        ship: What the endpoint's `GlobusComputeEndpoint` will say.
        client: Who registers it, see there.
        authorizer: The same.

    Returns:
        Its id, for `allowed_functions` and for `function_id=`.
    """
    client = client or _sdk_side()[0].client_from(authorizer)
    return str(client.register_source_code(*source_of(ship)))


def _sdk_side() -> tuple[Any, Any]:
    """The modules that import the SDK, which takes half a second and is an extra.

    Raises:
        ImportError: If it is not installed; says what to install.
    """
    try:
        from langgraph_hpc_fanout.endpoints.globus_compute import (  # noqa: PLC0415
            access,
            service,
        )
    except ImportError as error:
        raise ImportError(
            f"the Globus Compute SDK is not installed ({error}); install it with "
            "`pip install langgraph-hpc-fanout[globus]`"
        ) from error
    return access, service


def _shipping(ship: Ship, node: Node, trouble: Trouble, function_id: object) -> Shipping:
    if ship == "first":
        if function_id is None:
            raise ValueError(
                f'{trouble.name}: ship="first" needs function_id=, the id under which FIRST\'s '
                "vllm_inference_function is registered."
            )
        return First(_port_of(node.servers, trouble.name), trouble)
    if ship not in ("package", "source"):
        raise ValueError(f"{trouble.name}: ship={ship!r} must be 'package', 'source' or 'first'.")
    return Bundles(ship, node, trouble)


def _servers(url: str | Sequence[str], name: str) -> tuple[str, ...]:
    """The URLs and rules, each of a form that a worker will understand."""
    servers = (url,) if isinstance(url, str) else tuple(url)
    if not servers:
        raise ValueError(f"{name} has no url=; say where the node's server is.")
    for server in servers:
        if not _SERVER.fullmatch(server):
            raise ValueError(
                f"{name}: url={server!r} is neither a URL such as http://127.0.0.1:8000/v1 nor a "
                "rule such as env:VLLM_URL, file:aegis_endpoints.txt or ports:8000-8007."
            )
    return servers


def _port_of(servers: Sequence[str], name: str) -> int:
    """FIRST's function asks its own host, so only the port of the URL counts."""
    with contextlib.suppress(ValueError):
        (server,) = servers
        if (port := URL(server).port) is not None:
            return port
    raise ValueError(f'{name}: ship="first" takes one url= with a port, not {servers}.')


def _uuid(what: str, given: str | UUID) -> UUID:
    try:
        return given if isinstance(given, UUID) else UUID(given)
    except (ValueError, AttributeError, TypeError):
        raise ValueError(
            f"GlobusComputeEndpoint({what}={given!r}) is no UUID, such as "
            "4b116d3c-1703-4f8f-9f6f-39921e5864df."
        ) from None


def _check(**numbers: float) -> None:
    for name, value in numbers.items():
        if not value > 0:
            raise ValueError(f"GlobusComputeEndpoint({name}={value!r}) must be positive.")


def _plain(what: str, given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise ValueError(
            f"GlobusComputeEndpoint({what}={given!r}) must be a mapping of names to values."
        )
    try:
        return dict(json.loads(json.dumps(dict(given))))
    except TypeError as error:
        raise ValueError(f"GlobusComputeEndpoint({what}=...) is no JSON: {error}.") from None
