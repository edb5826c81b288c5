"""The gateway on an event loop of its own, in a thread of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from langgraph_hpc_fanout.testing.first.admission import UsageLimits
from langgraph_hpc_fanout.testing.first.gateway import Api, Gateway
from langgraph_hpc_fanout.testing.first.quotas import Quotas
from langgraph_hpc_fanout.testing.first.settings import Settings
from langgraph_hpc_fanout.testing.first.v1 import V1
from langgraph_hpc_fanout.testing.first.v2 import V2
from langgraph_hpc_fanout.testing.fleet.host import LOOPBACK
from langgraph_hpc_fanout.testing.fleet.protocol import Connection
from langgraph_hpc_fanout.testing.fleet.thread import ServerThread

_BACKLOG = 8192

_T = TypeVar("_T")


class Host(Protocol):
    """Where the gateway lives: in a thread here, or in a process of its own."""

    def start(self) -> int:
        """Start to serve; returns the port."""
        ...

    def stop(self) -> None:
        """Stop and leave nothing behind."""
        ...

    def call(self, work: Callable[[Gateway], _T]) -> _T:
        """Do something with the gateway, on its loop, and wait for it."""
        ...


class LocalHost(ServerThread[int]):
    """The gateway in a thread of this process; ready with its port.

    Args:
        settings: What to simulate.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__("first-fake")
        self._settings = settings
        self._gateway: Gateway

    def call(self, work: Callable[[Gateway], _T]) -> _T:
        """Do something with the gateway, on its loop, and wait for it."""

        async def run() -> _T:
            return work(self._gateway)

        return self._call(run)

    async def _serve(self, ready: Future[int]) -> None:
        try:
            gateway = Gateway(self._settings, self._loop)
            gateway.api = _api(gateway, self._settings.quotas)
            server = await self._loop.create_server(
                lambda: Connection(gateway), LOOPBACK, self._settings.port, backlog=_BACKLOG
            )
        except Exception as error:  # noqa: BLE001 - raised again where the fake was started
            ready.set_exception(error)
            return
        self._gateway = gateway
        ready.set_result(server.sockets[0].getsockname()[1])
        await self._stopping.wait()
        server.close()
        gateway.drop()
        while not gateway.idle:
            await asyncio.sleep(0.001)
        await gateway.close()


def _api(gateway: Gateway, quotas: Quotas | UsageLimits) -> Api:
    """The routes of the version that has such limits."""
    if isinstance(quotas, UsageLimits):
        return V2(gateway, quotas)
    return V1(gateway, quotas)
