"""The environment of peers that ours has no room for: made when first wanted, pinned as ours is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_PINS = _ROOT / "requirements" / "peers.txt"
_DIRECTORY = _ROOT / ".venv-peers"
_PYTHON = _DIRECTORY / "bin" / "python"
_MADE_OF = _DIRECTORY / "made-of.txt"


def python() -> str:
    """Its interpreter.

    Raises:
        RuntimeError: If it cannot be made; what pip says is on stderr.
    """
    pins = _PINS.read_text()
    if not _MADE_OF.exists() or _MADE_OF.read_text() != pins:
        _make()
        _MADE_OF.write_text(pins)
    return str(_PYTHON)


def version(package: str) -> str:
    """The version of a package that is pinned for it."""
    pin = re.search(rf"^{package}==(\S+)", _PINS.read_text(), re.MULTILINE)
    return pin[1] if pin else "not pinned"


def _make() -> None:
    print(f"making {_DIRECTORY.name} (half a minute)", file=sys.stderr)
    pip = (_PYTHON, "-m", "pip", "install", "-qq", "--disable-pip-version-check")
    try:
        subprocess.run((sys.executable, "-m", "venv", "--clear", _DIRECTORY), check=True)
        subprocess.run((*pip, "--no-deps", "--require-hashes", "-r", _PINS), check=True)
    except subprocess.CalledProcessError as error:
        raise RuntimeError(
            f"{_DIRECTORY.name} cannot be made from {_PINS.name}: {error} "
            "Is a package index within reach?"
        ) from None
