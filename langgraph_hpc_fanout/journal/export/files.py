"""Files for others: where they are written, and compressed."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from langgraph_hpc_fanout import atomic

PathLike = str | os.PathLike[str]

_GZIP_LEVEL = 4


@contextmanager
def replacing(path: PathLike) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block ends well.

    It is written beside it, in a directory that is made when it is not there. When the block
    raises, nothing is left of it; a killed process leaves a hidden file that ends in `.part`.

    Raises:
        IsADirectoryError: If the path is one.
        OSError: If the file cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; name a file in it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    with atomic.replacing(path, beside) as file:
        yield file


@contextmanager
def replacing_text(path: PathLike) -> Iterator[BinaryIO]:
    """As `replacing`, for lines: compressed when the path ends in `.gz`.

    Raises:
        ValueError: If the path ends as a file compressed otherwise does.
    """
    suffix = Path(path).suffix
    if suffix in {".bz2", ".xz", ".zip", ".zst"}:
        raise ValueError(
            f"{path}: {suffix} files are not written; let the name end in .gz or .jsonl."
        )
    with replacing(path) as file:
        if suffix != ".gz":
            yield file
            return
        # Without a time, so that the same outcomes make the same file.
        packed = gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0)
        with packed, io.BufferedWriter(packed) as buffered:
            yield buffered


def write_lines(path: PathLike, lines: Iterable[bytes]) -> int:
    """Write lines, each with its end, into a file that takes the place of `path`.

    Returns:
        Their number.
    """
    number = 0
    with replacing_text(path) as file:
        for number, line in enumerate(lines, 1):  # noqa: B007 (the last number counts)
            file.write(line)
    return number
