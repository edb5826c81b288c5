"""Answers: a text that can be used, or why there is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable, texts

from langgraph_hpc_fanout.tasks.answer import Answer, read_answer


def body(message, reason="stop", choices=1):
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
    other = {"index": 1, "message": {"content": "another"}, "finish_reason": "stop"}
    return {"choices": [choice, *[other] * (choices - 1)]}


def read(message, reason="stop", **options):
    return read_answer(body(message, reason), **{"allow_truncated": False, **options})


def test_a_text():
    assert read({"content": "Yes."}) == Answer("Yes.", "Yes.", None, None, "stop", 1)


def test_content_parts():
    parts = [{"type": "text", "text": "Y"}, {"type": "text", "text": "es."}]
    assert read({"content": parts}) == Answer("Yes.", "Yes.", None, None, "stop", 1)


def test_space_around_a_text_is_kept():
    assert read({"content": " Yes.\n"}).text == " Yes.\n"


def test_the_first_of_several_choices_is_read_and_they_are_counted():
    answer = read_answer(body({"content": "Yes."}, choices=3), allow_truncated=False)
    assert answer == Answer("Yes.", "Yes.", None, None, "stop", 3)


def test_a_server_may_not_say_why_it_stopped():
    completion = {"choices": [{"message": {"content": "Yes."}}]}
    assert read_answer(completion, allow_truncated=False) == Answer(
        "Yes.", "Yes.", None, None, None, 1
    )


def test_a_truncated_text_is_a_fault_unless_allowed():
    answer = read({"content": "Ye"}, "length")
    assert (answer.text, answer.finish_reason) == ("Ye", "length")
    assert answer.fault == (
        "was cut off at max_tokens; raise it, or accept such answers with allow_truncated"
    )
    assert read({"content": "Ye"}, "length", allow_truncated=True).fault is None


@pytest.mark.parametrize("allow_truncated", [False, True])
@pytest.mark.parametrize(
    ("message", "reason", "fault", "text"),
    [
        ({"content": ""}, "stop", "is empty", ""),
        ({"content": None}, "stop", "is empty", ""),
        ({}, "stop", "is empty", ""),
        ({"content": " \n\t"}, "stop", "is empty", " \n\t"),
        ({"content": None, "tool_calls": [{}]}, "tool_calls", "is empty", ""),
        ({"content": ""}, "length", "cut off before its first word; raise max_tokens", ""),
        ({"content": None, "refusal": "I can't."}, "stop", "refused by the model", "I can't."),
        ({"content": "Well", "refusal": "I can't."}, "stop", "refused by the model", "Well"),
        ({"content": "Ye"}, "content_filter", "stopped by a content filter", "Ye"),
        ({"content": ""}, "content_filter", "stopped by a content filter", ""),
        ({"reasoning_content": "Hm."}, "stop", "has reasoning but no answer", "Hm."),
        ({"content": None, "reasoning": "Hm."}, "length", "has reasoning but no answer", "Hm."),
        ({"content": "", "reasoning_content": ["Hm."]}, "stop", "is empty", ""),
        ({"content": "", "refusal": True}, "stop", "refused by the model", ""),
    ],
)
def test_what_is_no_answer_says_why_and_keeps_what_there_is(
    message, reason, fault, text, allow_truncated
):
    answer = read(message, reason, allow_truncated=allow_truncated)
    assert fault in answer.fault
    assert (answer.text, answer.finish_reason) == (text, reason)


def test_reasoning_beside_an_answer_is_no_fault():
    answer = read({"content": "Yes.", "reasoning_content": "Hm."})
    assert answer == Answer("Yes.", "Yes.", None, None, "stop", 1)


def test_an_empty_refusal_is_none():
    assert read({"content": "Yes.", "refusal": None}).fault is None
    assert read({"content": "Yes.", "refusal": ""}).fault is None


messages = st.fixed_dictionaries(
    {},
    optional={
        name: st.none() | texts | st.lists(texts, max_size=2)
        for name in ("content", "refusal", "reasoning", "reasoning_content")
    },
)
reasons = st.none() | st.sampled_from(["stop", "length", "content_filter", "tool_calls"])


@repeatable
@given(messages, reasons, st.booleans())
def test_an_answer_without_fault_has_words_and_was_not_refused(message, reason, allow_truncated):
    answer = read(message, reason, allow_truncated=allow_truncated)
    assert isinstance(answer.text, str)
    if answer.fault is None:
        assert answer.text.strip()
        assert answer.text == message["content"]
        assert not message.get("refusal")
        assert reason != "content_filter"
        assert allow_truncated or reason != "length"
    else:
        assert not answer.fault.endswith(".")  # it ends a sentence of ours
