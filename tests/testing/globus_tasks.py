"""Tasks of the Globus Compute tests; workers import them, by PYTHONPATH."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

FOLDER = str(Path(__file__).parent)
PATIENCE = 100


def double(number):
    return 2 * number


def fail():
    raise KeyError("nothing there")


def nap(seconds):
    time.sleep(seconds)
    return seconds


def wait_in(folder):
    """Tell who we are in a file, and wait for the file `go`."""
    Path(folder, str(os.getpid())).touch()
    while not Path(folder, "go").exists():
        time.sleep(0.05)


def length(text):
    return len(text)


def where():
    return os.getpid(), os.environ.get("STACK_TEST")


def start_sleeper():
    """A process that the task leaves behind, in a session of its own."""
    return subprocess.Popen(["sleep", "600"], start_new_session=True).pid


def eventually(holds, patience=PATIENCE):
    deadline = time.monotonic() + patience
    while not (value := holds()):
        if time.monotonic() > deadline:
            raise AssertionError("It never came true.")
        time.sleep(0.05)
    return value
