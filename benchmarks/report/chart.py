"""A chart: CPU per item by contender, on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

_OURS, _THEIRS, _BARE = "#0072B2", "#D55E00", "#999999"
"""From Okabe and Ito's palette, which colour-blind readers can tell apart."""

_TEXT = "#787878"
"""As far from white as from black: the chart has no background, and pages may be dark."""

_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "benchmarks",
    "font.size": 11,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), _TEXT),
    **dict.fromkeys(("xtick.color", "ytick.color"), _TEXT),
}


def draw(bars: Mapping[str, float], path: Path) -> None:
    """Write the chart of some µs an item as SVG."""
    names, values = list(bars), list(bars.values())
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 1.0 + 0.42 * len(bars)), layout="constrained")
        axes = figure.add_subplot()
        axes.barh(names, values, color=[_colour(name) for name in names], height=0.62)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 3, max(values) * 4)
        axes.set_xlabel("CPU µs per item (logarithmic)")
        for place, value in enumerate(values):
            axes.text(value * 1.08, place, f"{value:,.0f} µs", va="center")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", which="minor", length=0)
        metadata = {"Date": None, "Title": describe(bars)}
        figure.savefig(path, format="svg", transparent=True, metadata=metadata)


def describe(bars: Mapping[str, float]) -> str:
    """The chart in words."""
    return "CPU per item: " + ", ".join(f"{name} {value:,.0f} µs" for name, value in bars.items())


def _colour(name: str) -> str:
    if name.startswith("FanOutNode"):
        return _OURS
    return _BARE if name.startswith("bare") else _THEIRS
