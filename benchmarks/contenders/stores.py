"""Places to keep outcomes: our journal, a table in SQLite, and lines of JSON with a dict."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Literal

from benchmarks.sample import Meter, Sample
from langgraph_hpc_fanout.journal.log import Log
from langgraph_hpc_fanout.records import Outcome, Usage
from langgraph_hpc_fanout.tasks.keys import content_key

Kind = Literal["journal", "SQLite", "JSON lines"]

AT_ONCE = 25_000
"""Outcomes between two syncs: half a second's at 50,000 a second."""
_SENTENCE = "Lipophilic groups outweigh the amine, so it hardly dissolves in water at all. "
_TEXT = (_SENTENCE * 13)[:800]

Keep = Callable[[int, Outcome], None]
Find = Callable[[str], Outcome | None]


def key(number: int) -> str:
    """The key of a question, as the package makes them."""
    return content_key({"item": number})


def outcomes(count: int) -> list[Outcome]:
    """Answers whose lines have about 1 kB."""
    return [
        Outcome(
            key(number),
            number,
            ok=True,
            value=_TEXT,
            usage=Usage(412, 198),
            model="openai/gpt-oss-120b",
            endpoint="polaris-7",
            attempts=1,
            latency=1.25,
            finish_reason="stop",
        )
        for number in range(count)
    ]


def append(kind: Kind, directory: str, count: int) -> Sample:
    """Keep so many outcomes, safe on disk every `AT_ONCE`."""
    some = iter(outcomes(count))
    with _WRITERS[kind](Path(directory)) as (keep, sync), Meter(count) as meter:
        place = 0
        while batch := list(islice(some, AT_ONCE)):
            for outcome in batch:
                keep(place, outcome)
                place += 1
            sync()
    return meter.sample


def find(kind: Kind, directory: str, count: int, hits: int) -> Sample:
    """Open what `append` made, and look up some of its keys, one by one."""
    keys = [key(number * (count // hits)) for number in range(hits)]
    with _READERS[kind](Path(directory)) as look_up, Meter(hits) as meter:
        for each in keys:
            found = look_up(each)
            if found is None or found.value != _TEXT:
                raise ValueError(f"{kind} lost {each}.")
    return meter.sample


def open_again(kind: Kind, directory: str, count: int) -> Sample:
    """Open what `append` made, up to the point where one answer is found."""
    with Meter(count) as meter, _READERS[kind](Path(directory)) as look_up:
        found = look_up(key(count - 1))
    if found is None:
        raise ValueError(f"{kind} lost its last outcome.")
    return meter.sample


# -- ours -------------------------------------------------------------------------------------


@contextmanager
def _write_journal(directory: Path) -> Iterator[tuple[Keep, Callable[[], None]]]:
    log = Log(directory)
    log.acquire()
    log.begin("run", {})
    yield lambda place, outcome: log.append("run", "", place, outcome) and None, log.flush
    log.release()


@contextmanager
def _read_journal(directory: Path) -> Iterator[Find]:
    log = Log(directory)
    log.refresh()

    def look_up(asked: str) -> Outcome | None:
        found = log.find("", asked)
        return found and found.outcome

    yield look_up


# -- SQLite -----------------------------------------------------------------------------------


@contextmanager
def _write_sqlite(directory: Path) -> Iterator[tuple[Keep, Callable[[], None]]]:
    directory.mkdir(parents=True, exist_ok=True)
    table = sqlite3.connect(directory / "outcomes.db", isolation_level=None)
    table.execute("PRAGMA journal_mode = WAL")
    table.execute("PRAGMA synchronous = FULL")
    table.execute("CREATE TABLE outcomes (key TEXT PRIMARY KEY, run TEXT, place INT, outcome TEXT)")
    table.execute("BEGIN")

    def keep(place: int, outcome: Outcome) -> None:
        row = (outcome.key, "run", place, json.dumps(outcome.to_dict()))
        table.execute("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?)", row)

    def sync() -> None:
        table.execute("COMMIT")
        table.execute("BEGIN")

    yield keep, sync
    table.execute("COMMIT")
    table.close()


@contextmanager
def _read_sqlite(directory: Path) -> Iterator[Find]:
    table = sqlite3.connect(directory / "outcomes.db")

    def look_up(asked: str) -> Outcome | None:
        row = table.execute("SELECT outcome FROM outcomes WHERE key = ?", (asked,)).fetchone()
        return row and Outcome.from_dict(json.loads(row[0]))

    yield look_up
    table.close()


# -- lines of JSON, and a dict ----------------------------------------------------------------


@contextmanager
def _write_lines(directory: Path) -> Iterator[tuple[Keep, Callable[[], None]]]:
    directory.mkdir(parents=True, exist_ok=True)
    offsets: dict[str, int] = {}
    with (directory / "outcomes.jsonl").open("ab") as file:

        def keep(place: int, outcome: Outcome) -> None:
            entry = {"run": "run", "place": place, "outcome": outcome.to_dict()}
            offsets[outcome.key] = file.tell()
            file.write(json.dumps(entry).encode() + b"\n")

        def sync() -> None:
            file.flush()
            os.fsync(file.fileno())

        yield keep, sync


@contextmanager
def _read_lines(directory: Path) -> Iterator[Find]:
    with (directory / "outcomes.jsonl").open("rb") as file:
        offsets, end = {}, 0
        for line in file:
            offsets[json.loads(line)["outcome"]["key"]] = end
            end += len(line)

        def look_up(asked: str) -> Outcome | None:
            file.seek(offsets[asked])
            return Outcome.from_dict(json.loads(file.readline())["outcome"])

        yield look_up


_WRITERS: dict[Kind, Callable[[Path], AbstractContextManager[tuple[Keep, Callable[[], None]]]]] = {
    "journal": _write_journal,
    "SQLite": _write_sqlite,
    "JSON lines": _write_lines,
}
_READERS: dict[Kind, Callable[[Path], AbstractContextManager[Find]]] = {
    "journal": _read_journal,
    "SQLite": _read_sqlite,
    "JSON lines": _read_lines,
}
