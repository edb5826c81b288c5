"""An object in a process of its own, told what to do through a pipe.

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
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Protocol

_PATIENCE = 30.0


class Served(Protocol):
    """What lives at the other end."""

    def start(self) -> Any:
        """Start; what it returns is sent."""
        ...

    def stop(self) -> None:
        """Stop and leave nothing behind."""
        ...


class Pipe:
    """The parent's end.

    Args:
        module: The module whose `main` serves at the other end.
        owner: Whose process it is, in the words of errors.
        setting: The setting that wants a process, in the words of errors.
    """

    def __init__(self, module: str, owner: str, setting: str) -> None:
        self._module = module
        self._owner = owner
        self._setting = setting
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Id of the process.

        Raises:
            RuntimeError: If it does not run.
        """
        if self._process is None:
            raise RuntimeError(self._not_running)
        return self._process.pid

    def start(self, spec: object) -> Any:
        """Start the process with a spec; returns what the object there does when it starts."""
        message = self._dumps(spec)
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self._process = subprocess.Popen(  # noqa: S603 - our own code
            [sys.executable, "-P", "-c", f"from {self._module} import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(os.environ, PYTHONPATH=path),
            start_new_session=True,  # Ctrl-C is for the parent, which stops it
        )
        try:
            self._write(message)
            return self._read()
        except BaseException:
            self.stop()
            raise

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

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the object; returns, or raises, what it does."""
        with self._lock:
            self._write(self._dumps((method, arguments)))
            return self._read()

    @property
    def _not_running(self) -> str:
        return f"This process of {self._owner} is not running."

    @property
    def _died(self) -> str:
        return f"A process of {self._owner} has died; see its messages on stderr."

    def _write(self, message: bytes) -> None:
        stdin = self._process.stdin if self._process is not None else None
        if stdin is None:
            raise RuntimeError(self._not_running)
        try:
            stdin.write(message)
            stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(self._died) from None

    def _read(self) -> Any:
        stdout = self._process.stdout if self._process is not None else None
        if stdout is None:
            raise RuntimeError(self._not_running)
        try:
            answer = pickle.load(stdout)  # noqa: S301 - from a process that we started
        except (EOFError, pickle.UnpicklingError):
            raise RuntimeError(self._died) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _dumps(self, message: object) -> bytes:
        try:
            return pickle.dumps(message)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"{self._setting} needs answer rules and conditions that are functions of an "
                f"importable module: {error}"
            ) from error


def obey(make: Callable[[Any], Served], commands: BinaryIO, answers: BinaryIO) -> None:
    """Serve what is made of the first message until the pipe ends."""
    served = make(pickle.load(commands))  # noqa: S301 - from the parent process
    try:
        _reply(answers, served.start)
        while True:
            method, arguments = pickle.load(commands)  # noqa: S301 - from the parent process
            _reply(answers, getattr(served, method), *arguments)
    except (EOFError, BrokenPipeError):
        pass
    finally:
        served.stop()


def _reply(answers: BinaryIO, work: Any, *arguments: Any) -> None:
    try:
        result = work(*arguments)
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        result = error
    pickle.dump(result, answers)
    answers.flush()


def serve(make: Callable[[Any], Served]) -> None:
    """Take the pipes for itself, so that a `print` in an answer rule does no harm."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    obey(make, sys.stdin.buffer, answers)
