"""Parquet: rows as Python objects, whatever the row groups are, and however some are damaged."""

from __future__ import annotations

import datetime
import decimal
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_files import open_files
from properties import repeatable
from sources import (
    bounds,
    check_slices,
    everything,
    read_by_a_child,
    read_by_two_threads,
    scratch,
)

from langgraph_hpc_fanout import Parquet
from langgraph_hpc_fanout.items import parquet
from langgraph_hpc_fanout.items.opening import reopen
from langgraph_hpc_fanout.items.source import BadRow, SourceError


def written(path, rows, schema=None, **options):
    pq.write_table(pa.Table.from_pylist(rows, schema), path, **options)
    return path


def numbered(count):
    return [{"n": number, "text": f"text {number}"} for number in range(count)]


@pytest.fixture
def many(tmp_path):
    """Groups of 700 rows, read in batches of fewer."""
    return Parquet(written(tmp_path / "x.parquet", numbered(3000), row_group_size=700))


@repeatable
@given(
    st.lists(st.fixed_dictionaries({"a": st.none() | st.text(max_size=5), "b": st.binary()})),
    bounds,
    st.integers(1, 9),
)
def test_what_was_written_is_read(rows, cuts, size):
    schema = pa.schema({"a": pa.string(), "b": pa.binary()})
    with scratch() as directory:
        path = written(directory / "x.parquet", rows, schema, row_group_size=size)
        source = Parquet(path)
        assert everything(source) == rows
        assert source.fields() == ("a", "b")
        check_slices(source, cuts)


def test_values_stay_python_objects(tmp_path):
    row = {
        "day": datetime.date(2026, 1, 2),
        "time": datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC),
        "price": decimal.Decimal("1.50"),
        "bytes": b"\xff",
        "list": [1, None],
        "object": {"a": {"b": 1.5}},
        "nothing": None,
    }
    assert everything(Parquet(written(tmp_path / "x.parquet", [row]))) == [row]


@pytest.mark.parametrize("start", [0, 1, 699, 700, 701, 1400, 2999])
def test_slices_begin_anywhere(many, monkeypatch, start):
    monkeypatch.setattr(parquet, "_MOST_BATCH_ROWS", 64)
    assert list(many.read(start, 3000)) == numbered(3000)[start:]
    again = reopen(many.reference(start, 3000))
    assert list(again.read(start, 3000)) == numbered(3000)[start:]


def test_slices_that_follow_one_another_read_each_row_group_once(many, tmp_path):
    for start in range(0, 3000, 10):
        assert list(many.read(start, start + 10)) == numbered(3000)[start : start + 10]
        assert open_files(tmp_path) <= 1
    assert open_files(tmp_path) == 0


def test_rows_of_a_large_batch_are_held_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_BATCH_BYTES", 1000)
    rows = [{"text": chr(65 + n) * 400} for n in range(20)]
    path = written(tmp_path / "x.parquet", rows, compression="none", use_dictionary=False)
    with pq.ParquetFile(path) as file:
        assert parquet._batch_rows(file, 0) == 2
    check_slices(Parquet(path))


def test_columns(tmp_path):
    path = written(tmp_path / "x.parquet", numbered(3))
    source = Parquet(path, ["text"])
    assert source.fields() == ("text",)
    assert everything(source) == [{"text": f"text {n}"} for n in range(3)]
    assert everything(Parquet(path, "n")) == [{"n": n} for n in range(3)]
    check_slices(source)


def test_no_rows(tmp_path):
    path = written(tmp_path / "x.parquet", [], pa.schema({"a": pa.string()}))
    source = Parquet(path)
    assert (everything(source), source.fields()) == ([], ("a",))
    check_slices(source)


# -- several files ----------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path):
    for name, rows in [("b", numbered(5)[3:]), ("a", numbered(3)), ("c", []), ("d", [{"n": 9}])]:
        schema = None if rows else pa.schema({"n": pa.int64()})
        written(tmp_path / f"{name}.parquet", rows, schema, row_group_size=2)
    return tmp_path


@pytest.mark.parametrize("pattern", ["", "*.parquet", "?.parquet", "[a-d].parquet"])
def test_several_files_are_one_source(parts, pattern):
    source = Parquet(parts / pattern)
    assert everything(source) == [*numbered(5), {"n": 9}]
    check_slices(source, [1, 2, 3, 4])


def test_a_name_may_look_like_a_pattern(tmp_path):
    path = written(tmp_path / "[a].parquet", numbered(2))
    assert everything(Parquet(path)) == numbered(2)


def test_no_files(tmp_path):
    for path in (tmp_path, tmp_path / "part-*.parquet"):
        with pytest.raises(SourceError, match=r"holds no Parquet files: nothing matches /.*\.parq"):
            len(Parquet(path))


def test_a_file_among_several_that_changed(parts):
    source = Parquet(parts)
    reference = source.reference(0, 3)
    assert len(everything(source)) == 6
    written(parts / "b.parquet", numbered(9))
    assert list(source.read(0, 3)) == numbered(3)  # of another file
    with pytest.raises(SourceError, match=r"/b\.parquet has changed since the run began \(size"):
        list(source.read(2, 4))
    with pytest.raises(SourceError, match=r"has changed since the run began \(size"):
        reopen(reference)
    written(parts / "e.parquet", numbered(1))
    with pytest.raises(SourceError, match=r"has changed since the run began \(files 4 -> 5\)"):
        reopen(reference)


