"""Products: every combination, in order, never all at once."""

from __future__ import annotations

import itertools

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable
from sources import bounds, check_slices, everything, read_by_two_threads, scratch

from langgraph_hpc_fanout import JsonLines
from langgraph_hpc_fanout.items import product
from langgraph_hpc_fanout.items.opening import reopen
from langgraph_hpc_fanout.items.product import Product
from langgraph_hpc_fanout.items.rows import Rows
from langgraph_hpc_fanout.items.source import BadRow, SourceError


def written(path, rows):
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return JsonLines(path)


factors = st.lists(
    st.tuples(st.booleans(), st.lists(st.integers(0, 9), max_size=4)), min_size=1, max_size=4
)


@repeatable
@given(factors, bounds)
def test_every_combination_the_last_fastest(drawn, cuts):
    with scratch() as directory:
        sources = {
            f"f{number}": written(directory / f"{number}.jsonl", rows) if on_disk else rows
            for number, (on_disk, rows) in enumerate(drawn)
        }
        combined = Product(sources)
        assert everything(combined) == [
            dict(zip(sources, values, strict=True))
            for values in itertools.product(*(rows for _, rows in drawn))
        ]
        assert combined.ready == (not any(on_disk for on_disk, _ in drawn))
        check_slices(combined, cuts)


@pytest.mark.parametrize("held", [0, 1024])
def test_large_factors_are_read_again(tmp_path, monkeypatch, held):
    monkeypatch.setattr(product, "_MOST_HELD", held)
    monkeypatch.setattr(product, "_PIECE", 7)
    files = {name: written(tmp_path / f"{name}.jsonl", range(20)) for name in "abc"}
    combined = Product(files)
    assert len(combined) == 8000
    check_slices(combined, [1, 399, 400, 401, 1000, 7999])
    first, second = read_by_two_threads(combined, 333)
    assert first == second == everything(combined)


def test_what_is_known_without_reading():
    combined = Product({"condition": ["dry", "wet"], "hypothesis": Rows(["a"])})
    assert combined.name == "condition x hypothesis"
    assert combined.fields() == ("condition", "hypothesis")
    assert repr(combined).startswith("Product({'condition': Rows('condition', 2 items), ")


def test_more_combinations_than_memory():
    digits = range(10)
    combined = Product({f"d{place}": digits for place in range(12)})
    assert len(combined) == 10**12
    (found,) = combined.read(271_828_182_845, 271_828_182_846)
    assert "".join(map(str, found.values())) == "271828182845"


def test_a_bad_row_makes_bad_rows_of_its_combinations(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.jsonl").write_bytes(b"1\n{\n")
    bad = BadRow("x.jsonl, line 2: no JSON (unexpected end of data, column 2)")
    lines = JsonLines("x.jsonl")
    assert everything(Product({"a": lines, "b": [7, 8]})) == [
        {"a": 1, "b": 7},
        {"a": 1, "b": 8},
        bad,
        bad,
    ]
    assert everything(Product({"b": [7, 8], "a": lines})) == [
        {"b": 7, "a": 1},
        bad,
        {"b": 8, "a": 1},
        bad,
    ]


def test_a_reference_holds_a_slice_of_the_first_only():
    combined = Product({"a": list("pqrst"), "b": [1, 2, 3]})
    reference = combined.reference(4, 8)
    assert [each["rows"] for each in reference["factors"]] == [["q", "r"], [1, 2, 3]]
    assert [each["a"] for each in reopen(reference).read(4, 8)] == ["q", "q", "r", "r"]


def test_a_factor_that_changed(tmp_path):
    combined = Product({"a": written(tmp_path / "x.jsonl", range(3)), "b": [1]})
    reference = combined.reference(0, 3)
    written(tmp_path / "x.jsonl", range(4))
    for again in (lambda: everything(combined), lambda: reopen(reference)):
        with pytest.raises(SourceError, match="has changed since the run began"):
            again()


def test_a_path_is_a_source(tmp_path):
    written(tmp_path / "x.jsonl", [1, 2])
    combined = Product({"a": str(tmp_path / "x.jsonl"), "b": tmp_path / "x.jsonl"})
    assert [tuple(each.values()) for each in everything(combined)] == [
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
    ]


@pytest.mark.parametrize("wrong", [b"ab", {"a"}, 7, None])
def test_factors_that_are_none(wrong):
    says = rf"^Product\(a=...\) is a {type(wrong).__name__}; it takes sources, paths and lists"
    with pytest.raises(TypeError, match=says):
        Product({"a": wrong})


def test_nothing_to_combine():
    with pytest.raises(ValueError, match=r"^Product\({}\) has nothing to combine; name at least"):
        Product({})
