"""OpenAI batch files: what the API would have left of the same run."""

from __future__ import annotations

import gzip

import orjson
import pytest
from openai.types.chat import ChatCompletion
from some_outcomes import bad, good

from langgraph_hpc_fanout import Failure, Outcome, Usage
from langgraph_hpc_fanout.journal.export import to_openai_batch


def read(path):
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def export(tmp_path):
    def export(outcomes):
        paths = tmp_path / "output.jsonl", tmp_path / "errors.jsonl"
        counts = to_openai_batch(iter(outcomes), *paths)
        lines = tuple(map(read, paths))
        assert counts == tuple(map(len, lines))
        return lines

    return export


def test_an_answer_is_a_chat_completion(export):
    answer = good(7, "yes", model="m", usage=Usage(10, 5), finish_reason="length")
    (line,), errors = export([answer])
    assert errors == []
    assert (line["custom_id"], line["error"]) == ("k7", None)
    assert (line["response"]["status_code"], line["response"]["request_id"]) == (200, "k7")
    completion = ChatCompletion.model_validate(line["response"]["body"], strict=True)
    assert completion.choices[0].message.content == "yes"
    assert completion.choices[0].finish_reason == "length"
    assert completion.model == "m"
    assert completion.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
    }


def test_an_answer_of_which_little_is_known(export):
    (line,), _ = export([good(0, {"soluble": True})])
    completion = ChatCompletion.model_validate(line["response"]["body"], strict=True)
    assert completion.choices[0].message.content == '{"soluble":true}'
    assert (completion.model, completion.usage) == ("", None)


def test_failures_are_in_the_error_file(export):
    refused = Failure("permanent", "too long", status=400)
    output, lines = export([bad(0, "timeout"), Outcome("k1", 1, ok=False, error=refused)])
    assert output == []
    assert lines[0]["response"] is None
    assert lines[0]["error"] == {"code": "timeout", "message": "no"}
    assert lines[1]["error"] is None
    assert lines[1]["response"]["status_code"] == 400
    assert lines[1]["response"]["body"]["error"]["message"] == "too long"


def test_every_line_has_an_id_of_its_own(export):
    output, errors = export([good(0, "a"), bad(1), good(2, "c")])
    assert {line["id"] for line in output + errors} == {
        "batch_req_0",
        "batch_req_1",
        "batch_req_2",
    }


def test_a_failure_without_a_reason(export):
    _, (line,) = export([Outcome("k", 0, ok=False)])
    assert line["error"] == {"code": "permanent", "message": "No reason was kept."}


def test_each_file_may_be_compressed(tmp_path):
    to_openai_batch([good(0, "a")], tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl")
    assert (
        orjson.loads(gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()))["custom_id"] == "k0"
    )


def test_neither_file_appears_when_the_outcomes_cannot_be_read(tmp_path):
    def stream():
        yield good(0, "a")
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        to_openai_batch(stream(), tmp_path / "a", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_one_file_cannot_be_both(tmp_path):
    with pytest.raises(ValueError, match="name two files"):
        to_openai_batch([], tmp_path / "a", tmp_path / "sub" / ".." / "a")
