"""JSON Lines: one outcome a line, whole."""

from __future__ import annotations

import gzip

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import outcomes, repeatable
from some_outcomes import MIXED

from langgraph_hpc_fanout import Outcome
from langgraph_hpc_fanout.journal.export import to_json_lines


@repeatable
@given(st.lists(outcomes, max_size=5))
def test_every_outcome_is_a_line_that_can_be_read_back(tmp_path_factory, some):
    path = tmp_path_factory.getbasetemp() / "out.jsonl"
    assert to_json_lines(iter(some), path) == len(some)
    lines = path.read_bytes().splitlines()
    assert [Outcome.from_dict(orjson.loads(line)) for line in lines] == some
    assert all(orjson.loads(line) == each.to_dict() for line, each in zip(lines, some, strict=True))


@pytest.mark.parametrize(("name", "read"), [("a.jsonl", open), ("a.jsonl.gz", gzip.open)])
def test_the_name_tells_whether_it_is_compressed(tmp_path, name, read):
    assert to_json_lines(MIXED, tmp_path / name) == 3
    with read(tmp_path / name, "rb") as file:
        assert [orjson.loads(line)["value"] for line in file] == ["a", None, "c"]
