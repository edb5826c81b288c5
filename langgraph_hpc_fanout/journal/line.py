"""The lines of a journal: JSON objects whose first fields have fixed widths.

    {"crc":"…","kind":"value","run":"00000001","place":"000000000042","digest":"…", …}

So a journal is opened by looking at heads, without reading the JSON behind them. The checksum
covers everything between its own quotes and the end of the line.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import orjson

from langgraph_hpc_fanout.records import Outcome

VALUE = "value"
"""An answer."""
ERROR = "error"
"""A failure."""
AGAIN = "again"
"""An answer that stands elsewhere, used again."""
STILL = "still"
"""A failure that stands elsewhere, kept."""
BEGIN = "begin"
"""The beginning of a run, which gives it a number within its segment."""
NOTED = "noted"
"""Anything else."""

DIGEST_BYTES = 16
NO_DIGEST = "0" * 2 * DIGEST_BYTES

# A head is `{"crc":"` + crc + `","kind":"` + kind and so on; these are where the fields begin.
PREFIX = b'{"crc":"'
CRC = len(PREFIX)
COVERED = CRC + 8
KIND = COVERED + len('","kind":"')
RUN = KIND + 5 + len('","run":"')
PLACE = RUN + 8 + len('","place":"')
DIGEST = PLACE + 12 + len('","digest":"')
HEAD_BYTES = DIGEST + 2 * DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class Line:
    """What a line says.

    Attributes:
        kind: One of the constants above.
        run: Number of the run within the segment.
        place: Place in the run.
        digest: Identity of the question, in 32 hexadecimal digits.
        data: The fields after the head.
    """

    kind: str
    run: int
    place: int
    digest: str
    data: dict[str, Any]


def encode(kind: str, run: int, place: int, digest: str, body: bytes) -> bytes:
    """A line; `body` is the JSON object of the fields after the head, and has some."""
    head = (kind.encode(), run, place, digest.encode(), body[1:])
    covered = b'","kind":"%b","run":"%08d","place":"%012d","digest":"%b",%b' % head
    return b'{"crc":"%08x%b\n' % (crc32(covered), covered)


def decode(line: bytes) -> Line | None:
    """What `encode` wrote, without the newline; None if it is damaged."""
    if len(line) <= HEAD_BYTES or not line.startswith(PREFIX):
        return None
    if b"%08x" % crc32(memoryview(line)[COVERED:]) != line[CRC:COVERED]:
        return None
    data = orjson.loads(line)
    del data["crc"]
    return Line(
        data.pop("kind"), int(data.pop("run")), int(data.pop("place")), data.pop("digest"), data
    )


def digest_of(scope: str, key: str) -> str:
    """Who asks what, in 32 hexadecimal digits: the key itself where it is a hash of all that."""
    if not scope and _is_digest(key):
        return key
    return hashlib.blake2b(orjson.dumps([scope, key]), digest_size=DIGEST_BYTES).hexdigest()


def _is_digest(key: str) -> bool:
    try:
        return len(key) == len(NO_DIGEST) and bytes.fromhex(key).hex() == key
    except ValueError:
        return False


def fingerprint_of(digest: str) -> int:
    """The first 64 bits of a digest; never 0, which means an empty slot."""
    return int(digest[:16], 16) or 1


def body_of(outcome: Outcome, scope: str, digest: str) -> bytes:
    """The fields of an outcome as JSON, without those that say nothing."""
    fields: dict[str, Any] = {"index": outcome.index}
    if outcome.key != digest:
        fields["key"] = outcome.key
    if scope:
        fields["scope"] = scope
    if outcome.value is not None:
        fields["value"] = outcome.value
    if (error := outcome.error) is not None:
        fields["error"] = {name: each for name, each in error.to_dict().items() if each is not None}
    if (usage := outcome.usage) is not None:
        fields["usage"] = tokens = {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
        }
        if usage.estimated:
            tokens["estimated"] = True
    if outcome.model is not None:
        fields["model"] = outcome.model
    if outcome.endpoint is not None:
        fields["endpoint"] = outcome.endpoint
    if outcome.attempts:
        fields["attempts"] = outcome.attempts
    if outcome.latency:
        fields["latency"] = outcome.latency
    if outcome.finish_reason is not None:
        fields["finish_reason"] = outcome.finish_reason
    if outcome.cost is not None:
        fields["cost"] = outcome.cost
    if outcome.sample:
        fields["sample"] = outcome.sample
    if outcome.meta:
        fields["meta"] = dict(outcome.meta)
    return orjson.dumps(fields)


def outcome_of(line: Line) -> Outcome:
    """The outcome that `body_of` wrote."""
    fields = {name: each for name, each in line.data.items() if name != "scope"}
    fields.setdefault("key", line.digest)
    return Outcome.from_dict({**fields, "ok": line.kind == VALUE})
