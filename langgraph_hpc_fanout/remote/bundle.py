"""What travels to an HPC node and back: the one place that knows the format.

A task on the node gets one bundle, a dict of JSON data, and returns one result, another:

    bundle = {
        "format": 1,
        "version": "0.1.0",        # of the sender's package
        "function": None,          # or "package.module:function"; None asks for chat completions
        "servers": ["http://127.0.0.1:8000/v1"],  # URLs and rules, see `discovery`
        "api_key_env": None,       # environment variable on the node that holds the servers' key
        "verify": True,            # False accepts the servers' own certificates
        "model": None,             # for requests that name none; None: the first that is listed
        "window": 64,              # most requests of this bundle at once, over all servers
        "attempts": 3,             # most times that a request is tried and fails
        "timeout": 600.0,          # seconds that one try may take
        "deadline": 3600.0,        # seconds for the bundle, from when the node begins with it
        "patience": None,          # of these, to wait for servers that are not there; None: all
        "requests": [{"messages": [...]}],  # chat bodies, or items for the function
    }
    result = {
        "format": 1,
        "version": "0.1.0",        # of the node's package
        "worker": "host:pid",
        "seconds": 1.2,
        "replies": [               # one for each request, in their order
            {"body": {...}, "seconds": 0.4, "tries": 1},
            {"failure": {"kind": ..., "message": ..., "status": ..., "retryable": ...,
                         "retry_after": ...}, "seconds": 0.4, "tries": 3},
        ],
    }

`seconds` of a reply is what its last try took; `tries` is 0 if it was never sent. A body is a chat
completion with what is of use (see `compact`), or `{"value": ...}` of a function.

In place of `replies` a result has `"error": {"kind": ..., "message": ...}` when the bundle as a
whole cannot be worked on: another format or version (`permanent`), a function that cannot be had
(`permanent`), no server to be found (`cold`), no model to be had from them (`permanent`).

`window`, `attempts`, `timeout`, `deadline` and `patience` may be left out; so may everything that
is None above. Two packages understand each other when they agree in the major version, before
1.0 in the minor version, too.
"""

from __future__ import annotations

import math
import os
import platform
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph_hpc_fanout import __version__
from langgraph_hpc_fanout.records import Failure, FailureKind, Reply

FORMAT = 1

_WINDOW = 64
_ATTEMPTS = 3
_TIMEOUT = 600.0
_DEADLINE = 3600.0
_VERSION = re.compile(r"(\d+)\.(\d+)")


