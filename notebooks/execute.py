"""Executes the notebooks: every `NN_name.py` becomes `NN_name.ipynb`, with outputs.

`make notebooks` runs it. The `.py` is what people write (jupytext's percent format). The
`.ipynb` is made of it and holds nothing that differs from machine to machine without need:
cell ids count, and there are no timestamps and no versions.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jupytext
import nbclient
import nbformat
from nbformat import NotebookNode

HERE = Path(__file__).parent
CELL_SECONDS = 120
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def sources() -> list[Path]:
    """The notebooks as they are written."""
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


def read(source: Path) -> NotebookNode:
    """A notebook without outputs."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{number}"
    notebook.metadata = nbformat.from_dict(
        {
            "jupytext": {"formats": "ipynb,py:percent"},
            "kernelspec": KERNEL,
            "language_info": {"name": "python"},
        }
    )
    return notebook


def execute(notebook: NotebookNode) -> None:
    """Run all cells in a kernel of their own; outputs are added to the notebook.

    The kernel takes the package that lies beside this folder, and shows progress as it does
    where nobody has asked for anything else.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell raises.
        nbclient.exceptions.CellTimeoutError: If a cell takes more than two minutes.
    """
    metadata = nbformat.from_dict(notebook.metadata)
    environment = {k: v for k, v in os.environ.items() if k != "HPC_FANOUT_PROGRESS"}
    path = [str(HERE.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    client = nbclient.NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name=KERNEL["name"],
        resources={"metadata": {"path": str(HERE)}},
        record_timing=False,
    )
    client.execute(env=environment)
    notebook.metadata = metadata  # without the kernel's version of Python


def main() -> None:
    """Execute all notebooks, or those that are named on the command line."""
    named = [Path(name).with_suffix(".py") for name in sys.argv[1:]]
    for source in named or sources():
        notebook = read(source)
        execute(notebook)
        target = source.with_suffix(".ipynb")
        nbformat.write(notebook, target)
        print(target)


if __name__ == "__main__":
    main()
