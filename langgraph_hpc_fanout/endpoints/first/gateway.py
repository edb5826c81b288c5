"""One FIRST gateway: where it is, whose token, and what it says of itself."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import weakref
from typing import Any

from pydantic import SecretStr
from yarl import URL

from langgraph_hpc_fanout.endpoints.credentials import ApiKey, Credentials
from langgraph_hpc_fanout.endpoints.first.catalogue import Served, find, read_catalogue
from langgraph_hpc_fanout.endpoints.first.faults import Fault, fault_of
from langgraph_hpc_fanout.endpoints.http import Answer, HttpClient, shown
from langgraph_hpc_fanout.records import Failure
from langgraph_hpc_fanout.tokens.finding import find_token_source
from langgraph_hpc_fanout.tokens.source import TokenSource

BASE_VARIABLE = "FIRST_API_BASE"
DEFAULT_BASE = "https://inference-api.alcf.anl.gov/resource_server"
FEDERATED = "federated"
"""Of version 2: whichever cluster has room."""

CATALOGUE_SECONDS = 300.0
"""For which what the gateway serves is taken for known."""
_GOOD = 200
_NO_SUCH_THING = 404
_EITHER_NAME = (
    "version 2 lists neither models nor deployments, so look whether both the model and the "
    "cluster are written as the gateway does."
)
_A_ROOT = "the root of a FIRST gateway? Version 1's ends in /resource_server, version 2's in /api."
_ROOT = "/resource_server"
_ROOT_2 = re.compile(r"(.*/api)(?:/(?:federated|deployments/[^/]+)/v1)?")
"""Of version 2 (FIRST firstv2 a2835a8), and what its addresses have after it."""

_gateways: weakref.WeakValueDictionary[tuple[Any, ...], Gateway] = weakref.WeakValueDictionary()
_making = threading.Lock()
_numbers: dict[URL, dict[int, int]] = {}
"""The number of each token that a root was asked with, by its hash."""
_LATELY = 2.0
"""Seconds for which a request may weigh on a server's count of a second."""


def root_of(base_url: str | None) -> URL:
    """The gateway's root: as given, of `FIRST_API_BASE`, or ALCF's.

    It may be written as the address of one cluster's models, as agent frameworks do
    (`.../resource_server/metis/api/v1`); the root is what comes before the cluster. Version 2's
    is `.../api`, of its `.../api/federated/v1`, too.

    Raises:
        ValueError: If it is no URL.
    """
    said = base_url or os.environ.get(BASE_VARIABLE, "").strip() or DEFAULT_BASE
    try:
        url = URL(said)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        if base_url:
            raise ValueError(
                f"base_url={base_url!r} is no URL of a FIRST gateway; give one such as "
                f"{DEFAULT_BASE}."
            )
        raise ValueError(
            f"{BASE_VARIABLE} holds no URL of a gateway; set it to one such as {DEFAULT_BASE}."
        )
    path = url.path.rstrip("/").removesuffix("/chat/completions")
    before, root, _ = path.partition(_ROOT)
    if root:
        path = before + root
    elif second := _ROOT_2.fullmatch(path):
        path = second[1]
    return url.with_user(None).with_path(path)


def gateway_of(base_url: str | None, token: ApiKey | None) -> Gateway:
    """The gateway that all endpoints with this address and token share."""
    root = root_of(base_url)
    given = find_token_source() if token is None else token
    with _making:
        if (gateway := _gateways.get((root, identity_of(given)))) is None:
            numbers = _numbers.setdefault(root, {})
            number = numbers.setdefault(hash(identity_of(given)), len(numbers) + 1)
            gateway = _gateways[root, identity_of(given)] = Gateway(root, given, number)
        return gateway


def identity_of(token: ApiKey) -> Any:
    """What tells tokens, and where they come from, apart."""
    if isinstance(token, SecretStr):
        return token.get_secret_value()
    # Of one login there may be many sources, each made where somebody looked for it.
    return token.describe() if isinstance(token, TokenSource) else token


