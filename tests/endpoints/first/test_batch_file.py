"""Files of batches: what is written, and what is made of what comes back."""

from __future__ import annotations

import random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import jsons, repeatable, texts

from langgraph_hpc_fanout.endpoints.first.batches.file import (
    id_of_line,
    name_of,
    position_of,
    write_file,
)
from langgraph_hpc_fanout.endpoints.first.batches.results import (
    Ended,
    Reconciler,
    read_ended,
    read_replies,
)
from langgraph_hpc_fanout.endpoints.first.batches.routes import (
    Listed,
    code_of,
    read_list,
    read_status,
    read_submitted,
)
from langgraph_hpc_fanout.endpoints.first.batches.turns import pause_after
from langgraph_hpc_fanout.records import Failure, Request, Usage

BATCH = "0123456789abcdef"
LOST = Failure("transient", "no line", None, True, "b")
RESULTS = "/eagle/x/hpc-fanout-1_20261126.results.jsonl"

bodies = st.dictionaries(texts.filter(lambda name: name not in ("model", "stream")), jsons)


def requests_of(count):
    return [Request(f"k{number}", "m", {"messages": []}, 7) for number in range(count)]


def answer_line(position, text="yes", batch=BATCH, usage=True):
    body = {"choices": [{"message": {"content": text}}]}
    if usage:
        body["usage"] = {"prompt_tokens": 3, "completion_tokens": 2}
    response = {"status_code": 200, "request_id": "r", "body": body}
    line = {"id": "v", "custom_id": id_of_line(batch, position), "response": response}
    return orjson.dumps({**line, "error": None}) + b"\n"


def error_line(position, status=400, message="too long"):
    error = {"message": message, "type": "BadRequestError", "code": status}
    response = {"status_code": status, "request_id": "r", "body": None}
    line = {"id": "v", "custom_id": id_of_line(BATCH, position), "response": response}
    return orjson.dumps({**line, "error": error}) + b"\n"


def reconciled(lines, count, seconds=None):
    """Replies by position, in the order in which they came, and how many lines were strange."""
    reconciler = Reconciler(BATCH, requests_of(count), seconds, "b")
    replies = [reply for line in lines if (reply := reconciler.take(line)) is not None]
    replies += reconciler.rest(LOST)
    by_position = {reply.position: reply for reply in replies}
    assert len(by_position) == len(replies) == count, "one reply each"
    return by_position, reconciler.strange


# What is written


@repeatable
@given(given_bodies=st.lists(bodies, max_size=5))
def test_a_file_holds_what_is_asked(tmp_path_factory, given_bodies):
    path = tmp_path_factory.mktemp("batch") / name_of(BATCH)
    asked = [Request(f"k{number}", "m", body) for number, body in enumerate(given_bodies)]
    write_file(path, BATCH, asked, "org/m")
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert [position_of(BATCH, line["custom_id"], len(lines)) for line in lines] == [
        *range(len(given_bodies))
    ]
    for line, body in zip(lines, given_bodies, strict=True):
        assert line["method"] == "POST"
        assert line["url"] == "/v1/chat/completions"
        assert line["body"] == orjson.loads(
            orjson.dumps({"model": "org/m", **body, "stream": False})
        )
    assert [each.name for each in path.parent.iterdir()] == [path.name], "no draft is left"


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    path = tmp_path / name_of(BATCH)
    with pytest.raises(TypeError):
        write_file(path, BATCH, [Request("k", "m", {"messages": object()})], "m")
    assert not list(tmp_path.iterdir())


@given(st.text() | st.integers() | st.none(), st.integers(0, 10))
def test_only_its_own_ids_are_a_batchs(custom_id, most):
    position = position_of(BATCH, custom_id, most)
    assert position is None or (custom_id == id_of_line(BATCH, position) and position < most)


