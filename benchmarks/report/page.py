"""The page of the documentation that holds the figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.cases import TEXTS
from benchmarks.findings import Findings
from benchmarks.report import chart, machine

_DOCS = Path(__file__).parents[2] / "docs"
PAGE = _DOCS / "benchmarks.md"
_CHART = _DOCS / "benchmarks" / "cpu_per_item.svg"
_INTRODUCTION = """\
# Benchmarks

Written by `make bench`, which is `python -m benchmarks`; `make bench-check` measures the same
in small and fails when a ratio misses its bar by more than 30 %. Every figure is the median of
runs in fresh processes. Compare ratios, not microseconds: the machine may have been shared.
"""


def write(findings: Mapping[str, Findings], journey: machine.Journey) -> None:
    """Write page and chart."""
    _CHART.parent.mkdir(parents=True, exist_ok=True)
    bars = next((found.bars for found in findings.values() if found.bars), {})
    if bars:
        chart.draw(bars, _CHART)
    facts = {**machine.describe(), **journey.describe()}
    PAGE.write_text("\n".join(_lines(findings, bars, facts)), encoding="utf-8")


def _lines(
    findings: Mapping[str, Findings], bars: Mapping[str, float], facts: Mapping[str, str]
) -> Iterator[str]:
    yield _INTRODUCTION
    if bars:
        alt = "; ".join(f"{name}: {value:,.0f}" for name, value in bars.items())
        yield f"![CPU microseconds per item. {alt}]({_CHART.relative_to(_DOCS)})\n"
    yield from _table(
        ("benchmark", "ratio", "found", "bar", ""),
        (
            (f"[{name}](#{name})", *cells)
            for name, found in findings.items()
            for cells in _verdicts(found)
        ),
    )
    for name, found in findings.items():
        title, _, text = TEXTS[name].strip().partition("\n\n")
        yield f"## {name}\n"
        yield f"**{title}**\n"
        yield f"{text}\n"
        yield from _table(found.columns, found.rows)
        yield from _table(("ratio", "found", "bar", ""), _verdicts(found))
        yield from (f"{note}\n" for note in found.notes)
        yield f"```sh\npython -m benchmarks {name}\n```\n"
    yield "## Machine and versions\n"
    yield from _table(("what", "which"), facts.items())


def _verdicts(found: Findings) -> Iterator[tuple[str, ...]]:
    for ratio in found.ratios:
        yield (ratio.claim, f"{ratio.value:.2f}", ratio.wanted, f"**{ratio.verdict}**")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