# -- what is damaged, and what is refused ------------------------------------------------------


def damage(path, group):
    """Spoil the pages of a row group."""
    column = pq.read_metadata(path).row_group(group).column(0)
    with path.open("r+b") as file:
        file.seek(column.data_page_offset)
        file.write(b"\xff" * column.total_compressed_size)


@pytest.mark.parametrize("group", [0, 1, 2])
def test_a_damaged_row_group_takes_no_other_with_it(tmp_path, monkeypatch, group):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "x.parquet", numbered(30), row_group_size=10, use_dictionary=False)
    damage(path, group)
    source = Parquet("x.parquet")
    items = everything(source)
    bad = items[group * 10 : group * 10 + 10]
    assert {type(each) for each in bad} == {BadRow}
    says = f"x.parquet, row group {group}, rows from {group * 10}: damaged ("
    assert bad[0].reason.startswith(says)
    items[group * 10 : group * 10 + 10] = numbered(30)[group * 10 : group * 10 + 10]
    assert items == numbered(30)
    check_slices(source, [5, 15, 25])


def test_a_damaged_page_takes_no_row_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_MOST_BATCH_ROWS", 10)
    path = written(
        tmp_path / "x.parquet",
        numbered(100),
        use_dictionary=False,
        compression="none",
        data_page_size=80,
        write_batch_size=10,
        write_page_checksum=True,
    )
    column = pq.read_metadata(path).row_group(0).column(0)
    with path.open("r+b") as file:
        file.seek(column.data_page_offset + column.total_compressed_size - 4)
        file.write(b"\xff\xff")
    items = everything(Parquet(path))
    assert items[:90] == numbered(90)
    assert "row group 0, rows from 90: damaged (could not verify page" in items[90].reason
    assert len(items) == 100


def test_a_text_that_is_not_utf_8_fails_its_row_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = pa.array([b"a", b"\xff", b"c"], pa.binary())
    texts = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(pa.table({"n": [0, 1, 2], "text": texts}), "x.parquet")
    first, bad, last = everything(Parquet("x.parquet"))
    assert (first, last) == ({"n": 0, "text": "a"}, {"n": 2, "text": "c"})
    assert bad.reason.startswith("x.parquet, row 1: text cannot be read ('utf-8' codec can't")


@pytest.mark.parametrize("data", [b"", b"PAR1", b"id,text\n1,2\n" * 10])
def test_what_is_no_parquet_file(tmp_path, data):
    path = tmp_path / "x.parquet"
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"x\.parquet cannot be read as Parquet \(.*\); is it"):
        len(Parquet(path))


def test_columns_that_are_not_there(tmp_path):
    path = written(tmp_path / "x.parquet", numbered(1))
    with pytest.raises(SourceError, match=r"x\.parquet has no column 'txt'; it has n, text\.$"):
        len(Parquet(path, ["n", "txt"]))


def test_no_columns():
    with pytest.raises(ValueError, match=r"^Parquet\(columns=\[\]\) reads nothing; name columns"):
        Parquet("x.parquet", [])


def test_columns_of_the_same_name(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), path)
    with pytest.raises(SourceError, match=r"has two columns of the same name; rename one"):
        len(Parquet(path))


def test_a_missing_file(tmp_path):
    with pytest.raises(SourceError, match=r"is not there"):
        len(Parquet(tmp_path / "x.parquet"))


def test_a_file_that_changed(many, tmp_path):
    reference = many.reference(0, 9)
    path = written(tmp_path / "x.parquet", numbered(3000)[::-1], row_group_size=700)
    os.utime(path, (1, 1))
    for again in (lambda: everything(many), lambda: reopen(reference)):
        with pytest.raises(SourceError, match=r"x\.parquet has changed since the run began"):
            again()


def test_without_pyarrow_the_extra_is_named(tmp_path):
    for name in ("x.parquet", "x.jsonl.zst"):
        (tmp_path / name).touch()
    script = """
import sys
sys.modules["pyarrow"] = None
from langgraph_hpc_fanout import JsonLines, Parquet
from langgraph_hpc_fanout.items.source import SourceError
for source in (Parquet("x.parquet"), JsonLines("x.jsonl.zst")):
    try:
        len(source)
    except SourceError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == [
        'x.parquet needs pyarrow: pip install "langgraph-hpc-fanout[parquet]".',
        'x.jsonl.zst needs pyarrow: pip install "langgraph-hpc-fanout[parquet]".',
    ]


def test_threads_and_forks(many):
    first, second = read_by_two_threads(many, 50)
    assert first == second == numbered(3000)
    assert list(many.read(0, 1000)) == numbered(1000)
    assert read_by_a_child(many, 1000, 2000) == numbered(2000)[1000:]
    assert list(many.read(1000, 2000)) == numbered(2000)[1000:]