@pytest.mark.parametrize("digits", ["", "-1", "01", "1.0", "²", "10", " 1", "9" * 5_000])
def test_ids_that_only_look_like_a_batchs(digits):
    assert position_of(BATCH, f"{BATCH}-{digits}", 10) is None


# What comes back


@repeatable
@given(st.data())
def test_replies_are_put_to_their_requests(data):
    """Whatever the order, with lines that are missing, double, garbled or of another batch."""
    count = data.draw(st.integers(1, 30))
    told = {
        position: data.draw(st.sampled_from(["answer", "error", "both", "missing"]))
        for position in range(count)
    }
    lines, strange = [], 0
    for position, what in told.items():
        if what in ("answer", "both"):
            lines += [answer_line(position, f"a{position}")] * data.draw(st.integers(1, 2))
        if what in ("error", "both"):
            lines.append(error_line(position))
    for junk in data.draw(
        st.lists(
            st.sampled_from(
                [
                    answer_line(0, batch="another"),
                    answer_line(count),
                    b"\n",
                    b"[]\n",
                    b"null\n",
                    b'{"custom_id": 3}\n',
                    answer_line(0)[:-20],
                ]
            ),
            max_size=4,
        )
    ):
        lines.append(junk)
        strange += 1
    data.draw(st.randoms(use_true_random=False)).shuffle(lines)
    replies, found_strange = reconciled(lines, count, seconds=0.5)
    assert found_strange == strange
    for position, what in told.items():
        reply = replies[position]
        if what in ("answer", "both"):
            assert reply.body["choices"][0]["message"]["content"] == f"a{position}"
            assert reply.usage == Usage(3, 2)
            assert reply.seconds == 0.5
        elif what == "error":
            assert reply.failure.kind == "permanent"
            assert "too long" in reply.failure.message
        else:
            assert reply.failure == LOST


@pytest.mark.parametrize(
    ("status", "kind"), [(400, "permanent"), (429, "rate_limited"), (500, "transient")]
)
def test_errors_are_what_they_are_of_a_live_answer(status, kind):
    replies, _ = reconciled([error_line(0, status)], 1)
    assert replies[0].failure.kind == kind
    assert replies[0].failure.status == status


@pytest.mark.parametrize(
    "line",
    [
        {"response": None, "error": None},
        {"response": {"status_code": 200, "body": {"choices": []}}, "error": None},
        {"response": None, "error": "it broke"},
        {"response": "what", "error": {"message": "it broke"}},
    ],
)
def test_lines_that_say_little_are_tried_again(line):
    replies, strange = reconciled(
        [orjson.dumps({"custom_id": id_of_line(BATCH, 0), **line}) + b"\n"], 1
    )
    assert replies[0].failure.kind == "transient"
    assert not strange


def test_the_status_in_vllms_nested_error_counts():
    error = {"error": {"message": "no", "code": 400}, "code": {"code": 400}}
    line = {"custom_id": id_of_line(BATCH, 0), "response": None, "error": error}
    replies, _ = reconciled([orjson.dumps(line) + b"\n"], 1)
    assert replies[0].failure.kind == "permanent"


def test_tokens_that_are_not_told_are_estimated():
    replies, _ = reconciled([answer_line(0, "four", usage=False)], 1)
    assert replies[0].usage == Usage(7, 1, estimated=True)


def test_a_file_is_read_in_pieces(tmp_path):
    lines = [answer_line(position, "x" * 2_000) for position in range(1_000)]
    random.Random(0).shuffle(lines)
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"".join(lines)[:-30])
    reconciler = Reconciler(BATCH, requests_of(1_000), None, "b")
    pieces = list(read_replies([path], reconciler))
    assert sum(map(len, pieces)) == 999, "the last line is cut off"
    assert reconciler.strange == 1
    assert max(map(len, pieces)) < 200
    assert len(list(reconciler.rest(LOST))) == 1


