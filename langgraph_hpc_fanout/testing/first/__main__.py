"""A fake FIRST gateway from the command line: prints its URL and a token, and serves."""

from __future__ import annotations

import argparse
import json
import signal
import threading
from collections.abc import Sequence
from typing import Any

from langgraph_hpc_fanout.testing.first.admission import UsageLimits
from langgraph_hpc_fanout.testing.first.faults import Fault
from langgraph_hpc_fanout.testing.first.quotas import Quotas
from langgraph_hpc_fanout.testing.first.record import FirstRecord
from langgraph_hpc_fanout.testing.first.server import FirstFake
from langgraph_hpc_fanout.testing.fleet import scripted
from langgraph_hpc_fanout.testing.fleet.__main__ import parse_latency
from langgraph_hpc_fanout.testing.fleet.spec import Constant

_SETTINGS: dict[str, Any] = {
    "times": int,
    "route": str,
    "cluster": str,
    "model": str,
    "contains": str,
    "status": int,
    "seconds": float,
}
_UNLIMITED = Quotas(requests=None, user_tokens=None, model_tokens=None)
_MANY = 1_000_000_000
_UNLIMITED_2 = UsageLimits(concurrency=_MANY, requests=_MANY, burst=_MANY, tokens=_MANY)


def parse_fault(text: str) -> Fault:
    """The fault `internal_error=0.1`, or `upstream,status=400,cluster=metis`.

    Raises:
        argparse.ArgumentTypeError: If the text is no such fault.
    """
    head, *rest = text.split(",")
    kind, _, rate = head.partition("=")
    settings: dict[str, Any] = {"kind": kind}
    try:
        settings["rate"] = float(rate) if rate else 1.0
        for setting in rest:
            name, _, value = setting.partition("=")
            settings[name] = _SETTINGS[name](value)
        return Fault(**settings)
    except KeyError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}: {error.args[0]!r} is none of {', '.join(_SETTINGS)}"
        ) from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(
        prog="python -m langgraph_hpc_fanout.testing.first",
        description="Serve a fake of the FIRST gateway on 127.0.0.1, with clusters like ALCF's.",
    )
    add = command.add_argument
    add("--port", type=int, default=0, help="port; 0: a free one")
    add("--version", type=int, choices=(1, 2), default=1, help="version of the gateway")
    add("--time-scale", type=float, default=1.0, help="seconds of its clock for each real one")
    add("--no-quotas", action="store_true", help="lift all limits")
    add("--latency", type=parse_latency, default=Constant(), help="seconds, or a law for them")
    add("--backend", help="base URL of an OpenAI server that answers")
    add("--scripted", action="store_true", help="call tools and fit schemas, instead of an echo")
    add("--files", help="directory that stands for the clusters' file systems, for batches")
    add("--fault", type=parse_fault, action="append", default=[], help="such as throttled=0.1")
    add("--seed", type=int, default=0, help="seed of faults and latencies")
    add("--user", default="alice", help="whose token is printed")
    return command


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then print what was served."""
    command = parser()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    options = command.parse_args(arguments)
    try:
        fake = _fake(options).start()
    except (OSError, ValueError) as error:
        command.error(str(error))
    try:
        print(fake.url, fake.token(options.user), sep="\n", flush=True)
        stop.wait()
        record = fake.record()
    finally:
        fake.stop()
    print(_summary(record), flush=True)


def _fake(options: argparse.Namespace) -> FirstFake:
    unlimited = _UNLIMITED if options.version == 1 else _UNLIMITED_2
    return FirstFake(
        version=options.version,
        quotas=unlimited if options.no_quotas else None,
        time_scale=options.time_scale,
        latency=options.latency,
        answer=scripted if options.scripted else None,
        backend=options.backend,
        files=options.files,
        faults=options.fault,
        seed=options.seed,
        record="counts",
        port=options.port,
    )


def _summary(record: FirstRecord) -> str:
    return (
        f"served {record.served}, peak in flight {record.peak_in_flight}, "
        f"refused {json.dumps(dict(record.reasons))}, wasted tasks {record.wasted}"
    )


if __name__ == "__main__":
    main()
