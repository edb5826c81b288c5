"""A real `langgraph dev` over a graph's folder, and what it logs."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[1]
START_SECONDS = 60
_URL = re.compile(r"API: \S*?(http://127\.0\.0\.1:\d+)")
_NO_NETWORK = {
    "LANGSMITH_TRACING": "false",
    "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    "LANGGRAPH_NO_VERSION_CHECK": "true",
}


class DevServer:
    """`langgraph dev` in a copy of an example's folder, for it leaves files where it runs.

    Args:
        example: The folder, which has a `langgraph.json`.
        place: An empty folder to work in.
        variables: What the graph reads from its environment.
    """

    def __init__(self, example: Path, place: Path, variables: dict[str, str]) -> None:
        folder = place / example.name
        shutil.copytree(example, folder, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        self._log = place / f"{example.name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*_COMMAND, "--port", str(_free_port())],
                cwd=folder,
                env=_environment() | variables,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.url = ""

    def wait(self) -> None:
        """Wait until it serves."""
        deadline = time.monotonic() + START_SECONDS
        while not self._serves():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def stop(self) -> None:
        """End it and all that it started."""
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def log(self, start: int = 0) -> str:
        """What it has logged, from a character on."""
        return self._log.read_text(encoding="utf-8", errors="replace")[start:]

    def complaints(self, start: int = 0) -> list[str]:
        """The lines of its log that warn, or tell of an error."""
        return [line for line in self.log(start).splitlines() if _complains(line)]

    def _serves(self) -> bool:
        if not self.url and (found := _URL.search(self.log())):
            self.url = found[1]
        return bool(self.url) and _is_well(self.url)


_COMMAND = [
    str(Path(sys.executable).with_name("langgraph")),
    "dev",
    "--no-browser",
    "--no-reload",
    "--n-jobs-per-worker",
    "8",
]


def _environment() -> dict[str, str]:
    """Ours without keys, proxies and coverage; Python finds this checkout first."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, **_NO_NETWORK, "PYTHONPATH": str(ROOT), "LOG_JSON": "true"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _is_well(url: str) -> bool:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    try:
        connection.request("GET", "/ok")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def _complains(line: str) -> bool:
    try:
        told = json.loads(line)
        # How long something took is the machine's doing.
        return told["level"] not in ("debug", "info") and "elapsed_seconds" not in told
    except ValueError:  # what is written before the log is set up, and what bypasses it
        return re.search(r"warning|error|traceback", line, re.IGNORECASE) is not None
