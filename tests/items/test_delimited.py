"""CSV: what was written is read, and no bad row takes others with it."""

from __future__ import annotations

import csv
import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable
from sources import (
    COMPRESSED,
    bounds,
    check_slices,
    everything,
    read_by_two_threads,
    scratch,
    write,
)

from langgraph_hpc_fanout import Csv
from langgraph_hpc_fanout.items import delimited, lines
from langgraph_hpc_fanout.items.opening import reopen
from langgraph_hpc_fanout.items.source import BadRow, SourceError

values = st.text(st.sampled_from('ab ,;\t"\n\r\u00e9\u2028'), max_size=6)


def written(path, fields, rows, **dialect):
    text = io.StringIO(newline="")
    writer = csv.writer(text, **dialect)
    writer.writerow(fields)
    writer.writerows(rows)
    return write(path, text.getvalue().encode())


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Read a file of these bytes by its short name."""
    monkeypatch.chdir(tmp_path)

    def read(data, name="x.csv", **options):
        write(tmp_path / name, data)
        return Csv(name, **options)

    return read


@repeatable
@given(
    st.lists(st.tuples(values, values), max_size=12),
    bounds,
    st.sampled_from(COMPRESSED),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([",", ";", "\t"]),
)
def test_what_was_written_is_read(rows, cuts, suffix, ends, delimiter):
    with scratch() as directory:
        path = written(
            directory / f"x.csv{suffix}",
            ["a", "b c"],
            rows,
            lineterminator=ends,
            delimiter=delimiter,
            quoting=csv.QUOTE_ALL,
        )
        source = Csv(path, delimiter)
        assert source.fields() == ("a", "b c")
        assert everything(source) == [{"a": a, "b c": b} for a, b in rows]
        check_slices(source, cuts)


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_slices_begin_anywhere(tmp_path, suffix):
    source = Csv(written(tmp_path / f"x.csv{suffix}", ["n"], ([f"{n}\n"] for n in range(2500))))
    for start in (0, 1023, 1024, 1025, 2499):
        expected = [{"n": f"{n}\n"} for n in range(start, 2500)]
        assert list(source.read(start, 2500)) == expected
        assert list(reopen(source.reference(start, 2500)).read(start, 2500)) == expected
    first, second = read_by_two_threads(source)
    assert first == second == everything(source)


@pytest.mark.parametrize("name", ["x.tsv", "x.tsv.gz", "x.TSV"])
def test_tabs_by_default_where_the_name_says_so(read, name):
    source = read(b"a\tb\n1,5\t2\n", name)
    assert everything(source) == [{"a": "1,5", "b": "2"}]
    check_slices(source)


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b"", []),
        (b"\n\n", []),
        (b"a,b", []),
        (b"a,b\r\n", []),
        (b"\xef\xbb\xbfa,b\n1,2\n", [("1", "2")]),
        (b"\xef\xbb\xbf", []),
        (b"\n\na,b\n\n1,2\n\n\n3,4", [("1", "2"), ("3", "4")]),
        (b'a,b\n,""\n', [("", "")]),
        (b'a,b\n"x ""y""",5" pipe\n', [('x "y"', '5" pipe')]),
    ],
)
def test_shapes_of_files(read, data, rows):
    source = read(data)
    assert everything(source) == [{"a": a, "b": b} for a, b in rows]
    check_slices(source)


QUOTE = "; is a quote missing or stray?"


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize(
    ("row", "why"),
    [
        (b"1", "1 values for 2 fields"),
        (b"1,2,3", "3 values for 2 fields"),
        (b"1,\xff", "not UTF-8 (byte 3)"),
        (b'1,"x"y', f"',' expected after '\"'{QUOTE}"),
    ],
)
def test_a_bad_row_is_named_and_the_others_are_read(read, row, why, at):
    good = [b"good,1", b'"good\n\n",2', b"good,3"]
    place = [2, 3, 6][at]
    source = read(b"\n".join([b"a,b", *good[:at], row, *good[at:]]))
    items = everything(source)
    assert items.pop(at) == BadRow(f"x.csv, line {place}: {why}")
    assert [item["b"] for item in items] == ["1", "2", "3"]
    check_slices(source)


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_a_stray_quote_takes_no_other_row_with_it(read, suffix):
    rows = b"".join(b"%d,x\n" % n for n in range(3000))
    source = read(b'a,b\n1,"stray\n' + rows, f"x.csv{suffix}")
    bad, *others = everything(source)
    assert bad.reason.startswith(f"x.csv{suffix}, line 2: unexpected end of data; is a quote")
    assert others == [{"a": str(n), "b": "x"} for n in range(3000)]
    check_slices(source, [1, 2, 1030])


def test_a_bad_byte_in_a_row_of_several_lines(read):
    source = read(b'a\n"x\n\xff\ny"\nz\n')
    assert everything(source) == [BadRow("x.csv, line 2: not UTF-8 (byte 1)"), {"a": "z"}]


def test_a_value_that_is_longer_than_the_csv_module_allows(read):
    source = read(b"a\n" + b"x" * 200_000 + b"\ny\n")
    bad, good = everything(source)
    assert "line 2: field larger than field limit (131072)" in bad.reason
    assert good == {"a": "y"}


def test_a_line_that_is_too_long_is_not_held_in_memory(read, monkeypatch):
    for module in (lines, delimited):
        monkeypatch.setattr(module, "MOST_BYTES", 8)
    source = read(b"a\n" + b"1" * 100 + b"\n22\n")
    bad, good = everything(source)
    assert "line 2: longer than" in bad.reason
    assert good == {"a": "22"}
    check_slices(source)


# -- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"a,,c\n1,2,3\n", r"^x\.csv: field 2 has no name; name it in the first row\."),
        (b"a,b,a\n1,2,3\n", r"^x\.csv: two fields are named 'a'; rename one\."),
        (b"a,\xff\n", r"^x\.csv, line 1: no names of fields can be read \('utf-8' codec"),
        (b'a,"b', r"^x\.csv, line 1: no names of fields can be read \(unexpected end of data"),
        (b"a,b\r1,2\r", r"^x\.csv, line 1: no names of fields can be read \(new-line character"),
    ],
)
def test_headers_that_are_none(read, data, says):
    for look in (len, Csv.fields):
        with pytest.raises(SourceError, match=says):
            look(read(data))


@pytest.mark.parametrize("delimiter", ["", ",,", "\n", "\r", '"'])
def test_delimiters_that_are_none(delimiter):
    with pytest.raises(ValueError, match=r"^Csv\(delimiter=.*\) must be one character, such as"):
        Csv("x.csv", delimiter)


def test_fields_are_those_of_the_file_that_was_counted(read):
    source = read(b"a,b\n1,2\n")
    assert source.fields() == ("a", "b")
    read(b"c\n3\n")
    assert everything(source) == [{"c": "3"}]
    assert source.fields() == ("c",)


def test_a_file_that_changed(read, tmp_path):
    source = read(b"a\n1\n")
    reference = source.reference(0, 1)
    (tmp_path / "x.csv").write_bytes(b"a\n2\n")
    os.utime(tmp_path / "x.csv", (1, 1))
    for again in (lambda: everything(source), lambda: reopen(reference)):
        with pytest.raises(SourceError, match=r"^x\.csv has changed since the run began"):
            again()
