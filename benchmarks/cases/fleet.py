"""How much the fake fleet serves, so that it is never what limits a measurement.

One endpoint without latency in a process of its own is asked as fast as it can answer, over 100
connections. Requests are divided by the CPU seconds of that process: what it would serve with a
core to itself, whoever else is at work. The client is wrk, on the other core; where wrk is not
installed, the bare loop of `overhead`.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import orjson

from benchmarks import workload
from benchmarks.contenders import bare
from benchmarks.findings import Findings, Ratio, Scale
from benchmarks.sample import in_fresh_process
from langgraph_hpc_fanout.testing.fleet import FakeFleet

_LEAST_A_SECOND = 8_000
_CONNECTIONS = 100
_BARE_REQUESTS = 10_000
_SCRIPT = """\
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[{}]==]
"""


def run(scale: Scale) -> Findings:
    """Ask one endpoint as fast as it answers."""
    served, asked = [], []
    wrk = shutil.which("wrk")
    with FakeFleet(
        1, processes=1, record="counts", models=(workload.MODEL,), capacity=_CONNECTIONS
    ) as fleet:
        (pid,) = fleet.pids
        first, *others = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(pid, {first})
        for _ in range(scale.repeats):
            fleet.reset_record()
            cpu, wall = _cpu_seconds(pid), time.perf_counter()
            if wrk is not None:
                _ask_with_wrk(wrk, fleet.urls[0], scale.pick(5, 3), others or [first])
            else:
                in_fresh_process(bare.ask, fleet.urls, _BARE_REQUESTS, width=_CONNECTIONS)
            cpu, wall = _cpu_seconds(pid) - cpu, time.perf_counter() - wall
            answered = fleet.record().statuses[200]
            served.append(answered / cpu)
            asked.append(answered / wall)
    rate = statistics.median(served)
    return Findings(
        ("client", "requests per CPU second", "of runs", "requests per second, as it was"),
        (
            (
                "wrk" if wrk is not None else "bare loop",
                f"{rate:,.0f}",
                ", ".join(f"{each:,.0f}" for each in sorted(served)),
                f"{statistics.median(asked):,.0f}",
            ),
        ),
        (
            Ratio(
                f"requests per CPU second / {_LEAST_A_SECOND:,}",
                rate / _LEAST_A_SECOND,
                1.0,
                at_least=True,
            ),
        ),
    )


def _ask_with_wrk(wrk: str, url: str, seconds: int, cores: list[int]) -> None:
    body = {
        "model": workload.MODEL,
        "messages": [{"role": "user", "content": workload.QUESTION.format(smiles="CCO")}],
        "max_tokens": workload.MAX_TOKENS,
        "stream": False,
    }
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory, "ask.lua")
        script.write_text(_SCRIPT.format(orjson.dumps(body).decode()))
        subprocess.run(
            [
                *("taskset", "--cpu-list", ",".join(map(str, cores))),
                *(wrk, "--threads", "1", "--connections", str(_CONNECTIONS)),
                *("--duration", f"{seconds}s", "--script", str(script)),
                f"{url}/chat/completions",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )


def _cpu_seconds(pid: int) -> float:
    """CPU time that a process has had: fields 14 and 15 of its `stat` (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
