"""What a branch reports into graph state: plain data, in a channel that only its fan-out uses."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

Receipt = dict[str, Any]
"""`{"start", "stop", "ok", "failed", "stats", "seconds"}` and either `outcomes` (columns) or
`journal`.

`start` and `stop` are places in the run, `stats` a dump of `Stats`. With several `samples` an item,
and in a sweep several places `per_item`, those numbers are there too.
"""
Receipts = dict[str, Any]
"""`{"run", "node", "shards": how many, "receipts": {shard number: Receipt}}`."""


def new_run_id() -> str:
    """An id for a run; ids sort by the time at which they were made."""
    return f"{time.time_ns():016x}-{os.urandom(4).hex()}"


def merge_receipts(old: Receipts | None, new: Receipts) -> Receipts:
    """Reducer of the private channel: receipts of the newest run only.

    Another run's receipts replace what is there, so a loop sees each round's own answers.
    LangGraph may run a reducer on a copy that shares its value, so nothing is changed in place.
    """
    if not old or old["run"] != new["run"]:
        return new
    return {**new, "receipts": {**old["receipts"], **new["receipts"]}}


def missing_shards(receipts: Mapping[str, Any]) -> list[int]:
    """Numbers of the shards that have not reported."""
    return [n for n in range(receipts["shards"]) if str(n) not in receipts["receipts"]]


def in_order(receipts: Mapping[str, Any]) -> list[Receipt]:
    """The receipts of all shards, in input order."""
    return [receipts["receipts"][number] for number in sorted(receipts["receipts"], key=int)]
