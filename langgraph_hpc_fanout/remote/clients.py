"""OpenAI clients for users' functions, made once in a process: making one costs 20 ms and more."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from yarl import URL

from langgraph_hpc_fanout.dispatch.loop import task_loop
from langgraph_hpc_fanout.endpoints.proxies import proxy_for
from langgraph_hpc_fanout.remote.functions import Function
from langgraph_hpc_fanout.remote.node import Settings

if TYPE_CHECKING:
    import openai

_KEEPALIVE_SECONDS = 4.0
"""Less than uvicorn's 5 s, as in `OpenAIEndpoint`."""
_NO_KEY = "none"
"""The client insists on a key; servers that want none do not look at it."""

_Key = tuple[Settings, str, bool, float]
_clients: dict[_Key, Any] = {}
_inherited: list[dict[_Key, Any]] = []
"""Clients of before a fork. Collecting them would close connections that the parent uses."""
_lock = threading.Lock()
_turns = itertools.count()


@dataclass(frozen=True, slots=True)
class Help:
    """What a function is handed in besides the item.

    Attributes:
        settings: How to reach the servers.
        urls: Where they are.
        model: The model to ask for.
        timeout: Seconds that one of the client's requests may take.
    """

    settings: Settings
    urls: Sequence[str]
    model: str
    timeout: float

    def for_one(self, function: Function) -> Mapping[str, Any]:
        """Keyword arguments for one call; the servers take turns."""
        handed: dict[str, Any] = {}
        if "model" in function.wants:
            handed["model"] = self.model
        if "client" in function.wants:
            url = self.urls[next(_turns) % len(self.urls)]
            handed["client"] = _client(self.settings, url, function.is_async, self.timeout)
        return handed


def _client(settings: Settings, url: str, is_async: bool, timeout: float) -> Any:
    key = (settings, url, is_async, timeout)
    with _lock:
        if (client := _clients.get(key)) is None:
            client = _clients[key] = _new_client(settings, url, is_async, timeout)
    return client


def _new_client(
    settings: Settings, url: str, is_async: bool, timeout: float
) -> openai.AsyncOpenAI | openai.OpenAI:
    """A client that neither retries, which we do, nor limits how many ask at once."""
    import httpx  # noqa: PLC0415 - half a second that chat requests do not need
    import openai  # noqa: PLC0415

    options: dict[str, Any] = {
        "verify": settings.verify,
        "trust_env": proxy_for(URL(url)) is not None,  # httpx would go to loopback by proxy
        "limits": httpx.Limits(
            max_connections=None,
            max_keepalive_connections=None,
            keepalive_expiry=_KEEPALIVE_SECONDS,
        ),
    }
    given: dict[str, Any] = {
        "base_url": url.rstrip("/").removesuffix("/chat/completions"),
        "api_key": settings.key() or _NO_KEY,
        "max_retries": 0,
        "timeout": timeout,
    }
    if not is_async:
        return openai.OpenAI(http_client=openai.DefaultHttpxClient(**options), **given)
    client = openai.AsyncOpenAI(http_client=openai.DefaultAsyncHttpxClient(**options), **given)
    task_loop().at_exit(client.close)
    return client


def _after_fork() -> None:
    global _clients, _lock
    _lock = threading.Lock()
    _inherited.append(_clients)
    _clients = {}


os.register_at_fork(after_in_child=_after_fork)
