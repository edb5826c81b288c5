"""A fake fleet from the command line: prints its URLs and serves until it is told to stop."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Callable, Sequence

from langgraph_hpc_fanout.testing.fleet.arguments import parse_latency, read_fault
from langgraph_hpc_fanout.testing.fleet.faults import Fault
from langgraph_hpc_fanout.testing.fleet.scripted import scripted
from langgraph_hpc_fanout.testing.fleet.server import FakeFleet
from langgraph_hpc_fanout.testing.fleet.spec import Constant

_SETTINGS: dict[str, Callable[[str], object]] = {
    "contains": str,
    "times": int,
    "first": int,
    "retry_after": float,
    "seconds": float,
}


def parse_fault(text: str) -> Fault:
    """The fault `http_500=0.1`, or `http_429=0.1,retry_after=2,contains=benzene`.

    Raises:
        argparse.ArgumentTypeError: If the text is no such fault.
    """
    return read_fault(text, Fault, _SETTINGS)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(
        prog="python -m langgraph_hpc_fanout.testing.fleet",
        description="Serve fake OpenAI-compatible chat endpoints on 127.0.0.1.",
    )
    add = command.add_argument
    add("--endpoints", type=int, default=1, help="how many endpoints")
    add("--port", type=int, default=0, help="port of the first; the others follow; 0: free ports")
    add("--model", action="append", help="model that they serve; may be given again")
    add("--latency", type=parse_latency, default=Constant(), help="seconds, or a law for them")
    add("--capacity", type=int, default=64, help="requests that one serves at once")
    add("--max-queue", type=int, help="most requests that wait at one; no bound by default")
    add("--overload", type=int, choices=(429, 503), default=503, help="status beyond that")
    add("--api-key", help="bearer token that requests must carry")
    add("--scripted", action="store_true", help="call tools and fit schemas, instead of an echo")
    add("--fault", type=parse_fault, action="append", default=[], help="such as http_500=0.1")
    add("--seed", type=int, default=0, help="seed of faults and latencies")
    add("--processes", type=int, default=0, help="processes to share them; 0: this one")
    return command


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then print what was served."""
    command = parser()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    options = command.parse_args(arguments)
    try:
        fleet = _fleet(options).start()
    except (OSError, ValueError) as error:
        command.error(str(error))
    try:
        print(*fleet.urls, sep="\n", flush=True)
        stop.wait()
        record = fleet.record()
    finally:
        fleet.stop()
    print(f"served {record.served}, peak in flight {record.peak_in_flight}", end=", ")
    print(f"statuses {record.statuses}, faults {record.faults}", flush=True)


def _fleet(options: argparse.Namespace) -> FakeFleet:
    return FakeFleet(
        options.endpoints,
        seed=options.seed,
        processes=options.processes,
        record="counts",
        models=tuple(options.model or ("tiny",)),
        latency=options.latency,
        capacity=options.capacity,
        max_queue=options.max_queue,
        overload=options.overload,
        api_key=options.api_key,
        answer=scripted if options.scripted else None,
        faults=tuple(options.fault),
        port=options.port,
    )


if __name__ == "__main__":
    main()
