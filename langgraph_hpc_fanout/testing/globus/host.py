"""The stack's host: one process that holds the broker, the service and the endpoints.

A process of its own, so that it costs nothing of the time of the process under test; and one
that adopts what its children leave behind, so that nothing outlives it. It ends with its
standard input, hence with the process that started it, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from langgraph_hpc_fanout.testing.globus.broker import (
    LOOPBACK,
    USERS,
    Broker,
    Installation,
    User,
    free_ports,
)
from langgraph_hpc_fanout.testing.globus.core_endpoint import CoreEndpoint
from langgraph_hpc_fanout.testing.globus.processes import (
    adopt_orphans,
    bury_all,
    descendants,
    end_all,
    reap_orphans,
    send,
)
from langgraph_hpc_fanout.testing.globus.service.amqp import Amqp
from langgraph_hpc_fanout.testing.globus.service.app import application
from langgraph_hpc_fanout.testing.globus.service.faults import Fault
from langgraph_hpc_fanout.testing.globus.service.limits import ServiceLimits
from langgraph_hpc_fanout.testing.globus.service.service import Service
from langgraph_hpc_fanout.testing.globus.service.store import new_id
from langgraph_hpc_fanout.testing.globus.settings import EndpointSettings
from langgraph_hpc_fanout.testing.globus.user_endpoint import UserEndpoints, workers

CONTROL = "/_stack/"
_log = logging.getLogger(__name__)
_TICK = 0.2
_SHUT = 1.0

Keeper = UserEndpoints | CoreEndpoint
Verb = Callable[[Mapping[str, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class HostSpec:
    """What a host runs.

    Attributes:
        folder: Where all files go.
        endpoints: Settings of the endpoints to begin with.
        limits: What the service takes.
    """

    folder: Path
    endpoints: list[EndpointSettings]
    limits: ServiceLimits

    @classmethod
    def from_json(cls, text: str | bytes) -> HostSpec:
        """The spec that the stack sent."""
        data = json.loads(text)
        endpoints = [EndpointSettings(**settings) for settings in data["endpoints"]]
        return cls(Path(data["folder"]), endpoints, ServiceLimits(**data["limits"]))


class Host:
    """The parts of one stack, and what may be done with them from outside."""

    def __init__(self, spec: HostSpec) -> None:
        self._spec = spec
        self._broker = Broker(spec.folder / "rabbitmq", Installation.find())
        self._service = Service(self._broker, Amqp(self._broker.url("service")), spec.limits)
        self._keepers: dict[str, Keeper] = {}
        self._runner: web.AppRunner | None = None
        self._port = free_ports(1)[0]

    @property
    def url(self) -> str:
        """Where the service answers."""
        return f"http://{LOOPBACK}:{self._port}"

    async def start(self) -> list[str]:
        """Start everything; returns the ids of the endpoints when they are up."""
        begun = [self._begin(settings) for settings in self._spec.endpoints]
        await self._broker.start()
        await self._service.open()
        await self._serve()
        await asyncio.gather(*(self._finish(endpoint_id) for endpoint_id in begun))
        return begun

    async def tick(self) -> None:
        """Bury adopted children, and let the endpoints that we stand for live on."""
        while True:
            reap_orphans(os.getpid(), self._own_pids())
            for endpoint_id, keeper in self._keepers.items():
                if endpoint_id in self._service.starters:
                    keeper.heartbeat()
                    self._service.record.starts += keeper.revive()
            await asyncio.sleep(_TICK)

    async def stop(self) -> None:
        """End everything that was started, and remove its files."""
        if self._runner is not None:
            await self._runner.cleanup()
        end_all(lambda: descendants(os.getpid()))
        bury_all(os.getpid())
        shutil.rmtree(self._spec.folder, ignore_errors=True)

    def _begin(self, settings: EndpointSettings) -> str:
        endpoint_id = new_id()
        folder = self._spec.folder / "endpoints"
        if settings.core:
            self._keepers[endpoint_id] = CoreEndpoint(
                self._service, endpoint_id, settings, folder / f"core-{endpoint_id}"
            )
        else:
            keeper = UserEndpoints(self._service, endpoint_id, settings, folder)
            keeper.prepare(self._service.user_endpoint_id(endpoint_id, {}))
            self._keepers[endpoint_id] = keeper
        return endpoint_id

    async def _finish(self, endpoint_id: str) -> None:
        keeper = self._keepers[endpoint_id]
        await self._service.register_endpoint({"endpoint_name": "stack"}, endpoint_id)
        if isinstance(keeper, CoreEndpoint):
            await keeper.start(self.url)
            return
        self._service.starters[endpoint_id] = keeper
        user_endpoint = await self._service.prepare_user_endpoint(endpoint_id, {})
        keeper.feed(user_endpoint.id)
        self._service.record.starts += 1
        while not user_endpoint.seen:
            if (failure := self._service.start_failures.get(user_endpoint.id)) is not None:
                raise RuntimeError(f"The user endpoint did not start: {failure}")
            if keeper.pid(user_endpoint.id) is None:
                raise RuntimeError("The user endpoint ended before its first heartbeat.")
            await asyncio.sleep(0.02)

    async def _serve(self) -> None:
        app = application(self._service)
        app.router.add_post(CONTROL + "{verb}", self._control)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUT)
        await self._runner.setup()
        await web.TCPSite(self._runner, LOOPBACK, self._port).start()

    async def _control(self, request: web.Request) -> web.Response:
        verbs: dict[str, Verb] = {
            "add_endpoint": self._add_endpoint,
            "clear_faults": self._clear_faults,
            "drop_connections": self._drop_connections,
            "inject": self._inject,
            "kill_user_endpoint": self._kill_user_endpoint,
            "kill_worker": self._kill_worker,
            "pause": self._pause,
            "pids": self._pids,
            "record": self._record,
            "reset": self._reset,
            "resume": self._resume,
            "set_limits": self._set_limits,
        }
        try:
            answer = await verbs[request.match_info["verb"]](orjson.loads(await request.read()))
        except (LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
            _log.exception("A control request failed.")
            return web.Response(status=400, text=f"{type(error).__name__}: {error}")
        return web.Response(
            body=orjson.dumps(answer, option=orjson.OPT_NON_STR_KEYS),
            content_type="application/json",
        )

    async def _add_endpoint(self, given: Mapping[str, Any]) -> Any:
        endpoint_id = self._begin(EndpointSettings(**given))
        await self._finish(endpoint_id)
        return endpoint_id

    async def _inject(self, given: Mapping[str, Any]) -> Any:
        self._service.faults.add(Fault(**given))

    async def _clear_faults(self, given: Mapping[str, Any]) -> Any:
        self._service.faults.clear()

    async def _record(self, given: Mapping[str, Any]) -> Any:
        return self._service.record.to_json()

    async def _reset(self, given: Mapping[str, Any]) -> Any:
        self._service.reset()

    async def _set_limits(self, given: Mapping[str, Any]) -> Any:
        self._service.limits = dataclasses.replace(self._service.limits, **given)

    async def _drop_connections(self, given: Mapping[str, Any]) -> Any:
        users = tuple[User, ...](user for user in USERS if user in given["of"])
        return await self._broker.close_connections(users)

    async def _pids(self, given: Mapping[str, Any]) -> Any:
        """The processes of one user endpoint."""
        user_endpoint = self._pid(given)
        return {
            "user_endpoint": user_endpoint,
            "workers": [] if user_endpoint is None else workers(user_endpoint),
        }

    async def _kill_user_endpoint(self, given: Mapping[str, Any]) -> Any:
        return self._keepers[given["endpoint_id"]].kill(self._user_endpoint_id(given))

    async def _kill_worker(self, given: Mapping[str, Any]) -> Any:
        user_endpoint = self._pid(given)
        alive = [] if user_endpoint is None else workers(user_endpoint)
        if not alive:
            raise LookupError("There is no worker process to kill.")
        send(alive[:1], signal.SIGKILL)
        return alive[0]

    async def _pause(self, given: Mapping[str, Any]) -> Any:
        self._keepers[given["endpoint_id"]].pause()

    async def _resume(self, given: Mapping[str, Any]) -> Any:
        self._keepers[given["endpoint_id"]].resume()

    def _pid(self, given: Mapping[str, Any]) -> int | None:
        return self._keepers[given["endpoint_id"]].pid(self._user_endpoint_id(given))

    def _user_endpoint_id(self, given: Mapping[str, Any]) -> str:
        config = given["user_endpoint_config"]
        return self._service.user_endpoint_id(given["endpoint_id"], config)

    def _own_pids(self) -> set[int]:
        """Children that somebody here waits for."""
        own = {pid for keeper in self._keepers.values() for pid in keeper.own_pids()}
        return own | ({self._broker.pid} if self._broker.pid else set())


async def _run(spec: HostSpec) -> None:
    """Serve until standard input ends, or a signal comes."""
    host, over = Host(spec), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    await _watch_stdin(over)
    work: list[asyncio.Task[Any]] = []
    try:
        begun = time.monotonic()
        starting, ending = loop.create_task(host.start()), loop.create_task(over.wait())
        ticking = loop.create_task(host.tick())
        work += [starting, ending, ticking]
        await asyncio.wait({starting, ending, ticking}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            endpoints = starting.result()
            _log.info("Started in %.1f s.", time.monotonic() - begun)
            _say({"url": host.url, "endpoints": endpoints, "pid": os.getpid()})
            await asyncio.wait({ending, ticking}, return_when=asyncio.FIRST_COMPLETED)
    except Exception as error:  # noqa: BLE001 - told to whoever started us
        _log.exception("The stack did not start.")
        _say({"error": f"{type(error).__name__}: {error}"})
        await over.wait()  # the logs are still to be read
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await host.stop()


async def _watch_stdin(over: asyncio.Event) -> None:
    """Set the event when whoever started us is gone."""

    class Watch(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            over.set()

    await asyncio.get_running_loop().connect_read_pipe(Watch, sys.stdin)


def _first_line() -> bytes:
    """Read byte by byte: what a buffer holds would be lost to those who wait for the end."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line


def _say(line: Mapping[str, Any]) -> None:
    """The one line that the stack reads, which may be gone."""
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(line), flush=True)


def main() -> None:
    """Run the stack that the first line of standard input describes."""
    spec = HostSpec.from_json(_first_line())
    logging.basicConfig(
        filename=spec.folder / "host.log", level=logging.INFO, format="%(asctime)s %(message)s"
    )
    logging.getLogger("pika").setLevel(logging.WARNING)
    adopt_orphans()
    asyncio.run(_run(spec))
