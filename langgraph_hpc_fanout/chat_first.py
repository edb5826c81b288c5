"""FIRST as a LangChain chat model."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import Field, SecretStr, SkipValidation, model_validator

from langgraph_hpc_fanout.chat_models import OF_THE_ENDPOINTS, Lanes, PoolChatModel
from langgraph_hpc_fanout.endpoints.first.gateway import identity_of, root_of
from langgraph_hpc_fanout.pool import Pool

Token = SecretStr | Callable[[], str] | Callable[[], Awaitable[str]]

_ALIASES = {"base_url": "openai_api_base", "api_key": "openai_api_key", "model": "model_name"}

_pools: weakref.WeakValueDictionary[tuple[Any, ...], Pool] = weakref.WeakValueDictionary()
"""One for all models with the same settings, so that they keep the gateway's limits together."""
_making = threading.Lock()


class ChatFIRST(PoolChatModel):
    """A chat model behind FIRST, the inference gateway of the ALCF.

    Its calls go to every cluster that serves the model, in turn as they can take them, and keep
    the gateway's limits; a cold model is woken and waited for. Tools and structured output are
    what the model behind the gateway does of them. A stream has one chunk, the whole answer: what
    FIRST streams ends early without a sign where a model pauses for five seconds, and carries
    errors as text (FIRST main 329c0cd, streaming of the Globus Compute and DirectAPI adapters).

    Args:
        model: Logical name, such as `gpt-oss-120b`; by default `FIRST_MODEL`.
        clusters: Clusters that may be asked; by default all that serve the model.
        base_url: The gateway, by default `FIRST_API_BASE`, else the public one.
        api_key: The token, or a function, sync or async, that returns one. By default that of
            `FIRST_API_KEY`, or of the login that is found on this machine. An `OPENAI_API_KEY`
            is never sent there.

    Raises:
        ValueError: If no model is named.

    Example:
        ```python
        model = ChatFIRST(model="gpt-oss-120b", temperature=0)
        ```
    """

    _not_ours: ClassVar[Mapping[str, str]] = MappingProxyType(
        {field: shown for field, shown in OF_THE_ENDPOINTS.items() if field != "openai_api_base"}
    )
    _provider: ClassVar[str] = "first"
    _made_by: ClassVar[str] = "ChatFIRST"

    pool: SkipValidation[Lanes] = Field(default=None, exclude=True, repr=False)  # type: ignore[assignment]
    clusters: tuple[str, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def find_pool(cls, given: Any) -> Any:
        """Take the pool of these settings, or make one."""
        if not isinstance(given, dict) or given.get("pool") is not None:
            return given
        said = {_ALIASES.get(name, name): value for name, value in given.items()}
        if "cluster" in said:
            raise ValueError("ChatFIRST takes clusters=[...], one or more, and no cluster=.")
        model = said.get("model_name") or os.environ.get("FIRST_MODEL")
        if not model:
            raise ValueError("ChatFIRST(model=...) names no model, and FIRST_MODEL is not set.")
        clusters = said.get("clusters")
        if isinstance(clusters, str):
            clusters = (clusters,)
        clusters = None if clusters is None else tuple(clusters)
        pool = _pool_of(model, clusters, said.get("openai_api_base"), said.get("openai_api_key"))
        return {**given, "model": model, "clusters": clusters, "pool": pool}


def _pool_of(
    model: str, clusters: tuple[str, ...] | None, base_url: str | None, token: Token | str | None
) -> Pool:
    root = str(root_of(base_url))
    settings = (model, clusters, root, None if token is None else identity_of(token))
    with _making:
        if (pool := _pools.get(settings)) is None:
            pool = Pool.from_first(model, clusters=clusters, base_url=root, token=token)
            _pools[settings] = pool
    return pool
