"""OpenAI batch input files."""

from __future__ import annotations

import orjson
import pytest
from sources import check_slices, everything

from langgraph_hpc_fanout import OpenAIBatch

BODY = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
WHOLE = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": BODY}


def source(tmp_path, *rows):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return OpenAIBatch(path)


def test_requests_come_as_they_are(tmp_path):
    batch = source(tmp_path, WHOLE, {**WHOLE, "custom_id": "b", "url": "/v1/completions"})
    assert everything(batch) == [WHOLE, {**WHOLE, "custom_id": "b", "url": "/v1/completions"}]
    assert batch.fields() == ("custom_id", "method", "url", "body")
    check_slices(batch)


def test_what_is_always_the_same_may_be_left_out(tmp_path):
    assert everything(source(tmp_path, {"custom_id": "a", "body": BODY})) == [WHOLE]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ([WHOLE], "a list, where an object is needed"),
        (BODY, "custom_id is missing, or no text"),
        ({**WHOLE, "custom_id": 7}, "custom_id is missing, or no text"),
        ({"custom_id": "a"}, "body is missing, or no object"),
        ({**WHOLE, "body": "?"}, "body is missing, or no object"),
    ],
)
def test_what_is_no_request(tmp_path, row, why):
    first, bad, last = everything(source(tmp_path, WHOLE, row, WHOLE))
    assert first == last == WHOLE
    assert bad.reason.endswith(f"x.jsonl, line 2: no batch request ({why})")


def test_a_line_that_is_no_json(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"{\n")
    (bad,) = everything(OpenAIBatch(path))
    assert "line 1: no JSON" in bad.reason
