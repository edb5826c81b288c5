"""The record of the requests that were served, written by one thread and read by any."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

Detail = Literal["full", "counts"]
"""Whether a record keeps every request, or only counts them."""

LONGEST_PROMPT = 200

_K = TypeVar("_K")


class Served(NamedTuple):
    """One chat request that came to an end, whichever way.

    A tuple, because a fleet writes thousands a second.

    Attributes:
        endpoint: Place of the endpoint in the fleet.
        arrived: When its last byte arrived, in seconds of `time.monotonic()`.
        ended: When its answer was handed to the kernel, or the client left.
        prompt: Its last user message, see `prompt_id`.
        status: HTTP status of the answer; 0 when no answer was begun.
        fault: Kind of the fault that struck it; `killed` when the endpoint died over it.
        closed_early: Whether the client closed the connection before the answer was out.
        reused: Whether its connection had carried a request before.
    """

    endpoint: int
    arrived: float
    ended: float
    prompt: str
    status: int
    fault: str | None
    closed_early: bool
    reused: bool


def prompt_id(prompt: str) -> str:
    """The prompt as records show it: itself, or its hash above 200 characters."""
    if len(prompt) <= LONGEST_PROMPT:
        return prompt
    return f"sha256:{hashlib.sha256(prompt.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """What one endpoint has seen of chat requests and connections.

    Attributes:
        arrived: Requests that have arrived, waiting ones included.
        served: Requests that ended, whichever way.
        peak_in_flight: The most that had arrived and not ended at one time.
        closed_early: Those whose client left before the answer was out.
        reused: Those that came over a connection that had carried a request before.
        statuses: How many had which status; 0 is no answer.
        faults: How many were struck by which fault.
        connections: Connections accepted.
        probes: Requests for anything but a chat completion, such as the list of models.
    """

    arrived: int
    served: int
    peak_in_flight: int
    closed_early: int
    reused: int
    statuses: Mapping[int, int]
    faults: Mapping[str, int]
    connections: int
    probes: int

    @property
    def in_flight(self) -> int:
        """Requests that have arrived and not ended."""
        return self.arrived - self.served


@dataclass(frozen=True, slots=True)
class HostRecord:
    """What the endpoints of one process have seen.

    Attributes:
        endpoints: Their records, by place in the fleet.
        rows: Requests that ended, in that order; None when only counted.
        open_since: When the requests in flight arrived.
        peak_in_flight: The most that were in flight over all of them.
    """

    endpoints: Mapping[int, EndpointRecord]
    rows: tuple[Served, ...] | None
    open_since: tuple[float, ...]
    peak_in_flight: int


@dataclass(frozen=True, slots=True)
class FleetRecord:
    """What a fleet has seen so far: a copy, which later requests do not change.

    Attributes:
        endpoints: One record for each endpoint.
        peak_in_flight: The most requests that were in flight over the whole fleet. For
            `record="counts"` in several processes an upper bound: the sum of the peaks.
        rows: What `requests` shows; None when requests were only counted.
    """

    endpoints: tuple[EndpointRecord, ...]
    peak_in_flight: int
    rows: tuple[Served, ...] | None

    @property
    def requests(self) -> tuple[Served, ...]:
        """Every chat request that ended, in that order.

        Raises:
            ValueError: If the fleet only counts requests.
        """
        if self.rows is None:
            raise ValueError("FakeFleet(record='counts') keeps no requests; use record='full'.")
        return self.rows

    @property
    def served(self) -> int:
        """Chat requests that ended, whichever way."""
        return sum(endpoint.served for endpoint in self.endpoints)

    @property
    def in_flight(self) -> int:
        """Chat requests that have arrived and not ended."""
        return sum(endpoint.in_flight for endpoint in self.endpoints)

    @property
    def arrived(self) -> int:
        """Chat requests that have arrived."""
        return sum(endpoint.arrived for endpoint in self.endpoints)

    @property
    def closed_early(self) -> int:
        """Chat requests whose client left before the answer was out."""
        return sum(endpoint.closed_early for endpoint in self.endpoints)

    @property
    def connections(self) -> int:
        """Connections accepted."""
        return sum(endpoint.connections for endpoint in self.endpoints)

    @property
    def probes(self) -> int:
        """Requests for anything but a chat completion."""
        return sum(endpoint.probes for endpoint in self.endpoints)

    @property
    def statuses(self) -> dict[int, int]:
        """How many chat requests had which status; 0 is no answer."""
        return _sums(endpoint.statuses for endpoint in self.endpoints)

    @property
    def faults(self) -> dict[str, int]:
        """How many chat requests were struck by which fault."""
        return _sums(endpoint.faults for endpoint in self.endpoints)


def merge(hosts: Iterable[HostRecord]) -> FleetRecord:
    """The record of a fleet from those of its processes."""
    parts = list(hosts)
    endpoints = {index: record for part in parts for index, record in part.endpoints.items()}
    in_order = tuple(endpoints[index] for index in sorted(endpoints))
    if len(parts) == 1:
        return FleetRecord(in_order, parts[0].peak_in_flight, parts[0].rows)
    rows: list[Served] = []
    for part in parts:
        if part.rows is None:
            return FleetRecord(in_order, sum(each.peak_in_flight for each in parts), None)
        rows += part.rows
    rows.sort(key=lambda row: row.ended)
    open_since = [moment for part in parts for moment in part.open_since]
    return FleetRecord(in_order, _peak(rows, open_since), tuple(rows))


class Tally:
    """What one endpoint counts.

    Only its server's thread writes; others read without a lock. Requests end in `rows` first and
    in `served` after, and `freeze` reads `served` before `arrived`, so a reader who sees none in
    flight sees all of the rest.
    """

    __slots__ = (
        "arrived",
        "closed_early",
        "connections",
        "faults",
        "peak_in_flight",
        "probes",
        "reused",
        "served",
        "statuses",
    )

    def __init__(self) -> None:
        self.reset(in_flight=0)

    def reset(self, *, in_flight: int) -> None:
        """Start again from the requests that are in flight now."""
        self.arrived = self.peak_in_flight = in_flight
        self.served = self.closed_early = self.reused = self.connections = self.probes = 0
        self.statuses: dict[int, int] = {}
        self.faults: dict[str, int] = {}

    def arrive(self) -> None:
        """Count a request in."""
        self.arrived += 1
        self.peak_in_flight = max(self.peak_in_flight, self.arrived - self.served)

    def end(self, row: Served) -> None:
        """Count a request out."""
        self.statuses[row.status] = self.statuses.get(row.status, 0) + 1
        if row.fault is not None:
            self.faults[row.fault] = self.faults.get(row.fault, 0) + 1
        self.closed_early += row.closed_early
        self.reused += row.reused
        self.served += 1

    def freeze(self) -> EndpointRecord:
        """A copy for readers."""
        served = self.served
        return EndpointRecord(
            served=served,
            arrived=self.arrived,
            peak_in_flight=self.peak_in_flight,
            closed_early=self.closed_early,
            reused=self.reused,
            statuses=dict(self.statuses),
            faults=dict(self.faults),
            connections=self.connections,
            probes=self.probes,
        )


class Ledger:
    """What all endpoints of one process write to."""

    __slots__ = ("in_flight", "peak_in_flight", "rows")

    def __init__(self, detail: Detail) -> None:
        self.rows: list[Served] | None = [] if detail == "full" else None
        self.in_flight = 0
        self.peak_in_flight = 0

    def arrived(self) -> None:
        """Count a request in."""
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def ended(self, row: Served) -> None:
        """Count a request out."""
        if self.rows is not None:
            self.rows.append(row)
        self.in_flight -= 1

    def reset(self) -> None:
        """Forget the requests that ended."""
        if self.rows is not None:
            self.rows = []
        self.peak_in_flight = self.in_flight


def _sums(parts: Iterable[Mapping[_K, int]]) -> dict[_K, int]:
    total: dict[_K, int] = {}
    for part in parts:
        for key, count in part.items():
            total[key] = total.get(key, 0) + count
    return total


def _peak(rows: Iterable[Served], open_since: Iterable[float]) -> int:
    """The most intervals that overlap; an end and a start at one moment do not."""
    steps = [(moment, 1) for moment in open_since]
    for row in rows:
        steps += ((row.arrived, 1), (row.ended, -1))
    steps.sort()
    level = peak = 0
    for _, step in steps:
        level += step
        peak = max(peak, level)
    return peak
