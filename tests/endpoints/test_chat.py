"""The chat protocol as data: bodies, usage, and what answers mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from langgraph_hpc_fanout.endpoints import chat
from langgraph_hpc_fanout.records import Failure, Request, Usage

REQUEST = Request("k", "m", {"messages": [], "max_tokens": 3}, prompt_tokens=7, max_tokens=3)


def completion(content="hello", **more):
    return {"choices": [{"message": {"role": "assistant", "content": content}}], **more}


# -- bodies -----------------------------------------------------------------------------------


def test_the_body_names_the_served_model_and_never_streams():
    request = Request("k", "m", {"messages": [], "max_tokens": 3, "stream": True})
    body = orjson.loads(chat.wire_body(request, "org/m"))
    assert body == {"model": "org/m", "messages": [], "max_tokens": 3, "stream": False}


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), (" " * 400, 100), ("水", 1)]
)
def test_four_characters_are_a_token(text, tokens):
    assert chat.estimate_tokens(text) == tokens


def test_a_completion_is_read():
    body = completion(id="1", usage={"prompt_tokens": 1})
    assert chat.read_completion(orjson.dumps(body)) == body


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "not JSON but ''"),
        (b'{"choices": [', "not JSON but '{\"choices\": ['"),
        (b"<html><head><title>Sign\n in</title>", "not JSON but \"HTML page 'Sign in'\""),
        (b"\xff\xfe", "not JSON but"),
        (b"[]", "no chat completion: '[]'"),
        (b"null", "no chat completion: 'null'"),
        (b'"text"', "no chat completion"),
        (b"{}", "a chat completion without choices: '{}'"),
        (b'{"choices": []}', "without choices"),
        (b'{"choices": {"0": {}}}', "without choices"),
        (b'{"choices": [null]}', "a choice without a message"),
        (b'{"choices": [{"text": "hello"}]}', "a choice without a message"),
        (b'{"choices": [{"message": "hello"}]}', "a choice without a message"),
    ],
)
def test_what_is_no_completion_is_refused(raw, says):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        chat.read_completion(raw)
    assert says in str(caught.value)


def test_a_long_body_is_quoted_in_part():
    with pytest.raises(ValueError, match="not JSON") as caught:
        chat.read_completion(b"x" * 100_000)
    assert len(str(caught.value)) < 250


@repeatable
@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_reading_any_bytes_ends_in_a_completion_or_a_sentence(raw):
    kind = None
    try:
        body = chat.read_completion(raw)
    except ValueError as error:
        kind = type(error)
    if kind is None:
        assert isinstance(body["choices"][0]["message"], dict)
    else:
        assert kind is ValueError  # ours, not the parser's


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("hello", "hello"),
        ("", ""),
        (None, ""),
        (7, ""),
        ([], ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        ([{"type": "image_url"}, "loose", {"type": "text", "text": None}, {"text": "c"}], "c"),
    ],
)
def test_the_text_of_a_message(content, text):
    assert chat.text_of({"content": content}) == text
    assert chat.text_of({}) == ""


# -- usage ------------------------------------------------------------------------------------


def test_the_usage_that_a_server_reports():
    body = completion(usage={"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7})
    assert chat.usage_of(REQUEST, body) == Usage(5, 2, estimated=False)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        [],
        "5",
        {"prompt_tokens": 5},
        {"prompt_tokens": 5, "completion_tokens": None},
        {"prompt_tokens": "5", "completion_tokens": 2},
    ],
)
def test_an_estimate_where_a_server_reports_none(usage):
    assert chat.usage_of(REQUEST, completion("abcde", usage=usage)) == Usage(7, 2, estimated=True)
    assert chat.usage_of(REQUEST, completion("abcde")) == Usage(7, 2, estimated=True)


# -- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (301, "permanent", False),
        (400, "permanent", False),
        (401, "auth", False),
        (403, "auth", False),
        (404, "permanent", False),
        (405, "permanent", False),
        (408, "transient", True),
        (409, "transient", True),
        (413, "permanent", False),
        (422, "permanent", False),
        (425, "transient", True),
        (429, "rate_limited", True),
        (500, "transient", True),
        (502, "transient", True),
        (503, "overloaded", True),
        (504, "transient", True),
        (529, "overloaded", True),
        (599, "transient", True),
    ],
)
def test_what_a_status_means(status, kind, retryable):
    failure = chat.failure_of(status, b'{"error": {"message": "no"}}', "site")
    assert (failure.kind, failure.retryable) == (kind, retryable)
    assert (failure.status, failure.endpoint) == (status, "site")
    assert failure.message.startswith(f"site answered {status}: no")


@pytest.mark.parametrize("status", [302, 308, 404, 405])
def test_a_wrong_url_is_suspected(status):
    failure = chat.failure_of(status, b'{"detail": "Not Found"}', "site")
    assert failure.message.endswith("Is the URL right? It usually ends in /v1.")


def test_a_wrong_url_is_not_suspected_of_other_answers():
    assert "URL" not in chat.failure_of(400, b"no", "site").message


@pytest.mark.parametrize(
    "message",
    [
        "The model `huge` does not exist.",
        "model 'huge' not found, try pulling it first",
        "Model huge is not supported",
    ],
)
def test_a_model_that_is_not_served_is_cold(message):
    raw = orjson.dumps({"error": {"message": message}})
    expected = Failure("cold", f"site: {message}", 404, True, "site")
    assert chat.failure_of(404, raw, "site") == expected
    assert chat.failure_of(400, raw, "site").kind == "permanent"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"error": {"message": "OpenAI"}}', "OpenAI"),
        (b'{"error": "text-generation-inference"}', "text-generation-inference"),
        (b'{"object": "error", "message": "SGLang", "code": 503}', "SGLang"),
        (b'{"detail": "FastAPI"}', "FastAPI"),
        (b'{"detail": {"message": "nested"}}', "nested"),
        (b'{"error": {}, "message": "second choice"}', "second choice"),
        (b'{"error": {"message": null}, "detail": ""}', '{"error": {"message": null}'),
        (b'{"detail": [{"loc": ["body"], "msg": "field required"}]}', "field required"),
        (b'["a", "list"]', '["a", "list"]'),
        (b"plain  \n text", "plain text"),
        (b"", "(nothing)"),
        (b"   ", "(nothing)"),
        (b"<HTML><TITLE> 502\nBad Gateway </TITLE>", "HTML page '502 Bad Gateway'"),
    ],
)
def test_the_sentence_in_an_error_body(raw, message):
    assert message in chat.error_message(raw)


@repeatable
@given(st.integers(300, 599), st.binary(max_size=60))
def test_any_answer_becomes_a_failure(status, raw):
    failure = chat.failure_of(status, raw, "site")
    assert failure.message.startswith("site")
    assert failure.retryable == (failure.kind not in ("permanent", "auth"))


def test_messages_are_short_whatever_a_server_sends():
    for raw in (b"x" * 10**6, b'{"error": "%s"}' % (b"x" * 10**6), b"<title>" + b"x" * 2000):
        assert len(chat.failure_of(500, raw, "site").message) < 1000


# -- Retry-After ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("2", 2.0),
        ("0", 0.0),
        (" 1.5 ", 1.5),
        ("-3", 0.0),
        *((text, None) for text in ("", "soon", "nan", "inf", "-inf", "1e999", "Wed, 99 Foo 2015")),
    ],
)
def test_retry_after_in_seconds(value, seconds):
    assert chat.retry_after(value) == seconds


def test_retry_after_as_a_date():
    future = datetime.now(UTC) + timedelta(seconds=90)
    assert chat.retry_after(format_datetime(future, usegmt=True)) == pytest.approx(90, abs=5)
    assert chat.retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert chat.retry_after("Wed, 21 Oct 2015 07:28:00 +0200") == 0.0


@pytest.mark.parametrize(
    "value",
    [
        "Wed, 21 Oct 2015 07:28:00",
        "Wed, 21 Oct 2015 07:28:00 -0000",
        "Wed, 21 Oct 99999999999999999999 07:28:00 GMT",
    ],
)
def test_retry_after_as_an_odd_date(value):
    assert chat.retry_after(value) in (0.0, None)
