"""The command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.cases import CASES, ON_REQUEST
from benchmarks.findings import TOLERANCE, Findings, Ratio, Scale
from benchmarks.report import machine, page


def main(arguments: Sequence[str] | None = None) -> int:
    """Run benchmarks; returns the exit status."""
    options = _parser().parse_args(arguments)
    missed: list[Ratio] = []
    for name in options.names or [each for each in CASES if each not in ON_REQUEST]:
        journey = machine.Journey()
        found = CASES[name](Scale(full=not options.check))
        _show(name, found, journey.seconds)
        missed += [ratio for ratio in found.ratios if ratio.misses_badly]
        if options.write or not (options.check or options.names):
            page.update(name, found, journey.describe())
            print(f"  written: {page.PAGE}")
    if not options.check:
        return 0
    for ratio in missed:
        print(f"misses its bar by more than {TOLERANCE:.0%}: {ratio.claim}", file=sys.stderr)
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="small; fail when a bar is missed")
    how.add_argument("--write", action="store_true", help="write the sections of those named")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        type=_name,
        help=f"which of {', '.join(CASES)}; all but {', '.join(ON_REQUEST)} by default",
    )
    return parser


def _name(text: str) -> str:
    """Not argparse's `choices`, which would list the empty default among them."""
    if text not in CASES:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(CASES)}")
    return text


def _show(name: str, found: Findings, seconds: float) -> None:
    print(f"\n{name} ({seconds:.0f} s)")
    widths = [max(map(len, column)) for column in zip(found.columns, *found.rows, strict=True)]
    for row in (found.columns, *found.rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("   ", "  ".join(cells).rstrip())
    for note in found.notes:
        print(f"    {note}")
    for ratio in found.ratios:
        print(f"  {ratio.verdict} {ratio.claim}: {ratio.value:.2f}, {ratio.wanted}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
