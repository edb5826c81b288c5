"""The page of the documentation that holds the figures, a section a case."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.cases import CASES, TEXTS
from benchmarks.findings import Findings
from benchmarks.report import chart, machine

_DOCS = Path(__file__).parents[2] / "docs"
PAGE = _DOCS / "benchmarks.md"
_CHARTS = _DOCS / "benchmarks"
_INTRODUCTION = """\
# Benchmarks

Written by `make bench`, which is `python -m benchmarks`; `make bench-check` measures the same
in small and fails when a ratio misses its bar by more than 30 %. Every figure is the median of
runs in fresh processes. Compare ratios, not microseconds: the machine may have been shared.
"""
_VERDICTS = ("**PASS** |", "**MISS** |")


def update(name: str, found: Findings, measured: str) -> None:
    """Write the section of one case, and what the page says of all of them.

    Args:
        name: The case.
        found: What it found.
        measured: When, and of which commit.
    """
    sections = _sections(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    sections[name] = "\n".join(_section(name, found, measured)).strip()
    if found.bars:
        _CHARTS.mkdir(parents=True, exist_ok=True)
        chart.draw(found.bars, _chart(name))
    PAGE.write_text("\n".join(_page(sections)), encoding="utf-8")


def _sections(page: str) -> dict[str, str]:
    """The text of each section, by its title."""
    _, *sections = page.split("\n## ")
    parts = (section.partition("\n") for section in sections)
    return {title: text.strip() for title, _, text in parts}


def _page(sections: Mapping[str, str]) -> Iterator[str]:
    texts = {name: sections[name] for name in CASES if name in sections}
    yield _INTRODUCTION
    yield from _table(("benchmark", "ratio", "found", "bar", ""), ())[:-1]
    for name, text in texts.items():
        for line in text.splitlines():
            if line.endswith(_VERDICTS):
                yield f"| [{name}](#{name}) {line}"
    yield ""
    for name, text in texts.items():
        yield f"## {name}\n\n{text}\n"
    yield "## Machine and versions\n"
    yield from _table(("what", "which"), machine.describe().items())


def _section(name: str, found: Findings, measured: str) -> Iterator[str]:
    title, _, text = TEXTS[name].strip().partition("\n\n")
    yield f"**{title}**\n"
    yield f"{text}\n"
    if found.bars:
        yield f"![{chart.describe(found.bars)}]({_chart(name).relative_to(_DOCS)})\n"
    yield from _table(found.columns, found.rows)
    yield from _table(("ratio", "found", "bar", ""), _verdicts(found))
    yield from (f"{note}\n" for note in found.notes)
    yield f"{measured}\n"
    yield f"```sh\npython -m benchmarks --write {name}\n```\n"


def _chart(name: str) -> Path:
    return _CHARTS / f"{name}.svg"


def _verdicts(found: Findings) -> Iterator[tuple[str, ...]]:
    for ratio in found.ratios:
        yield (ratio.claim, f"{ratio.value:.2f}", ratio.wanted, f"**{ratio.verdict}**")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = (f"| {' | '.join(row)} |" for row in rows)
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *lines, ""]
