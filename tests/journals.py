"""What tests of journals share: outcomes, and logs that are written and opened again."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from contextlib import contextmanager

from langgraph_hpc_fanout.journal.log import Log
from langgraph_hpc_fanout.records import Failure, Outcome


def answer(index, value="x", key=None, **more):
    return Outcome(key or f"k{index}", index, ok=True, value=value, attempts=1, **more)


def failed(index, key=None, message="too slow"):
    return Outcome(key or f"k{index}", index, ok=False, error=Failure("timeout", message))


def content_key(number):
    """A key as the package makes them of what is asked."""
    return hashlib.blake2b(b"%d" % number, digest_size=16).hexdigest()


@contextmanager
def held(log, **how):
    """A log that this process may write."""
    log.acquire(**how)
    try:
        yield log
    finally:
        log.release()


def write(log, *some, run="r", scope=""):
    """Append outcomes, each at the place of its index; returns where they stand."""
    with held(log):
        log.begin(run, {})
        return [log.append(run, scope, each.index, each) for each in some]


def reopened(log):
    """What another process would see."""
    other = Log(log.directory)
    other.refresh()
    return other


def found(log, *keys, scope=""):
    """The values that a log knows for these keys."""
    hits = [log.find(scope, key) for key in keys]
    return [None if hit is None else hit.outcome.value for hit in hits]


def values(log, run="r", *span, **layout):
    """The values of a run, in input order."""
    return [each.value for each in log.outcomes(run, *span, **layout)]


def segment_files(log):
    return sorted((log.directory / "segments").iterdir())


def python(script, *arguments, **options):
    """A fresh interpreter that runs a script, with pipes to it."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        **options,
    )
