"""Parquet: outcomes as rows, typed, in row groups."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import outcomes, repeatable
from some_outcomes import MIXED, bad, good

from langgraph_hpc_fanout import Usage
from langgraph_hpc_fanout.journal.export import to_parquet


def rows_of(path):
    return pq.read_table(path).to_pylist()


@pytest.fixture
def export(tmp_path):
    def export(outcomes, **options):
        to_parquet(iter(outcomes), tmp_path / "out.parquet", **options)
        return rows_of(tmp_path / "out.parquet")

    return export


def test_columns(export):
    usage = Usage(10, 5)
    spent = {"attempts": 2, "latency": 0.5, "cost": 0.25}
    answer = good(3, "yes", model="m", endpoint="e", usage=usage, sample=1, **spent)
    rows = export([answer, bad(4, "timeout", meta={"cached": True})])
    assert rows[0] == {
        "index": 3,
        "key": "k3",
        "sample": 1,
        "ok": True,
        "value": "yes",
        "error_kind": None,
        "error_message": None,
        "model": "m",
        "endpoint": "e",
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "attempts": 2,
        "latency": 0.5,
        "finish_reason": None,
        "cost": 0.25,
        "cached": False,
    }
    failed = rows[1]
    assert (failed["ok"], failed["value"], failed["cached"]) == (False, None, True)
    assert (failed["error_kind"], failed["error_message"]) == ("timeout", "no")


@repeatable
@given(st.lists(outcomes, max_size=5))
def test_any_outcome_is_a_row(tmp_path_factory, some):
    path = tmp_path_factory.getbasetemp() / "out.parquet"
    assert to_parquet(iter(some), path) == len(some)
    assert [(row["index"], row["key"], row["ok"]) for row in rows_of(path)] == [
        (each.index, each.key, each.ok) for each in some
    ]


def test_nothing_is_a_table_without_rows(export):
    assert export([]) == []


def test_what_is_no_text_is_its_json(export):
    values = ["text", {"a": [1, None]}, 1.5, False, None]
    rows = export(good(n, value) for n, value in enumerate(values))
    assert [row["value"] for row in rows] == ["text", '{"a":[1,null]}', "1.5", "false", None]


def test_rows_come_in_groups_while_outcomes_are_read(tmp_path):
    written = []
    path = tmp_path / "out.parquet"

    def stream():
        for n in range(2000):
            written.append(sum(each.stat().st_size for each in tmp_path.iterdir()))
            yield good(n, f"{n:0500}")

    assert to_parquet(stream(), path, row_group=200_000) == 2000
    assert pq.ParquetFile(path).num_row_groups == 4
    assert written[1500] > written[100]
    assert [row["index"] for row in rows_of(path)] == list(range(2000))


# -- values of a type -------------------------------------------------------------------------

VERDICT = pa.struct([("class", pa.string()), ("scores", pa.list_(pa.int64()))])


def test_values_may_have_a_type(export):
    value = {"class": "toxic", "scores": [1, 2]}
    rows = export([good(0, value), bad(1), good(2, {"class": None})], values=VERDICT)
    assert [row["value"] for row in rows] == [value, None, {"class": None, "scores": None}]


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        (VERDICT, {"class": 3}, "Expected bytes, got a 'int' object"),
        (VERDICT, {"klass": "a"}, "it has no field 'klass'"),
        (VERDICT, {"scores": [1, 2.5]}, "2.5 is not whole"),
        (VERDICT, "toxic", "a str has no fields"),
        (pa.int64(), 0.5, "0.5 is not whole"),
        (pa.int64(), "1", "int64"),
        (pa.int8(), 2**40, "int8"),
        (pa.int64(), 2**70, "too large"),
        (pa.string(), {"a": 1}, "got a 'dict' object"),
        (pa.list_(VERDICT), [{"a": 1}], "it has no field 'a'"),
        (pa.list_(pa.string()), "abc", "a str is no list"),
        (pa.float64(), True, "True is no number"),
    ],
)
def test_a_value_that_does_not_fit_is_named(export, kind, value, reason):
    some = [bad(0), bad(1), good(2, value, sample=3), good(4, value)]
    with pytest.raises(ValueError, match=rf"The value of item 2, sample 3 is no .*{reason}"):
        export(some, values=kind)


def test_a_text_that_is_no_unicode_is_named(export):
    with pytest.raises(ValueError, match="The value of item 1, sample 0 is no string: 'utf-8'"):
        export([good(0, "a"), good(1, "\ud800")])


# -- sweeps -----------------------------------------------------------------------------------


def variant(index, **coordinates):
    return good(index, "a", meta={"sweep": coordinates})


def test_coordinates_of_a_sweep_are_columns(export):
    rows = export(
        [
            variant(0, prompt="p", temperature=1, think=True, stop=None, extra={"a": 1}),
            variant(0, prompt="p", temperature=0.5, think=None, stop=None, extra="b"),
            bad(1),
        ]
    )
    coordinates = [
        {name: value for name, value in row.items() if name.startswith("sweep_")} for row in rows
    ]
    names = ["sweep_prompt", "sweep_temperature", "sweep_think", "sweep_stop", "sweep_extra"]
    assert list(coordinates[0]) == names
    assert [tuple(each.values()) for each in coordinates] == [
        ("p", 1.0, True, None, '{"a":1}'),
        ("p", 0.5, None, None, "b"),
        (None, None, None, None, None),
    ]


def test_a_fraction_may_come_after_many_whole_numbers(export):
    rows = export(variant(n, temperature=n // 299 / 2) for n in range(300))
    rows += export(variant(n, temperature=n // 299) for n in range(300))
    assert [rows[n]["sweep_temperature"] for n in (0, 299, 599)] == [0.0, 0.5, 1.0]


def test_a_coordinate_of_another_kind_is_named(export):
    some = [*(variant(n, seed=1) for n in range(300)), variant(300, seed="none")]
    with pytest.raises(ValueError, match="The sweep_seed of item 300, sample 0 is no double"):
        export(some)


def test_outcomes_of_several_runs_are_not_mixed(export):
    some = [*(good(n, "a") for n in range(300)), variant(300, seed=1)]
    with pytest.raises(ValueError, match=r"a sweep that the first lack \(seed\)"):
        export(some)


# -- what cannot be ---------------------------------------------------------------------------


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"to_parquet needs pyarrow: pip install .*\[parquet\]"):
        to_parquet(MIXED, tmp_path / "out.parquet")
    assert list(tmp_path.iterdir()) == []


def test_settings_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match=r"to_parquet\(row_group=-1\) must be at least one byte"):
        to_parquet(MIXED, tmp_path / "out.parquet", row_group=-1)
    with pytest.raises(TypeError, match=r"to_parquet\(values='string'\) is no Arrow type"):
        to_parquet(MIXED, tmp_path / "out.parquet", values="string")


def test_pyarrow_is_imported_only_when_it_is_needed():
    script = (
        "import sys, langgraph_hpc_fanout.journal.export as e; sys.exit('pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
