"""The chart: CPU per item of the three contenders, on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

_COLOURS = ("#999999", "#0072B2", "#D55E00")
"""From Okabe and Ito's palette, which colour-blind readers can tell apart."""


def draw(bars: Mapping[str, float], path: Path) -> None:
    """Write the chart as SVG, with its text as text."""
    names, values = list(bars), list(bars.values())
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "benchmarks", "font.size": 11}):
        figure = Figure(figsize=(7.2, 2.4), layout="constrained")
        axes = figure.add_subplot()
        axes.barh(names, values, color=_COLOURS[: len(names)], height=0.62)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 3, max(values) * 4)
        axes.set_xlabel("CPU µs per item (logarithmic)")
        for place, value in enumerate(values):
            axes.text(value * 1.08, place, f"{value:,.0f} µs", va="center")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", which="minor", length=0)
        figure.savefig(path, format="svg", metadata={"Date": None, "Title": _title(bars)})


def _title(bars: Mapping[str, float]) -> str:
    return "CPU per item: " + ", ".join(f"{name} {value:,.0f} µs" for name, value in bars.items())
