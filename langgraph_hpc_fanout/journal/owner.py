"""Who may write to a journal: one process at a time, without locks that shared disks lack.

`owner.json` says who. It is made by linking a draft to its name, which one process alone
manages to do. Whoever wants it changed, be it to take over or to give up, first makes a *claim* in
the same way: a file named after the session that it follows. So two never change it at once, and
a process that died between its claim and the change is followed like any other owner.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import orjson

from langgraph_hpc_fanout import atomic
from langgraph_hpc_fanout.journal import manifest
from langgraph_hpc_fanout.journal.errors import JournalError

FILE = "owner.json"
SILENCE = 60.0
"""An owner on another host that gave no sign for so many seconds is gone."""
_BEAT = 10.0

Clock = Callable[[], float]
"""Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, for as long as it owns a journal.

    Attributes:
        host: Name of its host.
        pid: Its id there.
        started: When it was started, in clock ticks since the host was.
        boot: Which start of which host that was.
        pid_namespace: Where its id means something.
        session: Of this ownership and no other.
        since: When it became the owner, in seconds since the epoch.
        heartbeat: When it last gave a sign, in seconds since the epoch.
    """

    host: str
    pid: int
    started: int
    boot: str
    pid_namespace: str
    session: str
    since: int
    heartbeat: int

    @classmethod
    def here(cls, now: float) -> Owner:
        """This process, in a new session."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            started=_started(os.getpid()) or 0,
            boot=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            pid_namespace=os.readlink("/proc/self/ns/pid"),  # noqa: PTH115 - no path
            session=os.urandom(8).hex(),
            since=int(now),
            heartbeat=int(now),
        )

    def is_gone(self, here: Owner, now: float) -> bool:
        """Whether it will not write any more, as far as one can tell from another process."""
        if self.boot == here.boot and self.pid_namespace == here.pid_namespace:
            return not _lives(self.pid, self.started)
        if self.boot != here.boot and self.host == here.host:
            return True
        return now - self.heartbeat > SILENCE

    def to_json(self) -> bytes:
        """The owner as a line of JSON, which has the same length at every heartbeat."""
        return orjson.dumps(asdict(self), option=orjson.OPT_APPEND_NEWLINE)

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC).isoformat(sep=" ")
        return f"process {self.pid} on {self.host} (since {since})"


class Ownership:
    """That a session of this process owns a journal, until it gives up or another takes over.

    Args:
        directory: Of the journal.
        owner: This process.
        clock: Seconds since the epoch.
    """

    def __init__(self, directory: Path, owner: Owner, clock: Clock) -> None:
        self.owner = owner
        self._directory = directory
        self._clock = clock

    @classmethod
    def claim(cls, directory: Path, *, takeover: bool, clock: Clock) -> Ownership:
        """Become the owner.

        Args:
            directory: Of the journal; exists.
            takeover: Whether to become it in the place of an owner that may be alive.
            clock: Seconds since the epoch.

        Raises:
            JournalError: If there is another one.
            OSError: If the directory cannot be written.
        """
        me = Owner.here(clock())
        while True:
            owners = _succession(directory)
            last = owners[-1] if owners else None
            if last is None:
                if atomic.create(directory / FILE, me.to_json(), me.session):
                    return cls(directory, me, clock)
            elif not takeover and not last.is_gone(me, clock()):
                raise _busy(directory, last)
            elif _claimed(directory, last, me):
                atomic.replace(directory / FILE, me.to_json(), me.session)
                for each in owners:
                    _withdraw(directory, each)
                return cls(directory, me, clock)

    def lost(self) -> JournalError | None:
        """What to say when the journal is not ours any more."""
        owner = _read(self._directory / FILE)
        if owner is not None and owner.session == self.owner.session:
            return None
        if owner is not None:
            became = (
                f"was taken over by {owner}; run the graph again when that one is done, "
                "or give it another journal."
            )
        elif (self._directory / manifest.FILE).exists():
            became = "was taken over by a process that is done; run the graph again."
        else:
            became = "was deleted while it was in use; run the graph again to begin a new one."
        return JournalError(f"The journal {self._directory} {became}", journal=str(self._directory))

    def beat(self) -> None:
        """Give a sign, if the last one was some time ago and the journal is still ours."""
        now = int(self._clock())
        if now - self.owner.heartbeat < _BEAT:
            return
        # Read and written through one descriptor: what another has put in the file's place
        # meanwhile stays as it is.
        with (self._directory / FILE).open("r+b", buffering=0) as file:
            if _parsed(file.read(), self.owner).session == self.owner.session:
                self.owner = replace(self.owner, heartbeat=now)
                os.pwrite(file.fileno(), self.owner.to_json(), 0)

    def give_up(self) -> None:
        """Let others own it."""
        leaving = replace(self.owner, session=os.urandom(8).hex())
        if _claimed(self._directory, self.owner, leaving):
            (self._directory / FILE).unlink(missing_ok=True)
            _withdraw(self._directory, self.owner)


def _busy(directory: Path, owner: Owner) -> JournalError:
    return JournalError(
        f"The journal {directory} is being written by {owner}. Wait for it, use another "
        "directory, or give Journal(..., takeover=True) if you know that it is not running any "
        "more.",
        journal=str(directory),
    )


def _claim_path(directory: Path, after: Owner) -> Path:
    return directory / f"owner-after-{after.session}.json"


def _claimed(directory: Path, after: Owner, me: Owner) -> bool:
    """Whether this process, and no other, may follow an owner."""
    if not atomic.create(_claim_path(directory, after), me.to_json(), me.session):
        return False
    if any(each.session == me.session for each in _succession(directory)):
        return True
    _withdraw(directory, after)  # another had followed it before, and is the owner now
    return False


def _withdraw(directory: Path, after: Owner) -> None:
    _claim_path(directory, after).unlink(missing_ok=True)


def _succession(directory: Path) -> list[Owner]:
    """The owner, and those who have claimed to follow it, the last of whom counts."""
    found: list[Owner] = []
    path = directory / FILE
    while (owner := _read(path)) is not None:
        if any(each.session == owner.session for each in found):
            break  # both are damaged, and tell nothing
        found.append(owner)
        path = _claim_path(directory, owner)
    return found


def _read(path: Path) -> Owner | None:
    try:
        with path.open("rb") as file:
            changed = int(os.fstat(file.fileno()).st_mtime)
            unknown = Owner("an unknown host", 0, 0, "", "", "unknown", changed, changed)
            return _parsed(file.read(), unknown)
    except FileNotFoundError:
        return None


def _parsed(content: bytes, otherwise: Owner) -> Owner:
    """The owner in a file; `otherwise` where it is damaged."""
    try:
        return Owner(**orjson.loads(content))
    except (orjson.JSONDecodeError, TypeError):
        return otherwise


def _started(pid: int) -> int | None:
    """When a process was started, in clock ticks since its host was; None if it is no more."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *numbers = status[status.rindex(b")") + 1 :].split()
    return None if state in b"ZX" else int(numbers[18])


def _lives(pid: int, started: int) -> bool:
    found = _started(pid)
    return found == started or (found is None and _is_hidden(pid))


def _is_hidden(pid: int) -> bool:
    """Whether a process lives of which nothing can be seen: login nodes hide other users'."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    return False  # ours, and ended: its parent has not looked yet