class BundleError(Exception):
    """A bundle that as a whole cannot be worked on; the message says why and what to do.

    Args:
        message: One sentence for a person.
        kind: The kind of failure that it is to all of the bundle's requests.
    """

    def __init__(self, message: str, kind: FailureKind = "permanent") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read and found good, see the module.

    Attributes:
        function: Path of the function to call, or None for chat completions.
        servers: URLs and rules.
        api_key_env: Environment variable that holds the servers' key.
        verify: Whether certificates must be trusted ones.
        model: Model for requests that name none.
        window: Most requests at once.
        attempts: Most times that a request is tried and fails.
        timeout: Seconds for one try.
        deadline: Seconds for everything.
        patience: Seconds to wait for servers that are not there, never more than `deadline`.
        requests: Chat bodies, or items.
    """

    function: str | None
    servers: tuple[str, ...]
    api_key_env: str | None
    verify: bool
    model: str | None
    window: int
    attempts: int
    timeout: float
    deadline: float
    patience: float
    requests: Sequence[Any]


def read_bundle(data: Any) -> Bundle:
    """The bundle in what arrived.

    Raises:
        BundleError: If it is none, or comes of another version; says what to do.
    """
    if not isinstance(data, Mapping) or "format" not in data:
        raise BundleError(f"This is no bundle of langgraph-hpc-fanout: {data!r:.200}")
    check_version(data.get("version"))
    if data["format"] != FORMAT:
        raise BundleError(
            f"The bundle has format {data['format']!r}; this worker ({worker_name()}) reads "
            f"{FORMAT}. {_fix(data.get('version'))}"
        )
    deadline = _number(data, "deadline", _DEADLINE, least=None)
    patience = _number(data, "patience", deadline, least=None)
    return Bundle(
        function=_text(data, "function"),
        servers=tuple(_list(data, "servers", str)),
        api_key_env=_text(data, "api_key_env"),
        verify=data.get("verify") is not False,
        model=_text(data, "model"),
        window=int(_number(data, "window", _WINDOW, least=1)),
        attempts=int(_number(data, "attempts", _ATTEMPTS, least=1)),
        timeout=_number(data, "timeout", _TIMEOUT, least=0.001),
        deadline=deadline,
        patience=min(patience, deadline),
        requests=_list(data, "requests", object),
    )


def check_version(sent: Any) -> None:
    """Compare the sender's version with ours.

    Raises:
        BundleError: If they may not understand each other.
    """
    if not isinstance(sent, str) or _generation(sent) != _generation(__version__):
        raise BundleError(
            f"The bundle was sent by langgraph-hpc-fanout {sent}, this worker "
            f"({worker_name()}, Python {platform.python_version()}) has {__version__}. {_fix(sent)}"
        )


def result_of(replies: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    """The result of a bundle that was worked on."""
    return {**_envelope(), "seconds": round(seconds, 6), "replies": list(replies)}


def result_of_error(error: BundleError) -> dict[str, Any]:
    """The result of a bundle that could not be worked on."""
    return {**_envelope(), "error": {"kind": error.kind, "message": str(error)}}


def reply_of_body(body: Mapping[str, Any], seconds: float, tries: int) -> dict[str, Any]:
    """A reply that is an answer."""
    return {"body": body, "seconds": round(seconds, 6), "tries": tries}


def reply_of_failure(reply: Reply, seconds: float = 0.0, tries: int = 0) -> dict[str, Any]:
    """A reply that says why there is no answer."""
    failure = reply.failure
    assert failure is not None  # noqa: S101 - narrows the type
    told = {
        "kind": failure.kind,
        "message": failure.message,
        "status": failure.status,
        "retryable": failure.retryable,
        "retry_after": reply.retry_after,
    }
    return {"failure": told, "seconds": round(seconds, 6), "tries": tries}


def refusal(
    kind: FailureKind, message: str, *, seconds: float = 0.0, tries: int = 0
) -> dict[str, Any]:
    """A reply in our own words that says why there is no answer."""
    failure = Failure(kind, message, None, is_retryable(kind))
    return reply_of_failure(Reply(0, failure=failure), seconds, tries)


def is_retryable(kind: FailureKind) -> bool:
    """Whether asking again may help against a kind of failure."""
    return kind in ("rate_limited", "cold", "overloaded", "transient", "timeout")


def unasked(deadline: float) -> dict[str, Any]:
    """The reply to a request whose turn did not come in time."""
    return refusal("timeout", f"Not asked within the {deadline:g} s that its bundle had.")


def worker_name() -> str:
    """This process, as results name it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _envelope() -> dict[str, Any]:
    return {"format": FORMAT, "version": __version__, "worker": worker_name()}


def _generation(version: str) -> tuple[str, ...]:
    """The part of a version that must agree."""
    found = _VERSION.match(version)
    if found is None:
        return (version,)
    major, minor = found.groups()
    return (major, minor) if major == "0" else (major,)


def _fix(version: Any) -> str:
    wanted = version if isinstance(version, str) else "X"
    return (
        f"Put `pip install langgraph-hpc-fanout=={wanted}` into the endpoint's worker_init and "
        "restart it, or install the worker's version where the fan-out runs."
    )


def _text(data: Mapping[str, Any], name: str) -> str | None:
    value = data.get(name)
    if value is not None and not isinstance(value, str):
        raise BundleError(f"The bundle's {name} is no text: {value!r:.200}")
    return value


def _number(data: Mapping[str, Any], name: str, default: float, least: float | None) -> float:
    value = data.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BundleError(f"The bundle's {name} is no number: {value!r:.200}")
    if math.isnan(value) or (least is not None and value < least):
        raise BundleError(f"The bundle's {name} is {value!r}; it must be at least {least or 0}.")
    return float(value)


def _list(data: Mapping[str, Any], name: str, kind: type) -> Sequence[Any]:
    value = data.get(name)
    if value is None:
        value = []
    if not isinstance(value, list | tuple) or not all(isinstance(each, kind) for each in value):
        raise BundleError(f"The bundle's {name} is no list of the right things: {value!r:.200}")
    return value
