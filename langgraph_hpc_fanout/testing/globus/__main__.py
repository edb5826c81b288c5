"""The stack from the command line: prints how to reach it and runs until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from typing import get_args

from langgraph_hpc_fanout.testing.globus.broker import RabbitMQMissingError
from langgraph_hpc_fanout.testing.globus.settings import EngineName
from langgraph_hpc_fanout.testing.globus.stack import GlobusStack

_USE = """\
# In Python:
from globus_compute_sdk import Executor
from langgraph_hpc_fanout.testing.globus.client import client_of

executor = Executor("{endpoint}", client=client_of("{url}"))

# In a shell, for what logs in with client credentials:
{exports}

# Logs: {logs}"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(
        prog="python -m langgraph_hpc_fanout.testing.globus",
        description="Run Globus Compute on 127.0.0.1: emulated service, real endpoint.",
    )
    add = command.add_argument
    add("--engine", choices=get_args(EngineName), default="htex", help="what runs the tasks")
    add("--workers", type=int, default=2, help="tasks that run at once (default: 2)")
    add("--core", action="store_true", help="with a real core endpoint")
    return command


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT."""
    options = parser().parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        stack = GlobusStack(options.engine, options.workers, core=options.core).start()
    except (RabbitMQMissingError, RuntimeError, ValueError) as error:
        sys.exit(str(error))
    try:
        exports = (f"export {name}={value}" for name, value in stack.environment().items())
        text = _USE.format(
            endpoint=stack.endpoint_id,
            url=stack.url,
            exports="\n".join(exports),
            logs=stack.logs()["host.log"].parent,
        )
        print(text, flush=True)
        stop.wait()
    finally:
        stack.stop()


if __name__ == "__main__":
    main()
