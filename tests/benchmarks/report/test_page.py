from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.findings import Findings, Ratio
from benchmarks.report import page


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(page, "_DOCS", tmp_path)
    monkeypatch.setattr(page, "PAGE", tmp_path / "benchmarks.md")
    monkeypatch.setattr(page, "_CHARTS", tmp_path / "benchmarks")


def found(value: float, **bars: float) -> Findings:
    return Findings(("run",), (("one",),), (Ratio("a / b", value, 1.0),), ("A note.",), bars)


def test_a_section_tells_what_was_found_when_and_how_to_find_it_again() -> None:
    page.update("width", found(0.5), "Measured now.")
    text = page.PAGE.read_text()
    assert "| [width](#width) | a / b | 0.50 | at most 1 | **PASS** |" in text
    section = text.partition("## width\n")[2].partition("\n## ")[0]
    for part in ("| one |", "A note.", "Measured now.", "python -m benchmarks --write width"):
        assert part in section


def test_a_case_replaces_its_own_section_only_and_sections_keep_their_order() -> None:
    page.update("width", found(0.5), "Measured first.")
    page.update("overhead", found(0.25), "Measured second.")
    page.update("width", found(2.0), "Measured third.")
    text = page.PAGE.read_text()
    assert "Measured first." not in text
    assert text.index("## overhead") < text.index("## width") < text.index("## Machine")
    assert text.count("**MISS**") == 2  # in the summary and in the section
    page.update("width", found(2.0), "Measured third.")
    assert page.PAGE.read_text() == text


def test_bars_become_a_chart_that_says_in_words_what_it_shows(tmp_path: Path) -> None:
    page.update("overhead", found(0.5, FanOutNode=200.0, others=4_000.0), "Measured now.")
    assert "![CPU per item: FanOutNode 200 µs, others 4,000 µs](benchmarks/overhead.svg)" in (
        page.PAGE.read_text()
    )
    assert "4,000 µs" in (tmp_path / "benchmarks" / "overhead.svg").read_text()
