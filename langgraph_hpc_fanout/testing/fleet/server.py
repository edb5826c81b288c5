"""The fleet: many endpoints, here or in processes of their own, behind one small interface."""

from __future__ import annotations

import asyncio
import atexit
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Self

from typing_extensions import Unpack

from langgraph_hpc_fanout.testing.fleet.host import LOOPBACK, Host, HostSpec, LocalHost
from langgraph_hpc_fanout.testing.fleet.life import Startable
from langgraph_hpc_fanout.testing.fleet.record import Detail, FleetRecord, merge
from langgraph_hpc_fanout.testing.fleet.spec import EndpointOptions, FakeEndpoint
from langgraph_hpc_fanout.testing.fleet.worker import RemoteHost

_POLL = 0.002


class FakeFleet(Startable):
    """OpenAI-compatible chat endpoints on loopback that behave, and misbehave, as told.

    ```python
    with FakeFleet(endpoints=4, latency=0.05, faults=(Fault("http_500", rate=0.1),)) as fleet:
        ask(fleet.urls)
        assert fleet.record().peak_in_flight <= 64
    ```

    Use `with`, `async with`, or `start()` and `stop()`. Which requests a fault strikes, and how
    long each takes, depends on the seed, the prompt and how often it was asked, not on the
    order of arrival.

    Args:
        endpoints: How many endpoints, all alike, or a spec for each.
        seed: Seed of faults and latencies.
        processes: How many processes of their own share the endpoints; 0 for a thread of this
            one. Answer rules and conditions must then be functions of an importable module.
        record: `full` keeps every request, `counts` only counts them.
        **options: Fields of `FakeEndpoint`, when `endpoints` is a number.

    Raises:
        ValueError: If there are no endpoints, or options beside specs.
    """

    def __init__(
        self,
        endpoints: int | Sequence[FakeEndpoint] = 1,
        *,
        seed: int = 0,
        processes: int = 0,
        record: Detail = "full",
        **options: Unpack[EndpointOptions],
    ) -> None:
        self._specs = _specs(endpoints, options)
        self._seed = seed
        self._processes = min(processes, len(self._specs))
        self._detail: Detail = record
        self._hosts: list[Host] = []
        self._ports: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._specs)

    @property
    def urls(self) -> list[str]:
        """Base URL of each endpoint, such as `http://127.0.0.1:40001/v1`."""
        self._need_started()
        return [f"http://{LOOPBACK}:{self._ports[index]}/v1" for index in range(len(self))]

    @property
    def pids(self) -> list[int]:
        """Process ids of its own processes, for instance to pin them to a core."""
        return [host.pid for host in self._hosts if isinstance(host, RemoteHost)]

    # Life

    def start(self) -> Self:
        """Start all endpoints; returns when they listen."""
        if self._hosts:
            raise RuntimeError("This FakeFleet is running already.")
        atexit.register(self.stop)
        try:
            for host in self._new_hosts():
                self._hosts.append(host)
                self._ports.update(host.start())
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop all endpoints; returns when no thread, process or port is left."""
        atexit.unregister(self.stop)
        hosts, self._hosts = self._hosts, []
        for host in hosts:
            host.stop()
        self._ports.clear()

    # Trouble

    def kill(self, index: int) -> None:
        """Let an endpoint die: connections drop, new ones are refused."""
        self._host(index).kill(index)

    def revive(self, index: int) -> None:
        """Let a killed endpoint listen again, on the same port."""
        self._host(index).revive(index)

    def change(self, index: int, **options: Unpack[EndpointOptions]) -> None:
        """Change how an endpoint behaves from the next request on."""
        if "port" in options:
            raise ValueError("FakeFleet.change(port=...): an endpoint keeps its port.")
        spec = replace(self._specs[index], **options)
        self._host(index).change(index, spec)
        self._specs[index] = spec

    # The record

    def record(self) -> FleetRecord:
        """What was served so far, a request that has just been answered included."""
        self._need_started()
        return merge(host.record() for host in self._hosts)

    def reset_record(self) -> None:
        """Forget what was served so far; faults still know what they struck."""
        self._need_started()
        for host in self._hosts:
            host.reset_record()

    def wait(self, until: Callable[[FleetRecord], bool], timeout: float = 10.0) -> FleetRecord:
        """Wait for something to be in the record; returns the record.

        Raises:
            TimeoutError: If it is not there in time.
        """
        for record, pause in self._records(timeout):
            if until(record):
                break
            time.sleep(pause)
        return record

    async def until(
        self, condition: Callable[[FleetRecord], bool], timeout: float = 10.0
    ) -> FleetRecord:
        """`wait` for async tests.

        Raises:
            TimeoutError: If it is not there in time.
        """
        for record, pause in self._records(timeout):
            if condition(record):
                break
            await asyncio.sleep(pause)
        return record

    def _records(self, timeout: float) -> Iterator[tuple[FleetRecord, float]]:
        """Records and how long to wait for the next: long ones are not asked for as often."""
        deadline = time.monotonic() + timeout
        while True:
            asked = time.monotonic()
            record = self.record()
            yield record, max(_POLL, 4 * (time.monotonic() - asked))
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"Not in time; {record.served} requests ended, {record.in_flight} are in "
                    "flight."
                )

    def _new_hosts(self) -> list[Host]:
        indexed = dict(enumerate(self._specs))
        if self._processes == 0:
            return [LocalHost(HostSpec(indexed, str(self._seed), self._detail))]
        return [
            RemoteHost(
                HostSpec(
                    {i: spec for i, spec in indexed.items() if i % self._processes == share},
                    f"{self._seed}/{share}" if share else str(self._seed),
                    self._detail,
                )
            )
            for share in range(self._processes)
        ]

    def _host(self, index: int) -> Host:
        self._need_started()
        if not 0 <= index < len(self):
            raise IndexError(f"There is no endpoint {index}; the fleet has {len(self)}.")
        return self._hosts[index % len(self._hosts)]

    def _need_started(self) -> None:
        if not self._hosts:
            raise RuntimeError(
                "This FakeFleet is not running; use `with FakeFleet(...) as fleet:`."
            )


def _specs(endpoints: int | Sequence[FakeEndpoint], options: EndpointOptions) -> list[FakeEndpoint]:
    if isinstance(endpoints, int):
        first = FakeEndpoint(**options)
        ports = [first.port + place if first.port else 0 for place in range(endpoints)]
        specs = [replace(first, port=port) for port in ports]
    elif options:
        raise ValueError(f"FakeFleet: put {', '.join(options)} into the FakeEndpoint specs.")
    else:
        specs = list(endpoints)
    if not specs:
        raise ValueError("FakeFleet needs at least one endpoint.")
    return specs
