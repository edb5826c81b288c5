"""Where and with what the figures were taken."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks import environment

_PACKAGES = (
    "langgraph",
    "langchain-core",
    "langchain-openai",
    "openai",
    "aiohttp",
    "orjson",
    "uvloop",
)
_OF_PEERS = ("litellm", "openai")


class Journey:
    """What may change while a benchmark runs: the code, and who else uses the machine."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._commit = _commit()
        self._load = os.getloadavg()[0]

    @property
    def seconds(self) -> float:
        """How long it has been."""
        return time.perf_counter() - self._started

    def describe(self) -> str:
        """From when to when it went, in a sentence."""
        when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        commits = " to ".join(dict.fromkeys((self._commit, _commit())))
        load = f"{self._load:.1f} before, {os.getloadavg()[0]:.1f} after"
        return f"Measured {when}, commit {commits}, load {load}."


def describe() -> dict[str, str]:
    """The facts that a reader needs to judge the figures, by name."""
    return {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "Python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
        **{f"{package}, for peers": environment.version(package) for package in _OF_PEERS},
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
