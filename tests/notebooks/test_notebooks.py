"""The notebooks: executed for real, and committed as they were executed."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import nbformat
import pytest

from notebooks.execute import execute, read, sources

MOST_BYTES = 150_000
OF_ONE_MACHINE = re.compile(
    r"/(home|root|tmp|work|mnt|Users|usr|opt|scratch)/|127\.0\.0\.1|localhost|://|0x[0-9a-f]{6}"
)
LINK = re.compile(r"\]\((?!https?://)([^)#]+)")

each_notebook = pytest.mark.parametrize("source", sources(), ids=lambda source: source.stem)


def committed(source):
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def texts(notebook):
    """Everything in the outputs but pictures."""
    for output in outputs(notebook):
        shown = output.get("data", {"text/plain": output.get("text", "")})
        yield from (value for kind, value in shown.items() if not kind.startswith("image/"))


def pictures(notebook):
    return [
        base64.b64decode(output.data["image/png"])
        for output in outputs(notebook)
        if "image/png" in output.get("data", {})
    ]


def first_fan_out(notebook):
    shown = "\n".join(texts(notebook))
    view = re.search(r"^screen: (\d+)/(\d+) done, (\d+) ok, (\d+) failed", shown, re.MULTILINE)
    done, total, ok, failed = map(int, view.groups())
    assert done == total == ok + failed == 24
    assert ok >= 12
    assert "Item 1 cannot be asked: it has no field 'smiles'" in shown
    assert re.search(r"^the model +\d+% of the classes right$", shown, re.MULTILINE)
    assert "guessing      33% of" in shown
    assert "always low    54% of" in shown
    (plot,) = pictures(notebook)
    assert plot.startswith(b"\x89PNG")
    assert len(plot) > 5_000


WHAT_IT_SHOWS = {"01_first_fan_out": first_fan_out}


@pytest.mark.real_llm
@pytest.mark.timeout(300)
@each_notebook
def test_it_runs_and_shows_what_it_should(source):
    notebook = read(source)
    execute(notebook)
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    said = [output.text for output in outputs(notebook) if output.get("name") == "stderr"]
    assert all(re.match(r"screen: \d+ of \d+ failed, ", text) for text in said)
    WHAT_IT_SHOWS[source.stem](notebook)


@each_notebook
def test_what_is_committed_was_executed_from_the_source(source):
    found, wanted = committed(source), read(source)
    assert [(c.id, c.cell_type, c.source) for c in found.cells] == [
        (c.id, c.cell_type, c.source) for c in wanted.cells
    ], "make notebooks"
    assert found.metadata == wanted.metadata
    code = [cell for cell in found.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    WHAT_IT_SHOWS[source.stem](found)


@each_notebook
def test_what_is_committed_is_small_and_of_no_one_machine(source):
    assert source.with_suffix(".ipynb").stat().st_size < MOST_BYTES
    for text in texts(committed(source)):
        assert OF_ONE_MACHINE.search(text) is None, text
    assert not any(cell.metadata for cell in committed(source).cells)


@each_notebook
def test_its_links_lead_somewhere(source):
    linked = [
        target
        for cell in read(source).cells
        if cell.cell_type == "markdown"
        for target in LINK.findall(cell.source)
    ]
    assert linked
    assert [target for target in linked if not Path(source.parent, target).exists()] == []
