"""The manifest: what a journal says about itself, or that it is none of ours."""

from __future__ import annotations

import orjson
import pytest

import langgraph_hpc_fanout
from langgraph_hpc_fanout.journal import manifest
from langgraph_hpc_fanout.journal.errors import JournalError


def test_a_manifest_is_made_once(tmp_path):
    assert manifest.read(tmp_path) is None
    manifest.ensure(tmp_path)
    made = manifest.read(tmp_path)
    assert (made.format, made.package) == (1, langgraph_hpc_fanout.__version__)
    manifest.ensure(tmp_path)
    assert manifest.read(tmp_path) == made


def test_a_journal_made_anew_is_another_one(tmp_path):
    manifest.ensure(tmp_path)
    before = manifest.read(tmp_path)
    (tmp_path / manifest.FILE).unlink()
    manifest.ensure(tmp_path)
    assert manifest.read(tmp_path).id != before.id


def test_an_unknown_format_is_refused_by_name(tmp_path):
    later = {"format": 7, "package": "2.1.0", "created": "", "id": "", "more": 1}
    (tmp_path / manifest.FILE).write_bytes(orjson.dumps(later))
    says = r"is of format 7, written by langgraph-hpc-fanout 2\.1\.0; this version reads format 1\."
    for look in (manifest.read, manifest.ensure):
        with pytest.raises(JournalError, match=says) as refused:
            look(tmp_path)
        assert refused.value.journal == str(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1", b'{"name": "a package"}'])
def test_another_file_of_that_name_is_refused(tmp_path, content):
    (tmp_path / manifest.FILE).write_bytes(content)
    with pytest.raises(JournalError, match=r"journal\.json is not the manifest of a journal"):
        manifest.read(tmp_path)
