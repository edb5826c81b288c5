"""Endpoints in a process of their own."""

from __future__ import annotations

from collections.abc import Mapping

from langgraph_hpc_fanout.testing.fleet.host import HostSpec, LocalHost
from langgraph_hpc_fanout.testing.fleet.pipe import Pipe, serve
from langgraph_hpc_fanout.testing.fleet.record import HostRecord
from langgraph_hpc_fanout.testing.fleet.spec import FakeEndpoint


class RemoteHost:
    """A `LocalHost` in another process."""

    def __init__(self, spec: HostSpec) -> None:
        self._spec = spec
        self._pipe = Pipe(__name__, "the fake fleet", "FakeFleet(processes=...)")

    @property
    def pid(self) -> int:
        """Id of the process.

        Raises:
            RuntimeError: If it does not run.
        """
        return self._pipe.pid

    def start(self) -> Mapping[int, int]:
        """Start to serve; returns the ports, by place in the fleet."""
        ports: Mapping[int, int] = self._pipe.start(self._spec)
        return ports

    def stop(self) -> None:
        """Stop and leave nothing behind."""
        self._pipe.stop()

    def kill(self, index: int) -> None:
        """Stop listening at an endpoint and drop its connections."""
        self._pipe.ask("kill", index)

    def revive(self, index: int) -> None:
        """Listen again, on the same port."""
        self._pipe.ask("revive", index)

    def change(self, index: int, spec: FakeEndpoint) -> None:
        """Let an endpoint go on by another spec."""
        self._pipe.ask("change", index, spec)

    def record(self) -> HostRecord:
        """What was served so far."""
        record: HostRecord = self._pipe.ask("record")
        return record

    def reset_record(self) -> None:
        """Forget what was served so far."""
        self._pipe.ask("reset_record")


def main() -> None:
    """Serve at the other end of the pipe."""
    serve(LocalHost)
