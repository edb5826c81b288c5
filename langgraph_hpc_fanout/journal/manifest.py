"""The manifest of a journal: which format its segments have."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson

from langgraph_hpc_fanout import atomic
from langgraph_hpc_fanout.journal.errors import JournalError

FILE = "journal.json"
FORMAT = 1
_BEFORE = "outcomes.jsonl"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a journal says about itself.

    Attributes:
        format: Version of its format.
        package: Version of this package that made it.
        created: When, in ISO format.
        id: Of this journal and no other, also where one was deleted and made anew.
    """

    format: int
    package: str
    created: str
    id: str


def read(directory: Path) -> Manifest | None:
    """The manifest of the journal in a directory; None if there is no journal yet.

    Raises:
        JournalError: If it is of a format that this package does not know.
        OSError: If it cannot be read.
    """
    try:
        content = (directory / FILE).read_bytes()
    except FileNotFoundError:
        return None
    try:
        fields = orjson.loads(content)
        found, package = fields["format"], fields["package"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise JournalError(
            f"{directory / FILE} is not the manifest of a journal; name another directory.",
            journal=str(directory),
        ) from error
    if found != FORMAT:
        raise JournalError(
            f"The journal {directory} is of format {found}, written by langgraph-hpc-fanout "
            f"{package}; this version reads format {FORMAT}. Use that version, or another "
            "directory.",
            journal=str(directory),
        )
    return Manifest(**fields)


def ensure(directory: Path) -> None:
    """Make a manifest where there is none.

    Raises:
        JournalError: If there is one of a format that this package does not know.
        OSError: If it cannot be read or written.
    """
    if read(directory) is not None:
        return
    if (directory / _BEFORE).exists():
        raise JournalError(
            f"{directory} holds a journal of an earlier version ({_BEFORE}), which is not read; "
            "name another directory.",
            journal=str(directory),
        )
    from langgraph_hpc_fanout import __version__  # noqa: PLC0415 - the package imports this room

    now = datetime.now(UTC).isoformat(timespec="seconds")
    mine = Manifest(FORMAT, __version__, now, os.urandom(8).hex())
    atomic.create(
        directory / FILE, orjson.dumps(asdict(mine), option=orjson.OPT_APPEND_NEWLINE), mine.id
    )
