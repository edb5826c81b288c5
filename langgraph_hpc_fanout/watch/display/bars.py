"""The bars of runs, drawn with rich."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from langgraph_hpc_fanout.watch.display import streams
from langgraph_hpc_fanout.watch.display.figures import (
    counted,
    failed_kinds,
    failures,
    share,
    speed,
    times,
    waiting,
)
from langgraph_hpc_fanout.watch.display.protocol import Event

_MOST_OF_A_NAME = 24


class Bars:
    """Bars at the bottom of the terminal; use `with`, and on one thread only."""

    def __init__(self) -> None:
        self._console = Console(
            file=sys.stderr,
            force_terminal=True,
            force_jupyter=False,
            markup=False,
            emoji=False,
            highlight=False,
        )
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        self._live.start()
        # rich hides the cursor, and a program that is killed could not show it again.
        self._console.show_cursor(True)
        streams.take(self._console, self._lock)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Without our lock: a log handler that is just writing has its own, and wants ours.
        streams.give_back()
        self._live.stop()

    def draw(self, ended: Sequence[Event], live: Sequence[Event]) -> None:
        """Print the bars of ended runs, which stay, and draw those of live runs below."""
        with self._lock, self._console:  # in one go
            self._live.update(Group(*[bar(event, ended=False) for event in live]), refresh=True)
            for event in ended:
                self._console.print(bar(event, ended=True))


def bar(event: Event, *, ended: bool) -> RenderableType:
    """Two lines: how far a run is, and how it goes."""
    line = Table.grid(expand=True, padding=(0, 1, 0, 0))
    for _ in range(4):
        line.add_column(no_wrap=True)
    line.columns[1].ratio = 1
    name = Text(_printable(event["node"]), style="bold")
    name.truncate(_MOST_OF_A_NAME, overflow="ellipsis")
    line.add_row(
        name,
        ProgressBar(total=1.0, completed=share(event)),
        Text(f"{counted(event)} {share(event):4.0%}"),
        Text(times(event, ended=ended)),
    )
    return Group(line, _how_it_goes(event, ended=ended))


def _how_it_goes(event: Event, *, ended: bool) -> Text:
    text = Text("  ", style="dim", no_wrap=True, overflow="ellipsis")
    if words := waiting(event):
        text.append(_printable(words), style="not dim yellow")
        text.append(", ")
    if event["failed"]:
        text.append(f"{failures(event):,} failed: {failed_kinds(event)}", style="not dim red")
        text.append(", ")
    if not ended:
        text.append(f"{event['in_flight']:,} in flight, ")
    return text.append(speed(event))


def _printable(text: str) -> str:
    """The text without control characters, which terminals would obey."""
    return "".join(each if each.isprintable() else "?" for each in text)
