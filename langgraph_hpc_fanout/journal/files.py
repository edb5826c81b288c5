"""Small files that appear whole or not at all, on file systems without locks too."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def create(path: Path, data: bytes, name: str) -> bool:
    """Make a file, unless there is one by then: of several processes, one is told True.

    Args:
        path: Of the file.
        data: What is in it.
        name: Of this attempt; no other has the same.
    """
    with _written(path, data, name) as draft:
        try:
            os.link(draft, path)
        except FileExistsError:
            # NFS may carry a request out twice, and report what the second found.
            return draft.stat().st_nlink > 1
        return True


def replace(path: Path, data: bytes, name: str) -> None:
    """Put a file in the place of another."""
    with _written(path, data, name) as draft:
        draft.replace(path)


def sync_directory(directory: Path) -> None:
    """Make new names in a directory safe, where the file system knows how to."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _written(path: Path, data: bytes, name: str) -> Iterator[Path]:
    """A draft of the file beside it, safe on disk."""
    draft = path.with_name(f"{path.name}.{name}")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield draft
        sync_directory(path.parent)
    finally:
        draft.unlink(missing_ok=True)
