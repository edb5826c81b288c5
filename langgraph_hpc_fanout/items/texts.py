"""Items from text files in a directory."""

from __future__ import annotations

import glob
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from stat import S_ISREG
from typing import Any

from langgraph_hpc_fanout.items.files import MOST_BYTES, Stamp, reason_of, stamp_of_all
from langgraph_hpc_fanout.items.sliced import Sliced
from langgraph_hpc_fanout.items.source import BadRow, SourceError


@dataclass(frozen=True, slots=True)
class _Survey:
    """The files of a directory.

    Attributes:
        stamp: Of all of them.
        names: Their paths in the directory, sorted.
        sizes: Bytes of each.
        changes: When each was written, in nanoseconds since 1970.
    """

    stamp: Stamp
    names: tuple[str, ...]
    sizes: array[int]
    changes: array[int]

    @property
    def count(self) -> int:
        return len(self.names)


class TextFiles(Sliced[_Survey]):
    """Items from text files: `path` (within the directory) and `text`, in the order of paths.

    A file that is not UTF-8, cannot be read, or was written to since the run began fails its item
    alone and is named. The list of files is held in memory, some 100 bytes each.

    Args:
        directory: Where they are.
        pattern: Which of them; `**/*.txt` goes into directories below.

    Example:
        ```python
        screen = FanOutNode(TextFiles("papers", "**/*.md"), prompt, pool=pool)
        ```
    """

    kind = "text_files"

    def __init__(self, directory: str | os.PathLike[str], pattern: str = "*.txt") -> None:
        super().__init__(directory, pattern=pattern)
        self._pattern = pattern

    def fields(self) -> tuple[str, ...]:
        """A file's path and its text."""
        return ("path", "text")

    def _look(self) -> _Survey:
        if not self.path.is_dir():
            raise SourceError(f"{self.name} is no directory (looked for {self.path}).")
        files = sorted(self._files())
        return _Survey(
            stamp_of_all(files),
            tuple(name for name, _, _ in files),
            array("q", [size for _, size, _ in files]),
            array("q", [changed for _, _, changed in files]),
        )

    def _files(self) -> Iterator[tuple[str, int, int]]:
        """Name, size and time of change; zeros for a file that cannot be looked at."""
        # Not Path.glob: names within the directory, at a tenth of the time.
        for name in glob.iglob(self._pattern, root_dir=self.path, recursive=True):  # noqa: PTH207
            try:
                status = (self.path / name).stat()
            except OSError:
                yield name, 0, 0
            else:
                if S_ISREG(status.st_mode):
                    yield name, status.st_size, status.st_mtime_ns

    def _check(self, start: int, stop: int) -> None:
        """Nothing: files are checked one by one when they are read."""

    def _read_from(self, start: int) -> Iterator[Any]:
        survey = self.survey
        for at in range(start, survey.count):
            name = survey.names[at]
            try:
                text = self._text(name, survey.sizes[at], survey.changes[at])
                yield {"path": name.encode().decode(), "text": text}
            except (OSError, ValueError) as error:
                shown = os.fsencode(self.path / name).decode(errors="replace")
                yield BadRow(f"{shown}: {_fault(error)}")

    def _text(self, name: str, size: int, changed: int) -> str:
        with (self.path / name).open("rb") as file:
            status = os.fstat(file.fileno())
            if (status.st_size, status.st_mtime_ns) != (size, changed):
                raise ValueError("it has changed since the run began")
            if size > MOST_BYTES:
                raise ValueError(f"longer than {MOST_BYTES // 2**20} MB")
            return file.read().decode("utf-8-sig")


def _fault(error: OSError | ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start + 1})"
    if isinstance(error, UnicodeEncodeError):
        return "its name is not UTF-8"
    return f"cannot be read ({reason_of(error)})"