def test_what_is_nested_too_deep_is_a_line_that_is_lost():
    deep = b"[" * 300 + b"]" * 300
    lines = [
        answer_line(0),
        answer_line(1).replace(b'"choices"', b'"x":%b,"choices"' % deep),
        error_line(2).replace(b'"body":null', b'"body":%b' % deep).replace(b'"error":{', b'"e":{'),
        answer_line(3),
    ]
    replies, strange = reconciled(lines, 4)
    assert [reply.failure for _, reply in sorted(replies.items())] == [None, LOST, LOST, None]
    assert strange == 2


def test_results_may_be_read_again_as_they_grow(tmp_path):
    lines = [answer_line(0), error_line(1), b"what?\n", answer_line(2)]
    path = tmp_path / "results.jsonl"
    reconciler = Reconciler(BATCH, requests_of(3), None, "b")
    found = []
    for written, whole in ((0, 0), (1, 1), (2, 2), (4, 4)):
        path.write_bytes(b"".join(lines[:written]) + b"\n" + (answer_line(2)[:-9]))
        found.append(
            [reply.position for chunk in read_replies([path], reconciler) for reply in chunk]
        )
        assert reconciler.lines == whole, "what is under way still is no line"
    assert found == [[], [0], [], [2]]


# What a batch says of its end

FIGURES = {"total_tokens": 9, "num_responses": 2, "lines_processed": 3}


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ({"results_file": RESULTS, **FIGURES, "duration_sec": 4.5}, 4.5),
        ({"results_file": RESULTS, "metrics": {**FIGURES, "response_time": 4.5}}, 4.5),
        ({"results_file": RESULTS, **FIGURES}, None),
    ],
)
@pytest.mark.parametrize("written", [str, lambda told: orjson.dumps(told).decode()])
def test_both_documented_results_are_read(told, seconds, written):
    assert read_ended(orjson.dumps(written(told))) == Ended(RESULTS, 2, seconds)


def test_a_result_that_is_no_string_is_read_too():
    assert read_ended(orjson.dumps({"results_file": RESULTS})) == Ended(RESULTS)
    assert read_ended(str({"results_file": RESULTS}).encode()) == Ended(RESULTS)


@given(st.binary(max_size=60) | jsons.map(orjson.dumps) | st.text().map(orjson.dumps))
def test_whatever_else_is_no_result(raw):
    with pytest.raises(ValueError, match="no result of a batch"):
        read_ended(raw)


def test_a_result_is_read_and_never_run():
    with pytest.raises(ValueError, match="no result"):
        read_ended(orjson.dumps("__import__('os').getcwd()"))


# What routes say


def test_routes_answers_are_read():
    assert read_submitted(b'{"batch_id": "b1", "status": "pending"}') == "b1"
    assert read_status(b'"completed"') == "completed"
    assert read_status(b'{"status": "failed"}') == "failed"
    assert code_of(b'{"error": {"code": "quota_exceeded"}}') == "quota_exceeded"
    one = {"batch_id": "b1", "input_file": "/eagle/f.jsonl", "status": "pending"}
    (listed,) = read_list(orjson.dumps([one, None, {"batch_id": 3}]))
    assert listed == Listed("b1", "/eagle/f.jsonl", "pending")
    assert listed.is_active
    assert listed.file_name == "f.jsonl"


@given(st.binary(max_size=60) | jsons.map(orjson.dumps))
def test_whatever_routes_say_nothing_breaks(raw):
    assert isinstance(read_status(raw), str)
    assert isinstance(code_of(raw), str)
    for read in (read_list, read_submitted):
        try:
            read(raw)
        except ValueError as error:
            assert str(error).startswith("no ")  # noqa: PT017 - not all raise


@given(st.floats(0, 1e6), st.floats(0.01, 600), st.floats(0, 1))
def test_a_long_batch_is_looked_at_more_rarely(elapsed, poll, chance):
    pause = pause_after(elapsed, poll, chance)
    assert 0.9 * poll <= pause <= 1.101 * 10 * poll
    assert pause <= 1.101 * max(poll, 0.02 * elapsed)
