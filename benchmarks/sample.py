"""One measurement in a process of its own.

The child imports what it measures, sets it up, and puts a `Meter` around the run alone.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import ClassVar, ParamSpec, Self

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run cost.

    Attributes:
        items: How many items it had.
        cpu: Seconds of CPU, all threads of the process together.
        wall: Seconds by the clock.
        peak: Peak resident memory of the process, in bytes.
        lost: How many items it left without an answer.
        stopped: Whether it was stopped because it had cost too much; all is lost then, as far
            as the process can tell.
    """

    items: int
    cpu: float
    wall: float
    peak: int
    lost: int = 0
    stopped: bool = False

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
        most_cpu: Seconds of CPU after which the block is stopped, and the process with it; 0
            for no bound.
        sample: What the block cost, once it is over.
    """

    most_cpu: ClassVar[float] = 0.0
    sample: Sample

    def __init__(self, items: int) -> None:
        self._items = items

    def __enter__(self) -> Self:
        gc.collect()  # the set-up's garbage is not the run's
        if self.most_cpu:
            signal.signal(signal.SIGPROF, self._stop)
            signal.setitimer(signal.ITIMER_PROF, self.most_cpu)
        self._wall = time.perf_counter()
        self._cpu = time.process_time()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.sample = self._taken()
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _taken(self) -> Sample:
        cpu = time.process_time() - self._cpu
        return Sample(self._items, cpu, time.perf_counter() - self._wall, _peak())

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Not an exception: contenders would take it for one of their own."""
        _tell(replace(self._taken(), lost=self._items, stopped=True))
        os._exit(0)


@dataclass(frozen=True, slots=True)
class FreshProcess:
    """Calls functions of modules, each in an interpreter of its own.

    Temporary files, such as the journal of a run that outgrew graph state, go with the process.

    Attributes:
        python: The interpreter. One of another environment must be able to import the module.
        most_cpu: Seconds of CPU after which what is measured is stopped; 0 for no bound.
    """

    python: str = sys.executable
    most_cpu: float = 0.0

    def __call__(
        self, measure: Callable[P, Sample], *arguments: P.args, **options: P.kwargs
    ) -> Sample:
        """Call a function of a module; its arguments must be JSON data.

        Raises:
            RuntimeError: If it failed; its traceback is on stderr.
        """
        name = f"{measure.__module__}:{measure.__qualname__}"
        job = {"name": name, "most_cpu": self.most_cpu, "arguments": arguments, "options": options}
        with tempfile.TemporaryDirectory() as temporary:
            done = subprocess.run(
                [self.python, "-c", f"from {__name__} import serve; serve()"],
                input=json.dumps(job),
                stdout=subprocess.PIPE,
                text=True,
                check=False,
                env={**os.environ, "TMPDIR": temporary, "LANGSMITH_TRACING": "false"},
            )
        if done.returncode != 0:
            raise RuntimeError(f"{name} ended with {done.returncode}.")
        return Sample(**json.loads(done.stdout.splitlines()[-1]))


def in_fresh_process(
    measure: Callable[P, Sample], *arguments: P.args, **options: P.kwargs
) -> Sample:
    """Call a function of a module in a fresh process of this interpreter, without a bound."""
    return FreshProcess()(measure, *arguments, **options)


def contest(repeats: int, contenders: Mapping[str, Callable[[], Sample]]) -> dict[str, Series]:
    """Let contenders take turns, so that a busy minute of the machine hits them all alike.

    Raises:
        ValueError: If one lost answers, for that must not look cheap.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            sample = run()
            if sample.lost:
                raise ValueError(f"{name} lost {sample.lost} of {sample.items} answers.")
            samples[name].append(sample)
    return {name: Series(tuple(each)) for name, each in samples.items()}


def _peak() -> int:
    """Not `ru_maxrss`: a child inherits that from the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def serve() -> None:
    """Do the job that stdin tells; in the fresh process."""
    job = json.load(sys.stdin)
    module, _, function = job["name"].partition(":")
    Meter.most_cpu = job["most_cpu"]
    measure = getattr(importlib.import_module(module), function)
    _tell(measure(*job["arguments"], **job["options"]))


def _tell(sample: Sample) -> None:
    print(f"\n{json.dumps(asdict(sample))}", flush=True)
