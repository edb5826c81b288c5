"""Sources by what people call them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from langgraph_hpc_fanout import Csv, JsonLines, Parquet, TextFiles
from langgraph_hpc_fanout.items.opening import is_path, reopen, source_of
from langgraph_hpc_fanout.items.source import SourceError


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("papers.parquet", Parquet),
        ("papers/part-*.parquet", Parquet),
        ("papers.jsonl", JsonLines),
        ("papers.2026.jsonl.gz", JsonLines),
        ("papers.ndjson.zst", JsonLines),
        ("papers.csv", Csv),
        ("papers.CSV.zst", Csv),
        ("papers.tsv.gz", Csv),
        ("/", TextFiles),
        (Path("papers.jsonl"), JsonLines),
        (os.fsencode("papers.jsonl"), JsonLines),
    ],
)
def test_the_suffix_tells(name, kind):
    source = source_of(name)
    assert type(source) is kind
    assert source.name == os.fsdecode(name)


@pytest.mark.parametrize("name", ["papers.xlsx", "papers", "papers.json", "papers.gz", "a/b"])
def test_unknown_suffixes(name):
    says = (
        rf"^{name} is of no known kind; sources are \.jsonl, \.ndjson, \.csv, \.tsv, \.parquet "
        r"\(the first four may end in \.gz or \.zst\), and directories of text files\.$"
    )
    with pytest.raises(SourceError, match=says):
        source_of(name)


@pytest.mark.parametrize(
    "text", ["papers.parquet", "papers.xlsx", "papers/", "./papers", "a/b", "x.csv.gz", "x.gz"]
)
def test_paths(text):
    assert is_path(text)


@repeatable
@given(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True))
def test_a_state_key_is_no_path(key):
    assert not is_path(key)


@pytest.mark.parametrize("reference", [{}, {"kind": "excel"}])
def test_references_of_unknown_kinds(reference):
    with pytest.raises(SourceError, match=r"source of the unknown kind .*; continue the run with"):
        reopen(reference)


def test_opening_imports_nothing_heavy():
    script = """
import sys
from langgraph_hpc_fanout.items.opening import reopen, source_of
for name in ("x.jsonl", "x.csv", "x.parquet", "/"):
    source_of(name)
print({"aiohttp", "langchain_core", "langgraph", "numpy", "pyarrow", "pydantic"} & {*sys.modules})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "set()\n"
