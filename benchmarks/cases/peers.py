"""The same work, given to what else people use for it.

Every contender asks the same four fake endpoints, which answer after 50 ms; each run has a fleet
of its own with the same seed. All are used as their documentation says, on uvloop, and with
a timeout of 30 s a call:

- **bare aiohttp**: the loop of `overhead`, the least that Python can do. It asks once.
- **FanOutNode**: the whole graph by `ainvoke`, as it is by default; and with a journal.
- **openai SDK**: `AsyncOpenAI`, a client for each endpoint, two retries (its default), a
  semaphore; and with aiohttp underneath (`DefaultAioHttpClient`), as its readme advises.
- **LangChain abatch**: a `ChatOpenAI` for each endpoint, two retries (its default), an equal
  share of the items each, `max_concurrency`, errors returned in place.
- **LangGraph Send**: one `Send` and one `ChatOpenAI` call an item, two retries (its default),
  `max_concurrency`. A call that fails for good ends the graph, and all answers are lost.
- **LiteLLM Router**: four deployments of one model, `num_retries=3`, all else by default, a
  semaphore; in an environment of its own. And with `disable_cooldowns`, because by default a 429
  takes its deployment away for seconds, and calls fail at once when none is left.

With faults on, 2 % of the requests get a 500, 2 % a 429 with `Retry-After: 1`, 0.5 % a reset in
the middle of the answer, and 0.5 % no answer ever. An item is *lost* when it has no answer in the
end. *Paid twice* are requests beyond one an item that a model would have worked on, by the
fleet's record; *forced* are those of which the faults let no answer arrive. A run that has cost
120 s of CPU is stopped; its figures are those of what was answered until then.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from benchmarks import environment, fleets
from benchmarks.bill import Bill
from benchmarks.contenders import bare, fan_out, langchain, litellm, native, openai_sdk
from benchmarks.findings import Findings, Ratio, Scale
from benchmarks.sample import FreshProcess, Sample

_LATENCY = 0.05
_MOST_CPU = 120.0
_ENOUGH_CPU = 20.0
_MOST_OF_BARE = 1.5


@dataclass(frozen=True, slots=True)
class Peer:
    """One contender.

    Attributes:
        ask: What it does, given URLs, a number of items, a width and a timeout.
        options: What else it is told.
        least: How many times the fan-out's CPU a call it should cost at least; None for those
            that are no alternative to it.
        small: How many items it gets in a check: less of those that cost more, none where no
            bar is.
        foreign: Whether it lives in the peers' environment.
    """

    ask: Callable[..., Sample]
    options: Mapping[str, bool] = field(default_factory=dict)
    least: float | None = None
    small: int = 4_000
    foreign: bool = False


_BARE, _OURS, _KEPT = "bare aiohttp", "FanOutNode", "FanOutNode, journal"
_PEERS: Mapping[str, Peer] = {
    _BARE: Peer(bare.ask),
    _OURS: Peer(fan_out.ask),
    _KEPT: Peer(fan_out.ask, {"journal": True}),
    "openai SDK over aiohttp": Peer(openai_sdk.ask, {"aiohttp": True}, least=4.0, small=500),
    "openai SDK": Peer(openai_sdk.ask, least=6.0, small=500),
    "LangChain abatch": Peer(langchain.abatch, least=10.0, small=500),
    "LangGraph Send": Peer(native.ask, least=20.0, small=1_000),
    "LiteLLM Router": Peer(litellm.ask, least=20.0, small=200, foreign=True),
    "LiteLLM Router, no cooldowns": Peer(litellm.ask, {"cooldowns": False}, small=0, foreign=True),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """What all contenders are asked to do.

    Attributes:
        items: How many items.
        width: How many at a time.
        faulty: Whether the endpoints have faults.
        timeout: Seconds that a call may take.
    """

    items: int
    width: int
    faulty: bool = False
    timeout: float = 30.0


_CELLS = (
    Cell(1_000, 100),
    Cell(1_000, 1_000),
    Cell(10_000, 100),
    Cell(10_000, 1_000),
    Cell(1_000, 100, faulty=True),
    Cell(10_000, 1_000, faulty=True),
)
_SMALL_CELL, _SMALL_FAULTY_CELL = Cell(4_000, 1_000), Cell(600, 100, faulty=True, timeout=3.0)


@dataclass(frozen=True, slots=True)
class Run:
    """What a run cost the contender, and what it had the fleet do."""

    sample: Sample
    bill: Bill

    @property
    def cpu_per_call(self) -> float:
        """Microseconds of CPU an answer."""
        return self.sample.cpu / self.bill.answered * 1e6

    @property
    def calls_a_second(self) -> float:
        """Answers a second, by the clock."""
        return self.bill.answered / self.sample.wall


_Found = dict[Cell, dict[str, list[Run]]]


def run(scale: Scale) -> Findings:
    """Let them take turns at each cell."""
    found = _in_full(scale.repeats) if scale.full else _in_small()
    calm = next(cell for cell in reversed(found) if not cell.faulty)
    cpu = {name: _cpu(runs) for name, runs in found[calm].items()}
    most = max(len(runs) for runs in found[calm].values())
    note = (
        f"CPU is compared with {calm.items:,} items and {calm.width:,} in flight. Figures are "
        f"medians of up to {most} runs: one with faults on, and no more once a contender has "
        f"cost {_ENOUGH_CPU:g} s of CPU."
    )
    return Findings(
        _COLUMNS,
        tuple(
            _row(name, cell, runs) for cell, each in found.items() for name, runs in each.items()
        ),
        (*_of_cost(cpu), *_of_faults(found[list(found)[-1]])),
        (note,),
        bars=cpu,
    )


def _in_full(repeats: int) -> _Found:
    """All at all cells."""
    return {cell: _contest(cell, 1 if cell.faulty else repeats) for cell in _CELLS}


def _in_small() -> _Found:
    """Once for each bar, and less of those that cost more."""
    return {
        _SMALL_CELL: {
            name: [_measure(peer, replace(_SMALL_CELL, items=peer.small))]
            for name, peer in _PEERS.items()
            if peer.small
        },
        _SMALL_FAULTY_CELL: {
            name: [_measure(_PEERS[name], _SMALL_FAULTY_CELL)] for name in (_OURS, _KEPT)
        },
    }


def _contest(cell: Cell, repeats: int) -> dict[str, list[Run]]:
    """Turns at one cell; those who have cost enough have no more."""
    found: dict[str, list[Run]] = {name: [] for name in _PEERS}
    for _ in range(repeats):
        for name, runs in found.items():
            if sum(run.sample.cpu for run in runs) < _ENOUGH_CPU:
                runs.append(_measure(_PEERS[name], cell))
    return found


def _measure(peer: Peer, cell: Cell) -> Run:
    process = (
        FreshProcess(environment.python(), _MOST_CPU)
        if peer.foreign
        else FreshProcess(most_cpu=_MOST_CPU)
    )
    with fleets.recorded(_LATENCY, fleets.FAULTS if cell.faulty else ()) as fleet:
        sample = process(
            peer.ask,
            fleet.urls,
            cell.items,
            width=cell.width,
            timeout=cell.timeout,
            **peer.options,
        )
        return Run(sample, Bill.of(fleet.record().requests))


def _cpu(runs: Sequence[Run]) -> float:
    return statistics.median(run.cpu_per_call for run in runs)


_COLUMNS = (
    *("contender", "items", "in flight", "faults", "CPU µs/call", "calls/s", "peak RSS MB"),
    *("lost", "paid twice", "of these forced"),
)


def _row(name: str, cell: Cell, runs: Sequence[Run]) -> tuple[str, ...]:
    last = runs[-1]
    lost = f"{last.sample.lost:,}"
    if last.sample.stopped:
        lost = f"stopped, {last.bill.answered:,} answered"
    return (
        name,
        f"{last.sample.items:,}",
        f"{cell.width:,}",
        "on" if cell.faulty else "off",
        f"{_cpu(runs):,.0f}",
        f"{statistics.median(run.calls_a_second for run in runs):,.0f}",
        f"{statistics.median(run.sample.peak for run in runs) / 2**20:.0f}",
        lost,
        f"{last.bill.again:,}",
        f"{last.bill.forced:,}",
    )


def _of_cost(cpu: Mapping[str, float]) -> Iterator[Ratio]:
    ours = cpu[_OURS]
    yield Ratio(f"CPU a call: {_OURS} / {_BARE}", ours / cpu[_BARE], _MOST_OF_BARE)
    for name, peer in _PEERS.items():
        if peer.least is not None:
            claim = f"CPU a call: {name} / {_OURS}"
            yield Ratio(claim, cpu[name] / ours, peer.least, at_least=True)


def _of_faults(found: Mapping[str, Sequence[Run]]) -> Iterator[Ratio]:
    for name in (_OURS, _KEPT):
        for run in found[name]:
            items, bill = run.sample.items, run.bill
            answered = (items - run.sample.lost) / items
            yield Ratio(
                f"faults on, {name}: answered / asked", answered, 1.0, at_least=True, exact=True
            )
            yield Ratio(
                f"faults on, {name}: paid / (items + forced)",
                bill.worked / (items + bill.forced),
                1.0,
                exact=True,
            )
