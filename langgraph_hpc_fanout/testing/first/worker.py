"""The gateway in a process of its own, so that its work is not the caller's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from langgraph_hpc_fanout.testing.first.gateway import Gateway
from langgraph_hpc_fanout.testing.first.host import LocalHost
from langgraph_hpc_fanout.testing.first.settings import Settings
from langgraph_hpc_fanout.testing.fleet.pipe import Pipe, serve

_T = TypeVar("_T")


class RemoteHost:
    """A `LocalHost` in another process.

    Args:
        settings: What to simulate.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pipe = Pipe(__name__, "FirstFake", "FirstFake(process=True)")

    def start(self) -> int:
        """Start to serve; returns the port."""
        port: int = self._pipe.start(self._settings)
        return port

    def stop(self) -> None:
        """Stop and leave nothing behind."""
        self._pipe.stop()

    def call(self, work: Callable[[Gateway], _T]) -> _T:
        """Do something with the gateway, which must be picklable, and wait for it."""
        result: _T = self._pipe.ask("call", work)
        return result


def main() -> None:
    """Serve at the other end of the pipe."""
    serve(LocalHost)
