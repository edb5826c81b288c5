"""Lines: JSON that says what it should, or is known to be damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journals import answer, content_key, failed
from properties import outcomes, repeatable, texts

from langgraph_hpc_fanout.journal import line
from langgraph_hpc_fanout.records import Outcome


def encoded(outcome, scope="", run=1, place=0):
    digest = line.digest_of(scope, outcome.key)
    kind = line.VALUE if outcome.ok else line.ERROR
    return line.encode(kind, run, place, digest, line.body_of(outcome, scope, digest))


@repeatable
@given(outcomes, texts, st.integers(0, 10**8 - 1), st.integers(0, 10**12 - 1))
def test_an_outcome_survives_the_way_into_a_line_and_back(outcome, scope, run, place):
    whole = encoded(outcome, scope, run, place)
    assert whole.endswith(b"\n")
    assert b"\n" not in whole[:-1]
    read = line.decode(whole[:-1])
    assert (read.run, read.place) == (run, place)
    assert read.digest == line.digest_of(scope, outcome.key)
    assert line.outcome_of(read) == outcome


def test_a_line_in_full():
    key = content_key(1)
    whole = encoded(answer(7, "A", key=key), place=42)
    assert json.loads(whole) == {
        "crc": whole[8:16].decode(),
        "kind": "value",
        "run": "00000001",
        "place": "000000000042",
        "digest": key,
        "index": 7,
        "value": "A",
        "attempts": 1,
    }


def test_the_lines_in_the_documentation_are_sound():
    page = (Path(__file__).parents[2] / "docs" / "journal.md").read_bytes()
    lines = [line.decode(each) for each in page.splitlines() if each.startswith(line.PREFIX)]
    assert [each.kind for each in lines] == ["begin", "value", "again"]


def test_the_key_of_the_user_is_kept_with_whose_it_is():
    told = json.loads(encoded(failed(0, key="mol-7"), scope="screen"))
    assert (told["key"], told["scope"], told["kind"]) == ("mol-7", "screen", "error")
    assert told["error"] == {"kind": "timeout", "message": "too slow", "retryable": False}


def test_samples_are_told_apart():
    sampled = answer(3, "A", sample=2)
    assert line.outcome_of(line.decode(encoded(sampled)[:-1])) == sampled


def test_values_that_are_false_are_kept():
    for value in ("", 0, False, [], {}):
        outcome = Outcome("a", 0, ok=True, value=value, model="", endpoint="", finish_reason="")
        assert line.outcome_of(line.decode(encoded(outcome)[:-1])) == outcome


def test_damage_at_any_byte_is_noticed():
    whole = encoded(answer(3, "ünsere 水"), scope="s")[:-1]
    for position in range(len(whole)):
        for other in (0, ord("0"), ord("A"), whole[position] ^ 1):
            if other != whole[position]:
                damaged = whole[:position] + bytes([other]) + whole[position + 1 :]
                assert line.decode(damaged) is None, position
        assert line.decode(whole[:position]) is None


@pytest.mark.parametrize("text", [b"", b"{}", b"{" * 500, b'{"crc":"00000000', b"\0" * 200])
def test_what_is_no_line_is_damaged(text):
    assert line.decode(text) is None


def test_a_hash_of_what_was_asked_is_its_own_digest():
    key = content_key(1)
    assert line.digest_of("", key) == key
    others = {
        line.digest_of(scope, own)
        for scope in ("", "a", "b")
        for own in ("k", "a", "", key.upper(), key[:-1], f"{key} ", f" {key[1:]}", "1_" * 16)
    } | {line.digest_of("a", key)}
    assert len(others) == 25
    assert all(len(each) == 32 and each != key for each in others)


def test_no_fingerprint_is_nothing():
    assert line.fingerprint_of("0" * 32) == 1
    assert line.fingerprint_of("f" * 32) == 2**64 - 1
