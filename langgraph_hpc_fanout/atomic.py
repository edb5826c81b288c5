"""Files that appear whole or not at all, on file systems without locks too."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path, draft: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block ends well.

    When the block raises, nothing is left of it; a killed process leaves the draft.

    Args:
        path: Of the file, which may be there already.
        draft: Where it is written, in the same directory; nothing is there yet.

    Raises:
        OSError: If it cannot be written.
    """
    with _drafted(path, draft) as file:
        yield file
        _make_safe(file)
        draft.replace(path)


def replace(path: Path, data: bytes, name: str) -> None:
    """Put a file in the place of another.

    Args:
        path: Of the file.
        data: What is in it.
        name: Of this attempt; no other has the same.
    """
    with replacing(path, _draft_of(path, name)) as file:
        file.write(data)


def create(path: Path, data: bytes, name: str) -> bool:
    """Make a file, unless there is one by then: of several processes, one is told True.

    Args:
        path: Of the file.
        data: What is in it.
        name: Of this attempt; no other has the same.
    """
    draft = _draft_of(path, name)
    with _drafted(path, draft) as file:
        file.write(data)
        _make_safe(file)
        try:
            os.link(draft, path)
        except FileExistsError:
            # NFS may carry a request out twice, and report what the second found.
            return draft.stat().st_nlink > 1
    return True


def sync_directory(directory: Path) -> None:
    """Make new names in a directory safe, where the file system knows how to."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _drafted(path: Path, draft: Path) -> Iterator[BinaryIO]:
    """A draft of a file, which is gone afterwards; the name that it was given stays."""
    try:
        with draft.open("xb") as file:
            yield file
        sync_directory(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _make_safe(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _draft_of(path: Path, name: str) -> Path:
    return path.with_name(f"{path.name}.{name}")
