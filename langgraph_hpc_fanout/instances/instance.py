"""One of many that are listed, and what one look at a list has found."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from yarl import URL

from langgraph_hpc_fanout.records import FailureKind

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_WHERE = "write host:port, [IPv6]:port or a URL such as http://node1:8000/v1"


class Listed(Protocol):
    """What a list holds: told apart by its name, and another one if it is not equal."""

    @property
    def name(self) -> str:
        """The endpoint's name in the pool."""
        ...


ListedT = TypeVar("ListedT", bound=Listed)


class InstancesError(ValueError):
    """What was read lists no instances; the message says what it is, where, and what to do.

    Attributes:
        kind: The kind of failure that this is to who asked.
    """

    def __init__(self, message: str, kind: FailureKind = "permanent") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Instance:
    """A server that a launcher started, by its address.

    Attributes:
        name: Host and port, and the path where it is not `/v1`; tells instances apart.
        url: Base URL, which may hold a password and is not shown.
        tags: What the list says of it, `key=value` each.
    """

    name: str
    url: str = field(repr=False)
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Reading(Generic[ListedT]):
    """What one look at a list has found.

    Attributes:
        instances: Those listed, each once.
        faults: A sentence for each entry that is none.
        is_complete: Whether who is missing has left. A file that is being written does not say.
        absent: Why there is no list at all, if there is none.
    """

    instances: tuple[ListedT, ...] = ()
    faults: tuple[str, ...] = ()
    is_complete: bool = True
    absent: str = ""


def reading_of(
    instances: Iterable[Instance], faults: Iterable[str], *, is_complete: bool = True
) -> Reading[Instance]:
    """A reading in which each instance is listed once; of several entries the last counts."""
    each = {instance.name: instance for instance in instances}
    return Reading(tuple(each.values()), tuple(faults), is_complete)


def instance_at(address: str, tags: Iterable[str] = ()) -> Instance:
    """The instance at `host:port`, `[IPv6]:port` or a URL; without a path `/v1` is meant.

    Raises:
        InstancesError: If it is none of these.
    """
    if "://" in address:
        return _instance_of(address, address, tags)
    host, _, port = address.rpartition(":")
    if not host or not port:
        raise InstancesError(f"{shown(address)!r} has no port; {_WHERE}.")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise InstancesError(f"{shown(address)!r} leaves open what is the port; {_WHERE}.")
    return instance_of(host, port, tags)


def instance_of(host: str, port: str, tags: Iterable[str] = ()) -> Instance:
    """The instance at a host, which may be an IPv6 address in brackets or not, and a port.

    Raises:
        InstancesError: If they are none.
    """
    if ":" in host and host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if not _is_host(host):
        raise InstancesError(f"{shown(address)!r} has no valid host; {_WHERE}.")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536):
        raise InstancesError(f"{shown(address)!r} has no valid port (1 to 65535); {_WHERE}.")
    return _instance_of(f"http://{address}/v1", address, tags)


def shown(text: str) -> str:
    """The beginning of what was read, as it may be shown: without users and queries."""
    return text.partition("?")[0].rpartition("@")[2][:80]


def _instance_of(url: str, given: str, tags: Iterable[str]) -> Instance:
    try:
        parsed = URL(url.rstrip("/").removesuffix("/chat/completions"))
        if parsed.scheme not in ("http", "https") or not parsed.host or not parsed.port:
            raise ValueError
        if parsed.path.rstrip("/") == "":
            parsed = parsed / "v1"
        path = parsed.path.rstrip("/").removesuffix("/v1")
        name = f"{parsed.host_subcomponent}:{parsed.port}{path}"
    except (ValueError, TypeError):
        raise InstancesError(f"{shown(given)!r} is no URL of a server; {_WHERE}.") from None
    return Instance(name, str(parsed), frozenset(tags))


def _is_host(host: str) -> bool:
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            return False
        return "%" not in host
    return len(host) <= 253 and _HOST.fullmatch(host) is not None
