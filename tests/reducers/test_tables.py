"""Tables: outcomes as a Parquet file, and its counts in state."""

from __future__ import annotations

import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from properties import is_plain
from some_outcomes import MIXED, good

from langgraph_hpc_fanout import reducers


def test_a_table_is_written_and_counted(tmp_path):
    path = tmp_path / "runs" / "screen.parquet"
    counts = reducers.table(path)(iter(MIXED))
    assert counts == {"path": str(path), "rows": 3, "ok": 2, "failed": 1}
    assert is_plain(counts)
    assert pq.read_table(path)["value"].to_pylist() == ["a", None, "c"]


def test_it_may_be_called_again(tmp_path):
    reduce = reducers.table(tmp_path / "out.parquet", row_group=1, values=pa.string())
    assert [reduce(MIXED)["rows"], reduce([])["rows"], reduce(MIXED)["rows"]] == [3, 0, 3]
    assert pq.ParquetFile(tmp_path / "out.parquet").metadata.num_rows == 3


def test_the_path_is_that_of_the_time_when_it_was_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reduce = reducers.table("out.parquet")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert reduce(MIXED)["path"] == str(tmp_path / "out.parquet")


def test_a_reducer_that_fails_leaves_the_older_table(tmp_path):
    reduce = reducers.table(tmp_path / "out.parquet", values=pa.int64())
    reduce([good(0, 1)])
    with pytest.raises(ValueError, match="The value of item 0"):
        reduce([good(0, "one")])
    assert pq.read_table(tmp_path / "out.parquet")["value"].to_pylist() == [1]
    assert list(tmp_path.iterdir()) == [tmp_path / "out.parquet"]


def test_without_pyarrow_no_such_reducer_is_made(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"table needs pyarrow: .*\[parquet\]"):
        reducers.table(tmp_path / "out.parquet")


def test_settings_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match=r"table\(row_group=0\) must be at least one byte"):
        reducers.table(tmp_path / "out.parquet", row_group=0)
    with pytest.raises(TypeError, match=r"table\(values=<class 'str'>\) is no Arrow type"):
        reducers.table(tmp_path / "out.parquet", values=str)
