"""Where lists of instances are: files and registries."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Protocol

import aiohttp
from yarl import URL

from langgraph_hpc_fanout.instances.instance import Instance, InstancesError, ListedT, Reading
from langgraph_hpc_fanout.instances.lines import read_lines
from langgraph_hpc_fanout.instances.services import read_services

_ANSWER_SECONDS = 10.0
_ROUTES = ("services", "services/healthy", "list-healthy")
"""Where registries list services, when only their host and port are given."""

_LAUNCHER = "is the launcher running? wait= gives it more time."

Signature = tuple[int, int, int]
"""Inode, size in bytes, and time of the last change in ns."""


class Source(Protocol[ListedT]):
    """A list that may change."""

    @property
    def name(self) -> str:
        """What it is called in messages; holds no secret."""
        ...

    @property
    def advice(self) -> str:
        """What to do when nobody who is listed answers in time; empty where nothing helps."""
        ...

    async def look(self) -> Reading[ListedT]:
        """What is listed now.

        Raises:
            InstancesError: If nobody can be asked, whoever is listed.
        """
        ...


def source_of(given: str | os.PathLike[str]) -> Source[Instance]:
    """The source at a path, or at the URL of a registry.

    Raises:
        ValueError: If it is empty, or a URL without a host.
        TypeError: If it is neither text nor a path.
    """
    if isinstance(given, str) and given.startswith(("http://", "https://")):
        return RegistrySource(given)
    if not isinstance(given, str | os.PathLike):
        raise TypeError(
            f"Instances are read from a file's path or a registry's URL, not from {given!r}; "
            "Pool([...]) takes URLs of servers."
        )
    if not os.fspath(given):
        raise ValueError("The path of the file that lists instances is empty.")
    return FileSource(Path(given))


class FileSource:
    """A file with an instance a line, read when it has changed.

    It may be replaced or appended to. Who is missing in it has left only when the file was the
    same for two looks in a row, because a list that is rewritten in place is short for a moment.

    Args:
        path: The file's; a relative one is below the directory of now.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - keeps symlinks
        self._signature: Signature | None = None
        self._reading: Reading[Instance] | None = None

    @property
    def name(self) -> str:
        """The path."""
        return str(self._path)

    @property
    def advice(self) -> str:
        """Of a file that a launcher writes."""
        return _LAUNCHER

    async def look(self) -> Reading[Instance]:
        """What is listed now; nothing is read while the file stays as it is."""
        known = self._signature if self._is_read() else None
        try:
            signature, text = await asyncio.to_thread(_read, self._path, known)
        except OSError as error:
            self._signature = self._reading = None
            why = os.strerror(error.errno) if error.errno else str(error)
            if isinstance(error, FileNotFoundError):
                return Reading(is_complete=False, absent=f"{self.name} does not exist")
            fault = f"{self.name} cannot be read ({why}); is it the launcher's list?"
            return Reading(faults=(fault,), is_complete=False)
        if text is None:
            assert self._reading is not None  # noqa: S101 - narrows the type
            return self._reading
        # Read twice at least: within a tick of the file system's clock a change does not show.
        is_final = signature == self._signature
        self._signature = signature
        self._reading = read_lines(text, self.name, is_final=is_final)
        return self._reading

    def _is_read(self) -> bool:
        return self._reading is not None and self._reading.is_complete


class RegistrySource:
    """A registry that lists services over HTTP.

    It is asked without a proxy: it runs on a node of the job, as Aegis takes for granted, too
    (BaseCAF_Aegis abf4c3b, heartbeat.py).

    Args:
        url: Where it lists services. With host and port only, the usual routes are tried.

    Raises:
        ValueError: If it is no URL.
    """

    def __init__(self, url: str) -> None:
        parsed = URL(url)
        if not parsed.host:
            raise ValueError(f"{_shown(parsed)!r} is no URL of a registry.")
        self._name = _shown(parsed)
        if parsed.path.strip("/") or parsed.query_string:
            self._urls: tuple[URL, ...] = (parsed,)
        else:
            self._urls = tuple(parsed.with_path(f"/{route}") for route in _ROUTES)

    @property
    def name(self) -> str:
        """The URL, without users and queries."""
        return self._name

    @property
    def advice(self) -> str:
        """Of a registry that a launcher starts."""
        return _LAUNCHER

    async def look(self) -> Reading[Instance]:
        """What is listed now."""
        timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                return await self._ask(session)
        except InstancesError as error:
            return Reading(faults=(str(error),), is_complete=False)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = type(error).__name__ if isinstance(error, TimeoutError) else _cause(error)
            return Reading(is_complete=False, absent=f"{self.name} does not answer ({why})")

    async def _ask(self, session: aiohttp.ClientSession) -> Reading[Instance]:
        statuses = []
        for url in self._urls:
            async with session.get(url, allow_redirects=False) as response:
                raw = await response.read()
            if response.status == 200:
                reading = read_services(raw, self.name)
                self._urls = (url,)
                return reading
            if response.status >= 500:
                why = f"{self.name} answers {response.status}"
                return Reading(is_complete=False, absent=why)
            statuses.append(f"{url.path}: {response.status}")
        raise InstancesError(
            f"{self.name} lists no services ({', '.join(statuses)}); give the URL at which the "
            "registry lists them."
        )


def _read(path: Path, known: Signature | None) -> tuple[Signature, str | None]:
    """The file's signature, and its text unless the signature is known."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        signature = status.st_ino, status.st_size, status.st_mtime_ns
        if signature == known:
            return signature, None
        return signature, file.read().decode("utf-8-sig", "replace")


def _cause(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else type(error).__name__


def _shown(url: URL) -> str:
    return str(url.with_user(None).with_query(None)) if url.host else str(url).rpartition("@")[2]
