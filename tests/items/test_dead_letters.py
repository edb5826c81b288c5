"""Files of dead letters are sources."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import jsons, repeatable
from sources import bounds, check_slices, everything, scratch

from langgraph_hpc_fanout import DeadLetters

FAILURE = {"key": "k", "sample": 0, "kind": "timeout", "message": "too slow"}


@repeatable
@given(st.lists(jsons, max_size=6), bounds)
def test_items_come_back(items, cuts):
    with scratch() as directory:
        path = directory / "failed.jsonl"
        letters = [
            {"item": item, "index": index, "failures": [FAILURE]}
            for index, item in enumerate(items)
        ]
        path.write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in letters))
        source = DeadLetters(path)
        assert everything(source) == items
        check_slices(source, cuts)


@pytest.mark.parametrize("line", [b"7", b"[]", b'{"index": 1}'])
def test_what_is_no_dead_letter(tmp_path, line):
    path = tmp_path / "failed.jsonl"
    path.write_bytes(line + b'\n{"item": 1}\n')
    bad, good = everything(DeadLetters(path))
    assert bad.reason.endswith("failed.jsonl, line 1: no dead letter (it has no item)")
    assert good == 1
