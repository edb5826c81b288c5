"""Processes of the stack: who descends from whom, and how all of them end.

Parsl starts its interchange and its worker pools in process groups of their own, and they
outlive a user endpoint that is killed. The stack's host adopts such orphans, so everything
that any part of the stack ever started is a descendant of the host until it is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One process, as /proc/PID/stat shows it.

    Attributes:
        pid: Its id.
        parent: The id of its parent.
        session: The id of its session.
        state: One letter; Z is a zombie.
        started: When it started, in clock ticks since the machine did.
    """

    pid: int
    parent: int
    session: int
    state: str
    started: int

    @property
    def command(self) -> str:
        """Its command line, or nothing when it is gone."""
        with contextlib.suppress(OSError):
            line = (_PROC / str(self.pid) / "cmdline").read_bytes()
            return line.replace(b"\0", b" ").decode(errors="replace").strip()
        return ""


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def processes() -> Iterator[Process]:
    """All processes that can be seen."""
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                # The name comes in brackets and may itself hold blanks and brackets.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                yield Process(
                    int(folder.name), int(fields[1]), int(fields[3]), fields[0], int(fields[19])
                )


def descendants(pid: int) -> list[Process]:
    """The children of a process, their children, and so on; parents come first."""
    children: dict[int, list[Process]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process)
    found, unseen = [], [pid]
    while unseen:
        more = children.get(unseen.pop(), [])
        found += more
        unseen += [process.pid for process in more]
    return found


def session(pid: int) -> list[Process]:
    """Who lives in the session that a process leads or led."""
    return [process for process in processes() if process.session == pid and process.state != "Z"]


def send(pids: Collection[int], number: signal.Signals) -> None:
    """Send a signal to each that still lives."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def end_all(find: Callable[[], list[Process]], patience: float = 10.0) -> None:
    """Kill what `find` finds until it finds nothing more.

    They are killed and not asked, as nothing of a stack is kept.

    Raises:
        RuntimeError: If some are left when the patience is over, in seconds.
    """
    deadline = time.monotonic() + patience
    while alive := [process for process in find() if process.state != "Z"]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"Processes survive SIGKILL: {[p.pid for p in alive]}.")
        send([process.pid for process in alive], signal.SIGKILL)
        time.sleep(0.01)


def reap_orphans(parent: int, own: Collection[int]) -> None:
    """Bury adopted children that have ended; those in `own` are somebody else's to wait for."""
    for process in processes():
        if process.parent == parent and process.state == "Z" and process.pid not in own:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


def bury_all(parent: int, patience: float = 10.0) -> None:
    """Wait for all children, killed ones and adopted ones; for the very end."""
    deadline = time.monotonic() + patience
    while descendants(parent) and time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)
