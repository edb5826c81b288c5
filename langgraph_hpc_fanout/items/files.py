"""Files that hold items: what must not change of them, and how they are opened."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from langgraph_hpc_fanout.items.source import SourceError

MOST_BYTES = 64 * 2**20
"""A line or a text that is longer is no item: no model reads it, and memory is bounded."""
COMPRESSED = (".gz", ".zst")
UNREADABLE = (OSError, EOFError, zlib.error)
"""What reading a file raises that is not there, not ours, cut off or damaged."""

_BUFFER = 2**20


@dataclass(frozen=True, slots=True)
class Stamp:
    """What must not change of a source's files while a run reads them.

    Attributes:
        size: Bytes, of all files together.
        changed: When the last of them was written to, in nanoseconds since 1970.
        files: How many they are.
        digest: Hash of all names, sizes and times, where there may be several.
    """

    size: int
    changed: int
    files: int = 1
    digest: str = ""


def stamp_of(name: str, path: Path) -> Stamp:
    """The stamp of one file.

    Raises:
        SourceError: If it is not there, or may not be looked at.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(name, path, error) from error
    return Stamp(status.st_size, status.st_mtime_ns)


def stamp_of_all(files: Iterable[tuple[str, int, int]]) -> Stamp:
    """The stamp of several files, each given by its name, size and time of change."""
    digest = hashlib.sha256()
    size = changed = number = 0
    for name, its_size, its_change in files:
        digest.update(os.fsencode(name) + b"\0%d\0%d\0" % (its_size, its_change))
        size += its_size
        changed = max(changed, its_change)
        number += 1
    return Stamp(size, changed, number, digest.hexdigest())


def check_unchanged(name: str, before: Stamp, now: Stamp) -> None:
    """Raise when files are not what they were.

    Raises:
        SourceError: If so; it tells what is different.
    """
    if now == before:
        return
    if now.files != before.files:
        difference = f"files {before.files} -> {now.files}"
    elif now.size != before.size:
        difference = f"size {before.size} -> {now.size}"
    else:
        difference = "names or times of writing" if now.files > 1 else "the time of writing"
    raise SourceError(
        f"{name} has changed since the run began ({difference}); start a new run, answered items "
        "are not asked again."
    )


def unreadable(name: str, path: Path, error: OSError) -> SourceError:
    """The error of a file that cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return SourceError(f"{name} is not there: no such file as {path}.")
    return SourceError(f"{name} cannot be read: {reason_of(error)}.")


def reason_of(error: BaseException) -> str:
    """What an error says, in a few words."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def suffix_of(name: str) -> str:
    """The suffix that tells what is in a file, compressed or not; in small letters."""
    path = Path(name.lower())
    return (path.with_suffix("") if path.suffix in COMPRESSED else path).suffix


def open_file(name: str, path: Path) -> BinaryIO:
    """Open a file for reading, decompressed where its name ends in `.gz` or `.zst`.

    Raises:
        SourceError: If it cannot be opened.
    """
    try:
        if path.suffix.lower() == ".gz":
            # A buffer of our own: GzipFile's lines cost twice as much.
            return io.BufferedReader(cast(io.RawIOBase, gzip.open(path)), _BUFFER)
        if path.suffix.lower() == ".zst":
            stream = pyarrow_for(name).input_stream(str(path), compression="zstd")
            return io.BufferedReader(stream, _BUFFER)
        return path.open("rb", _BUFFER)
    except OSError as error:
        raise unreadable(name, path, error) from error


def pyarrow_for(name: str) -> Any:
    """The package pyarrow, which only some files need.

    Raises:
        SourceError: If it is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise SourceError(
            f'{name} needs pyarrow: pip install "langgraph-hpc-fanout[parquet]".'
        ) from error
    return pyarrow
