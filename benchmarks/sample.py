"""One measurement in a process of its own.

The child imports what it measures, sets it up, and puts a `Meter` around the run alone.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run cost.

    Attributes:
        items: How many items it had.
        cpu: Seconds of CPU, all threads of the process together.
        wall: Seconds by the clock.
        peak: Peak resident memory of the process, in bytes.
    """

    items: int
    cpu: float
    wall: float
    peak: int

    @property
    def cpu_per_item(self) -> float:
        """Microseconds of CPU an item."""
        return self.cpu / self.items * 1e6


@dataclass(frozen=True, slots=True)
class Series:
    """One contender's samples; its properties are medians."""

    samples: tuple[Sample, ...]

    @property
    def cpu(self) -> float:
        """Seconds of CPU."""
        return statistics.median(sample.cpu for sample in self.samples)

    @property
    def cpu_per_item(self) -> float:
        """Microseconds of CPU an item."""
        return statistics.median(self.all_cpu_per_item)

    @property
    def wall(self) -> float:
        """Seconds by the clock."""
        return statistics.median(sample.wall for sample in self.samples)

    @property
    def peak(self) -> float:
        """Peak resident memory, in bytes."""
        return statistics.median(sample.peak for sample in self.samples)

    @property
    def all_cpu_per_item(self) -> list[float]:
        """Microseconds of CPU an item, of each sample."""
        return [sample.cpu_per_item for sample in self.samples]


class Meter:
    """Measures the block that it is put around.

    Args:
        items: How many items the block works on.

    Attributes:
        sample: What the block cost, once it is over.
    """

    sample: Sample

    def __init__(self, items: int) -> None:
        self._items = items

    def __enter__(self) -> Self:
        gc.collect()  # the set-up's garbage is not the run's
        self._wall = time.perf_counter()
        self._cpu = time.process_time()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        cpu = time.process_time() - self._cpu
        wall = time.perf_counter() - self._wall
        self.sample = Sample(self._items, cpu, wall, _peak())


def in_fresh_process(
    measure: Callable[P, Sample], *arguments: P.args, **options: P.kwargs
) -> Sample:
    """Call a function of a module in a fresh interpreter; its arguments must be JSON data.

    Temporary files, such as the journal of a run that outgrew graph state, go with the process.

    Raises:
        RuntimeError: If it failed; its traceback is on stderr.
    """
    job = {"module": measure.__module__, "function": measure.__qualname__}
    with tempfile.TemporaryDirectory() as temporary:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=json.dumps({**job, "arguments": arguments, "options": options}),
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "TMPDIR": temporary, "LANGSMITH_TRACING": "false"},
        )
    if done.returncode != 0:
        raise RuntimeError(f"{job['module']}.{job['function']} ended with {done.returncode}.")
    return Sample(**json.loads(done.stdout))


def contest(repeats: int, contenders: Mapping[str, Callable[[], Sample]]) -> dict[str, Series]:
    """Let contenders take turns, so that a busy minute of the machine hits them all alike."""
    samples: dict[str, list[Sample]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            samples[name].append(run())
    return {name: Series(tuple(each)) for name, each in samples.items()}


def _peak() -> int:
    """Not `ru_maxrss`: a child inherits that from the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _serve(job: Mapping[str, Any]) -> None:
    measure = getattr(importlib.import_module(job["module"]), job["function"])
    print(json.dumps(asdict(measure(*job["arguments"], **job["options"]))))


if __name__ == "__main__":
    _serve(json.load(sys.stdin))