class Gateway:
    """What endpoints of one gateway and user share: the token, and what the gateway tells.

    Its answers are kept for a while, and asked for once however many want them, because its
    routes count against the requests of its user, too.

    Args:
        root: Its root, such as `https://host/resource_server`.
        token: The token, or where it comes from.
        number: The token's, among those of this gateway.

    Attributes:
        name: What tells it from the same gateway with another token, for rates that are shared.
    """

    def __init__(self, root: URL, token: ApiKey, number: int = 1) -> None:
        self.root = root
        self.name = root.host_port_subcomponent or ""
        if number > 1:
            self.name += f", token {number}"
        self.credentials = Credentials(token, parameter="token=")
        self._asked: list[float] = []
        self._known: dict[str, tuple[float, asyncio.Task[Answer]]] = {}

    def __repr__(self) -> str:
        return f"Gateway({shown(self.root)!r})"

    @property
    def is_second(self) -> bool:
        """Whether it is version 2, which lists nothing and has no jobs to tell of."""
        return _ROOT not in self.root.path and self.root.path.endswith("/api")

    def chat_url(self, served: Served) -> URL:
        """Where a model is asked.

        In version 2 a deployment's name in paths has `~` for `/` (FIRST firstv2 a2835a8).
        """
        if not self.is_second:
            base = self.root / served.cluster / served.framework
        elif served.cluster == FEDERATED:
            base = self.root / FEDERATED
        else:
            slug = f"{served.cluster}/{served.model}".replace("/", "~")
            base = self.root / "deployments" / slug
        return base / "v1" / "chat" / "completions"

    def client(self, name: str) -> HttpClient:
        """Connections for one endpoint, with the token that all share."""
        return HttpClient(self.root, name, self.credentials)

    async def look(self, client: HttpClient, path: str, keep: float) -> Answer:
        """What a route of the gateway answers, or has answered lately.

        Args:
            client: Whose connections to use.
            path: The route, below the root.
            keep: Seconds that an answer may be old.

        Raises:
            CredentialError: If there is no token to be had.
            aiohttp.ClientError: If there is no answer; so TimeoutError and OSError.
        """
        loop = asyncio.get_running_loop()
        asked, asking = self._known.get(path, (0.0, None))
        if asking is None or asking.get_loop() is not loop or loop.time() - asked >= keep:
            self._asked.append(loop.time())
            asking = loop.create_task(client.control("GET", self.root / path))
            self._known[path] = loop.time(), asking
            asking.add_done_callback(lambda task: self._answered(path, task))
        return await asyncio.shield(asking)

    async def find(
        self, client: HttpClient, model: str, cluster: str, framework: str | None
    ) -> Served | Failure:
        """Where the list of version 1 has a model, or why it is not there.

        Raises:
            CredentialError: If there is no token to be had.
            aiohttp.ClientError: If there is no answer; so TimeoutError and OSError.
        """
        answer = await self.look(client, "list-endpoints", CATALOGUE_SECONDS)
        if answer.status != _GOOD:
            return self.failure_of(client, answer)
        try:
            return find(read_catalogue(answer.raw), model, cluster, framework)
        except ValueError as error:
            where = shown(self.root)
            message = f"{client.name}: {error}; is {where} the root of a FIRST gateway?"
            return client.failure("cold", message)
        except LookupError as error:
            message = f"{client.name}: {error.args[0]}"
            return Failure("cold", message, None, retryable=False, endpoint=client.name)

    def forget(self, path: str) -> None:
        """Requests have met something else than a route has told: ask it anew."""
        if (known := self._known.get(path)) is not None and known[1].done():
            del self._known[path]

    def take_asked(self) -> int:
        """Requests that `look` has made just now, and that nobody has counted yet."""
        since = asyncio.get_running_loop().time() - _LATELY
        asked, self._asked = self._asked, []
        return sum(at >= since for at in asked)

    def failure_of(self, client: HttpClient, answer: Answer) -> Failure:
        """What an answer other than 200 means."""
        fault = fault_of(answer.status, answer.raw, answer.retry_after)
        return self.failure(client, fault, answer.status)

    def failure(self, client: HttpClient, fault: Fault, status: int | None = None) -> Failure:
        """A refusal, with what a person may do about it."""
        said = "" if status is None else f" {status}"
        message = f"{client.name} answered{said}: {fault.message}"
        if fault.login:
            credentials = self.credentials
            message = (
                f"{message.rstrip('.')}. It was asked with {credentials.describe()}; "
                f"{credentials.remedy()}"
            )
        elif self.is_second and status == _NO_SUCH_THING:
            message = f"{message.rstrip('.')}; {_EITHER_NAME}"
        elif fault.no_route:
            message = f"{message.rstrip('.')}; is {shown(self.root)} {_A_ROOT}"
        return client.failure(fault.kind, message, status)

    def _answered(self, path: str, asking: asyncio.Task[Answer]) -> None:
        """Keep a good answer only; an exception is whoever's who waits for it."""
        is_bad = asking.cancelled() or asking.exception() is not None
        if (is_bad or asking.result().status != 200) and self._known[path][1] is asking:
            del self._known[path]
