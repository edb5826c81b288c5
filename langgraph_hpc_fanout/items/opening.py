"""Sources by what people call them: a path, or the reference that a branch carries."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from langgraph_hpc_fanout.items.files import COMPRESSED, suffix_of
from langgraph_hpc_fanout.items.source import Source, SourceError

_KINDS = {
    "csv": "delimited.Csv",
    "dead_letters": "dead_letters.DeadLetters",
    "json_lines": "json_lines.JsonLines",
    "openai_batch": "batch.OpenAIBatch",
    "parquet": "parquet.Parquet",
    "product": "product.Product",
    "rows": "rows.Rows",
    "spool": "spool.Spool",
    "text_files": "texts.TextFiles",
}
_SUFFIXES = {
    ".jsonl": "json_lines",
    ".ndjson": "json_lines",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}


def source_of(path: str | os.PathLike[str]) -> Source:
    """The source that a path means, by its suffix; a directory means the `*.txt` in it.

    Raises:
        SourceError: If it is of no known kind.
    """
    name = os.fsdecode(path)
    kind = _SUFFIXES.get(suffix_of(name))
    if kind is None and Path(name).is_dir():
        kind = "text_files"
    if kind is None:
        raise SourceError(
            f"{name} is of no known kind; sources are {', '.join(_SUFFIXES)} (the first four may "
            f"end in {' or '.join(COMPRESSED)}), and directories of text files."
        )
    return cast(Source, _class_of(kind)(name))


def is_path(text: str) -> bool:
    """Whether a text means a file or a directory, and not a key of graph state."""
    return os.sep in text or bool(Path(text).suffix)


def reopen(reference: Mapping[str, Any]) -> Source:
    """The source of a reference, to read the items that it was made for.

    Raises:
        SourceError: If its files are not there any more, or have changed; or if it is of a kind
            that this version does not know.
    """
    kind = reference.get("kind")
    if kind not in _KINDS:
        raise SourceError(
            f"Items come from a source of the unknown kind {kind!r}; continue the run with the "
            "version that began it."
        )
    return cast(Source, _class_of(kind).reopened(reference))


def _class_of(kind: str) -> Any:
    # Imported when wanted: pyarrow and LangGraph are not needed for all of them.
    module, _, name = _KINDS[kind].rpartition(".")
    return getattr(importlib.import_module(f"{__package__}.{module}"), name)
