"""Endpoints in a process of their own, told what to do through a pipe.

The process is a plain `python -m`, not a child of multiprocessing: it neither forks a process
that has threads nor imports the caller's main module again, and it ends by itself when its
parent dies, because the pipe does.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from langgraph_hpc_fanout.testing.fleet.host import HostSpec, LocalHost
from langgraph_hpc_fanout.testing.fleet.record import HostRecord
from langgraph_hpc_fanout.testing.fleet.spec import FakeEndpoint

_PATIENCE = 30.0
_DIED = "A process of the fake fleet has died; see its messages on stderr."
_NOT_RUNNING = "This process of the fake fleet is not running."


class RemoteHost:
    """A `LocalHost` in another process."""

    def __init__(self, spec: HostSpec) -> None:
        self._spec = spec
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Id of the process.

        Raises:
            RuntimeError: If it does not run.
        """
        if self._process is None:
            raise RuntimeError(_NOT_RUNNING)
        return self._process.pid

    def start(self) -> Mapping[int, int]:
        """Start to serve; returns the ports, by place in the fleet."""
        spec = _dumps(self._spec)
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self._process = subprocess.Popen(  # noqa: S603 - our own code
            [sys.executable, "-P", "-c", f"from {__name__} import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(os.environ, PYTHONPATH=path),
            start_new_session=True,  # Ctrl-C is for the parent, which stops it
        )
        try:
            self._write(spec)
            ports: Mapping[int, int] = self._read()
        except BaseException:
            self.stop()
            raise
        return ports

    def stop(self) -> None:
        """Stop and leave nothing behind."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # it has died before us
                    pipe.close()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self, index: int) -> None:
        """Stop listening at an endpoint and drop its connections."""
        self._ask("kill", index)

    def revive(self, index: int) -> None:
        """Listen again, on the same port."""
        self._ask("revive", index)

    def change(self, index: int, spec: FakeEndpoint) -> None:
        """Let an endpoint go on by another spec."""
        self._ask("change", index, spec)

    def record(self) -> HostRecord:
        """What was served so far."""
        record: HostRecord = self._ask("record")
        return record

    def reset_record(self) -> None:
        """Forget what was served so far."""
        self._ask("reset_record")

    def _ask(self, method: str, *arguments: Any) -> Any:
        with self._lock:
            self._write(_dumps((method, arguments)))
            return self._read()

    def _write(self, message: bytes) -> None:
        stdin = self._process.stdin if self._process is not None else None
        if stdin is None:
            raise RuntimeError(_NOT_RUNNING)
        try:
            stdin.write(message)
            stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(_DIED) from None

    def _read(self) -> Any:
        stdout = self._process.stdout if self._process is not None else None
        if stdout is None:
            raise RuntimeError(_NOT_RUNNING)
        try:
            answer = pickle.load(stdout)  # noqa: S301 - from a process that we started
        except (EOFError, pickle.UnpicklingError):
            raise RuntimeError(_DIED) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer


def _dumps(message: object) -> bytes:
    try:
        return pickle.dumps(message)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            "FakeFleet(processes=...) needs answer rules and conditions that are functions of an "
            f"importable module: {error}"
        ) from error


def obey(commands: BinaryIO, answers: BinaryIO) -> None:
    """Serve what the first message says until the pipe ends."""
    host = LocalHost(pickle.load(commands))  # noqa: S301 - from the parent process
    try:
        _reply(answers, host.start)
        while True:
            method, arguments = pickle.load(commands)  # noqa: S301 - from the parent process
            _reply(answers, getattr(host, method), *arguments)
    except (EOFError, BrokenPipeError):
        pass
    finally:
        host.stop()


def _reply(answers: BinaryIO, work: Any, *arguments: Any) -> None:
    try:
        result = work(*arguments)
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        result = error
    pickle.dump(result, answers)
    answers.flush()


def main() -> None:
    """Take the pipes for itself, so that a `print` in an answer rule does no harm."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    obey(sys.stdin.buffer, answers)
