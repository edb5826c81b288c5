"""What the orders of a fan-out are worth.

Two runs in virtual time, on endpoints with 16 slots each. In the first, items differ much in
length (lognormal, sigma 0.8, as answers and papers do) and nobody knows where the long ones are:
with `order="longest_first"` the longest of about a thousand that are looked at ahead leave first,
so that a run does not end with one of them. In the second there are ten questions about each
paper. Reading a paper takes 4 s and an answer 2 s, and an endpoint remembers the last 64 papers
that it has read: with `order="by_prefix"` a paper's questions go to one endpoint. The model of a
cache is a simple one; what a real one saves depends on prompts and model.
"""

from __future__ import annotations

import statistics

from benchmarks.contenders import orders
from benchmarks.findings import Findings, Ratio, Scale

_SEEDS = range(1, 6)
_PAPERS = 400
_QUESTIONS = 10


def run(scale: Scale) -> Findings:
    """Ask in input order, and in the order that suits."""
    endpoints, items = scale.pick(32, 8), scale.pick(8_000, 2_000)
    rows, shares = [], []
    for seed in _SEEDS:
        plain = orders.uneven("input", endpoints, items, seed)
        sorted_ = orders.uneven("longest_first", endpoints, items, seed)
        shares.append(sorted_.seconds / plain.seconds)
        rows.append(_row(f"uneven items, seed {seed}", plain, sorted_))
    plain = orders.papers("input", 16, _PAPERS, _QUESTIONS)
    grouped = orders.papers("by_prefix", 16, _PAPERS, _QUESTIONS)
    rows.append(_row("questions about papers", plain, grouped))
    return Findings(
        ("run", "in input order, s", "in the order that suits, s", "papers read", "then"),
        tuple(rows),
        (
            Ratio("longest first / input order: time, median", statistics.median(shares), 1.0),
            Ratio("by prefix / input order: time", grouped.seconds / plain.seconds, 0.7),
            Ratio("by prefix / input order: papers read", grouped.read / plain.read, 0.5),
        ),
        (f"{endpoints} endpoints and {items:,} uneven items; 16 and {_PAPERS:,} papers.",),
    )


def _row(name: str, plain: orders.Course, suited: orders.Course) -> tuple[str, ...]:
    return (
        name,
        f"{plain.seconds:,.0f}",
        f"{suited.seconds:,.0f}",
        f"{plain.read:,}",
        f"{suited.read:,}",
    )
