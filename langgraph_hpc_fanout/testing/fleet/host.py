"""Several endpoints on one event loop, in a thread of this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from langgraph_hpc_fanout.testing.fleet.engine import Engine
from langgraph_hpc_fanout.testing.fleet.exchange import Memory
from langgraph_hpc_fanout.testing.fleet.faults import Dice
from langgraph_hpc_fanout.testing.fleet.protocol import Connection
from langgraph_hpc_fanout.testing.fleet.record import Detail, HostRecord, Ledger
from langgraph_hpc_fanout.testing.fleet.spec import FakeEndpoint
from langgraph_hpc_fanout.testing.fleet.thread import ServerThread

LOOPBACK = "127.0.0.1"
_BACKLOG = 8192


@dataclass(frozen=True, slots=True)
class HostSpec:
    """What one host serves.

    Attributes:
        endpoints: The endpoints, by place in the fleet.
        seed: Seed of their chances.
        detail: Whether to record every request, or only counts.
    """

    endpoints: Mapping[int, FakeEndpoint]
    seed: str
    detail: Detail


class Host(Protocol):
    """Where endpoints live: in a thread here, or in a process of their own."""

    def start(self) -> Mapping[int, int]:
        """Start to serve; returns the ports, by place in the fleet."""
        ...

    def stop(self) -> None:
        """Stop and leave nothing behind."""
        ...

    def kill(self, index: int) -> None:
        """Stop listening at an endpoint and drop its connections."""
        ...

    def revive(self, index: int) -> None:
        """Listen again, on the same port."""
        ...

    def change(self, index: int, spec: FakeEndpoint) -> None:
        """Let an endpoint go on by another spec."""
        ...

    def record(self) -> HostRecord:
        """What was served so far."""
        ...

    def reset_record(self) -> None:
        """Forget what was served so far."""
        ...


class Door:
    """An endpoint's port: reserved for good, open or shut.

    The port is held by a second socket that never listens, so that nobody takes it while the
    endpoint is dead. A connection to it is refused then, as it should be.
    """

    def __init__(self, engine: Engine, port: int) -> None:
        self.engine = engine
        self._reserved = _reserve(port)
        self.port: int = self._reserved.getsockname()[1]
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen."""
        if self._server is None:
            self.engine.up()
            self._server = await asyncio.get_running_loop().create_server(
                lambda: Connection(self.engine),
                LOOPBACK,
                self.port,
                reuse_port=True,
                backlog=_BACKLOG,
            )

    async def shut(self) -> None:
        """Stop listening and wait until every connection is gone."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.engine.drop()
        while not self.engine.idle:
            await asyncio.sleep(0.001)

    async def give_up(self) -> None:
        """Shut, and free the port."""
        await self.shut()
        self._reserved.close()


class LocalHost(ServerThread[Mapping[int, int]]):
    """Endpoints in a thread of this process; ready with their ports, by place in the fleet."""

    def __init__(self, spec: HostSpec) -> None:
        super().__init__("fake-fleet")
        self._spec = spec
        self._ledger = Ledger(spec.detail)
        self._doors: dict[int, Door] = {}

    def kill(self, index: int) -> None:
        """Stop listening at an endpoint and drop its connections."""
        self._call(self._doors[index].shut)

    def revive(self, index: int) -> None:
        """Listen again, on the same port."""
        self._call(self._doors[index].open)

    def change(self, index: int, spec: FakeEndpoint) -> None:
        """Let an endpoint go on by another spec."""
        self._call(_soon(lambda: self._doors[index].engine.change(spec)))

    def record(self) -> HostRecord:
        """What was served so far; reads without a lock, see `Tally`."""
        engines = {index: door.engine for index, door in self._doors.items()}
        endpoints = {index: engine.record() for index, engine in engines.items()}
        open_since = [moment for engine in engines.values() for moment in engine.open_since()]
        rows = self._ledger.rows
        return HostRecord(
            endpoints=endpoints,
            rows=None if rows is None else tuple(rows),
            open_since=tuple(open_since),
            peak_in_flight=self._ledger.peak_in_flight,
        )

    def reset_record(self) -> None:
        """Forget what was served so far."""
        self._call(_soon(self._reset))

    def _reset(self) -> None:
        self._ledger.reset()
        for door in self._doors.values():
            door.engine.reset_record()

    async def _serve(self, ready: Future[Mapping[int, int]]) -> None:
        memory = Memory(self._ledger, Dice(self._spec.seed))
        try:
            for index, spec in self._spec.endpoints.items():
                self._doors[index] = Door(Engine(index, spec, memory, self._loop), spec.port)
                await self._doors[index].open()
        except Exception as error:  # noqa: BLE001 - raised again where the fleet was started
            ready.set_exception(error)
        else:
            ready.set_result({index: door.port for index, door in self._doors.items()})
            await self._stopping.wait()
        for door in self._doors.values():
            await door.give_up()


def _reserve(port: int) -> socket.socket:
    """A socket that holds the port (a free one for 0) and lets only us listen at it."""
    with socket.socket() as probe:  # sharing would let two fleets take turns at one port
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((LOOPBACK, port))
    reserved = socket.socket()
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind((LOOPBACK, port))
    except OSError:
        reserved.close()
        raise
    return reserved


def _soon(work: Callable[[], None]) -> Callable[[], Coroutine[Any, Any, None]]:
    async def run() -> None:
        work()

    return run
