"""Heads: what they say is what the lines say, and damaged lines are told apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from journals import answer, content_key, failed
from properties import repeatable

from langgraph_hpc_fanout.journal import line, scan
from langgraph_hpc_fanout.journal.segments import Block

kinds = st.sampled_from([line.VALUE, line.ERROR, line.AGAIN, line.STILL, line.BEGIN, line.NOTED])
lines = st.builds(
    line.encode,
    kinds,
    st.integers(0, 10**8 - 1),
    st.integers(0, 10**12 - 1),
    st.integers(0, 2**128 - 1).map(lambda number: f"{number:032x}"),
    st.sampled_from([b'{"a":1}', b'{"value":"' + b"x" * 300 + b'"}']),
)
START = 1000


def assert_like_decode(data):
    heads = scan.heads_of(Block(START, data))
    offsets = {int(at): number for number, at in enumerate(heads.offsets)}
    at = START
    for each in data.split(b"\n")[:-1]:
        read = line.decode(each)
        assert (at in offsets) is (read is not None)
        assert (at in heads.damaged) is (read is None)
        if read is not None:
            number = offsets[at]
            assert chr(heads.kinds[number]) == read.kind[0]
            assert heads.runs[number] == read.run
            assert heads.places[number] == read.place
            assert heads.fingerprints[number] == line.fingerprint_of(read.digest)
        at += len(each) + 1
    return heads


@repeatable
@given(st.lists(lines, min_size=1, max_size=5), st.data())
def test_heads_say_what_lines_say_whatever_is_damaged(some, data):
    whole = bytearray(b"".join(some))
    assert len(assert_like_decode(bytes(whole))) == len(some)
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 2))] = data.draw(st.integers(0, 255))
    assert_like_decode(bytes(whole))


def test_damage_at_any_byte_of_a_head_costs_its_line():
    def encoded(number, outcome):
        key = content_key(number)
        return line.encode("value", 1, number, key, line.body_of(outcome, "", key))

    one, other = encoded(1, answer(1)), encoded(2, failed(2))
    for position in range(line.HEAD_BYTES + 4):
        for byte in (0, ord("f"), ord("F"), ord("\n")):
            if byte != one[position]:
                damaged = one[:position] + bytes([byte]) + one[position + 1 :]
                heads = assert_like_decode(damaged + other)
                assert heads.places.tolist() == [2], position


def test_a_block_of_rubbish():
    heads = scan.heads_of(Block(0, b"\n\nrubbish\n"))
    assert len(heads) == 0
    assert heads.damaged.tolist() == [0, 1, 2]


def test_heads_of_several_blocks_together():
    one = line.encode("value", 1, 5, content_key(5), b'{"index":5}')
    parts = [scan.heads_of(Block(start, one)) for start in (0, 500)]
    both = scan.joined(parts)
    assert both.offsets.tolist() == [0, 500]
    assert both.places.tolist() == [5, 5]
