"""Where and with what the figures were taken."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

_PACKAGES = (
    "langgraph",
    "langchain-core",
    "langchain-openai",
    "openai",
    "aiohttp",
    "orjson",
    "uvloop",
)


class Journey:
    """What may change while the benchmarks run: the code and who else uses the machine."""

    def __init__(self) -> None:
        self._commits: dict[str, None] = {}
        self._loads: list[float] = []
        self.look()

    def look(self) -> None:
        """Take note; called between benchmarks."""
        self._commits[_commit()] = None
        self._loads.append(os.getloadavg()[0])

    def describe(self) -> dict[str, str]:
        """The facts, by name."""
        return {
            "commit": ", then ".join(self._commits),
            "load": f"{min(self._loads):.1f} to {max(self._loads):.1f} between benchmarks",
        }


def describe() -> dict[str, str]:
    """The facts that a reader needs to judge the figures, by name."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "Python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor()


def _commit() -> str:
    """The commit, and whether there was more in the checkout than it holds."""
    root = Path(__file__).parent
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    changed = _git(root, "status", "--porcelain", "--", ":/langgraph_hpc_fanout")
    return f"{commit} with changes not committed" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or ("" if done.returncode == 0 else "unknown")
