"""What a benchmark finds: a table of raw figures, and ratios with the bars they must clear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.sample import Series

TOLERANCE = 0.3
"""How far `--check` lets a ratio miss its bar: small runs on a busy machine are noisy."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How thoroughly to measure.

    Attributes:
        full: Whether the figures go into the documentation.
    """

    full: bool

    @property
    def repeats(self) -> int:
        """How often each measurement is made."""
        return 5 if self.full else 3

    def pick(self, full: int, small: int) -> int:
        """A size for this scale."""
        return full if self.full else small


@dataclass(frozen=True, slots=True)
class Ratio:
    """A claim in one number.

    Attributes:
        claim: What is divided by what.
        value: The ratio.
        bar: What it must not cross.
        at_least: Whether it must stay above the bar, not below.
        exact: Whether it is counted, so that noise explains nothing.
    """

    claim: str
    value: float
    bar: float
    at_least: bool = False
    exact: bool = False

    @property
    def passes(self) -> bool:
        """Whether it clears its bar."""
        return self.excess <= 1.0

    @property
    def misses_badly(self) -> bool:
        """Whether it misses its bar by more than noise explains."""
        return self.excess > 1.0 + (0.0 if self.exact else TOLERANCE)

    @property
    def excess(self) -> float:
        """How far it is beyond its bar: 1 is on the bar, less is better."""
        if not self.at_least:
            return self.value / self.bar
        return self.bar / self.value if self.value > 0 else float("inf")

    @property
    def wanted(self) -> str:
        """The bar in words."""
        return f"{'at least' if self.at_least else 'at most'} {self.bar:g}"

    @property
    def verdict(self) -> str:
        """PASS or MISS."""
        return "PASS" if self.passes else "MISS"


@dataclass(frozen=True, slots=True)
class Findings:
    """What one benchmark found.

    Attributes:
        columns: Heads of the table.
        rows: Its cells.
        ratios: What is claimed.
        notes: Sentences that the figures need.
        bars: CPU µs an item by contender, where they are worth a chart.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    ratios: tuple[Ratio, ...]
    notes: tuple[str, ...] = ()
    bars: Mapping[str, float] = field(default_factory=dict)


TIMINGS = ("run", "items", "CPU µs/item", "of runs", "wall s", "peak RSS MB")


def timings(series: Mapping[str, Series]) -> tuple[tuple[str, ...], ...]:
    """The rows of a table with the columns `TIMINGS`: medians, and the CPU of every run."""
    return tuple(
        (
            name,
            f"{each.samples[0].items:,}",
            f"{each.cpu_per_item:,.4g}",
            ", ".join(f"{value:,.4g}" for value in sorted(each.all_cpu_per_item)),
            f"{each.wall:.2f}",
            f"{each.peak / 2**20:.0f}",
        )
        for name, each in series.items()
    )
