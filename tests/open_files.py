"""Which files a test left open."""

from __future__ import annotations

from pathlib import Path


def open_files(directory: Path) -> int:
    """How many files below a directory this process has open.

    Only those: elsewhere the garbage of other tests may close its files at any moment.
    """
    return sum(directory in each.parents for each in map(_target, Path("/proc/self/fd").iterdir()))


def _target(descriptor: Path) -> Path:
    try:
        return descriptor.readlink()
    except FileNotFoundError:  # the listing's own
        return descriptor
