"""Where the files of batches are: on a file system that the cluster sees, or carried there."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import tempfile
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from pathlib import Path, PurePosixPath
from typing import TypeVar

from langgraph_hpc_fanout.endpoints.first.batches.file import (
    name_of,
    results_folders,
    results_pattern,
    write_file,
)
from langgraph_hpc_fanout.records import Request

A = TypeVar("A")
R = TypeVar("R")

Upload = Callable[[Path], str | Awaitable[str]]
"""Carries a local file to the cluster; returns its path there."""

Fetch = Callable[[str], str | os.PathLike[str] | Awaitable[str | os.PathLike[str]]]
"""Carries a file of the cluster here, by its path there; returns its local path."""


class Storage:
    """Puts files where batches read them, and gets those that they have written.

    Args:
        directory: Where files are written: one that the cluster sees under the same path, or,
            with `upload`, any; None for the directory of temporary files.
        upload: Carries a file to the cluster; called in a thread unless it is a coroutine
            function.
        fetch: Carries one back.

    Raises:
        ValueError: If that leaves no way there and back.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None,
        upload: Upload | None,
        fetch: Fetch | None,
    ) -> None:
        if (upload is None) != (fetch is None):
            raise ValueError("A batch needs upload= and fetch=, or neither of them.")
        if upload is None and (directory is None or not Path(directory).is_absolute()):
            raise ValueError(
                f"A batch's directory={directory!r} must be an absolute path that the cluster "
                "sees, too; or give upload= and fetch=."
            )
        self._directory = Path(tempfile.gettempdir() if directory is None else directory)
        self._upload = upload
        self._fetch = fetch

    def output_folder(self, there: str) -> str | None:
        """Where results are to be written, as the cluster names it: beside the file.

        FIRST's own choice is a folder of ALCF's, from which not everybody can carry files back.

        Args:
            there: The file's path on the cluster.

        Returns:
            The folder; None for FIRST's own choice, where the path does not tell.
        """
        folder = PurePosixPath(there).parent
        return str(folder) if folder.is_absolute() else None

    async def write(self, batch: str, requests: Sequence[Request], served: str) -> Path:
        """Write a batch's file; returns where it is here.

        Args:
            batch: Its name.
            requests: Its requests, in the order of their positions.
            served: The id of their model.

        Raises:
            OSError: If it cannot be written.
        """
        path = self._directory / name_of(batch)
        if self._upload is not None:  # else one that is not there is none that the cluster sees
            await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        await asyncio.to_thread(write_file, path, batch, requests, served)
        return path

    async def carry(self, path: Path) -> str:
        """Carry a batch's file to the cluster, if that does not see it; returns its path there.

        Raises:
            ValueError: If `upload` has given it another name, by which it is not found again.
            Exception: Whatever `upload` raises.
        """
        if self._upload is None:
            return str(path)
        try:
            there = str(await _called(self._upload, path))
        finally:
            await asyncio.to_thread(path.unlink, missing_ok=True)
        if PurePosixPath(there).name != path.name:
            raise ValueError(f"upload= put {path.name} at {there!r}; it must keep its name")
        return there

    async def get(self, path: str) -> Path:
        """Where a file of the cluster is here.

        Raises:
            FileNotFoundError: If it is not there, yet: shared file systems may be late.
            Exception: Whatever `fetch` raises.
        """
        here = Path(path if self._fetch is None else await _called(self._fetch, path))
        if not await asyncio.to_thread(here.exists):
            raise FileNotFoundError(f"{here} does not exist")
        return here

    async def partial(self, batch: str) -> list[Path]:
        """Results of a batch that does not say where they are; none where they are not here.

        None can be fetched: their names have the second at which the batch began on its node.
        """
        if self._upload is not None:
            return []
        return await asyncio.to_thread(self._find, batch)

    def _find(self, batch: str) -> list[Path]:
        found = [*self._directory.glob(results_pattern(batch))]
        for folder in self._directory.glob(results_folders(batch)):
            found += folder.glob(results_pattern(batch))
        return sorted(found)

    async def clear(self, batch: str) -> None:
        """Remove the file of a batch that has ended, where that is ours; its results stay."""
        with contextlib.suppress(OSError):
            await asyncio.to_thread((self._directory / name_of(batch)).unlink, missing_ok=True)


async def _called(function: Callable[[A], R | Awaitable[R]], argument: A) -> R:
    """What a user's function returns, sync or async."""
    if inspect.iscoroutinefunction(function):
        result: R = await function(argument)
        return result
    given = await _in_thread(function, argument)
    return await given if isinstance(given, Awaitable) else given


def _in_thread(function: Callable[[A], R], argument: A) -> asyncio.Future[R]:
    """Call a user's function in a thread that no process waits for: it may never return."""
    ended: Future[R] = Future()
    ended.set_running_or_notify_cancel()  # so that it may be set, whoever waits for it still

    def work() -> None:
        try:
            given = function(argument)
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            ended.set_exception(error)
        else:
            ended.set_result(given)

    threading.Thread(target=work, name="hpc-fanout-files", daemon=True).start()
    return asyncio.wrap_future(ended)
