"""Whatever else is written to the terminal goes above the bars.

While bars are drawn, proxies stand in the place of `sys.stdout` and `sys.stderr`. Log handlers
hold on to the streams themselves, and what they write would be wiped out by the next drawing.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any

from rich.console import Console
from rich.file_proxy import FileProxy

Handler = logging.StreamHandler[Any]


class Proxy(FileProxy):
    """Writes above the bars, and not while they are drawn.

    rich alone works out how far to go up, and goes there, in two steps: between them another
    thread may have changed what is on the screen.

    Args:
        console: Where the bars are.
        file: The stream itself.
        lock: Held while bars are drawn.
    """

    def __init__(self, console: Console, file: IO[str], lock: threading.RLock) -> None:
        super().__init__(console, file)
        self._writing = lock

    def write(self, text: str) -> int:
        """Write whole lines; keep the rest until its end comes."""
        with self._writing:
            return super().write(text)

    def flush(self) -> None:
        """Write what is kept as a line."""
        with self._writing:
            super().flush()


def take(console: Console, lock: threading.RLock) -> None:
    """Put proxies in the place of the streams that go to the terminal."""
    if _is_terminal(sys.stdout):
        sys.stdout = Proxy(console, sys.stdout, lock)
    sys.stderr = Proxy(console, sys.stderr, lock)
    for proxy in _proxies():
        for handler in _handlers():
            if handler.stream is proxy.rich_proxied_file:
                handler.setStream(proxy)


def give_back() -> None:
    """Put the streams back."""
    for proxy in _proxies():
        proxy.flush()  # a line that has not ended is still in there
        for handler in _handlers():
            if handler.stream is proxy:
                handler.setStream(proxy.rich_proxied_file)
    _do_away_with_proxies()


def give_back_after_fork() -> None:
    """Do away with all proxies, whose locks may be held by threads that are gone."""
    for handler in _handlers():
        handler.stream = getattr(handler.stream, "rich_proxied_file", handler.stream)
    _do_away_with_proxies()


def _do_away_with_proxies() -> None:
    sys.stdout = getattr(sys.stdout, "rich_proxied_file", sys.stdout)
    sys.stderr = getattr(sys.stderr, "rich_proxied_file", sys.stderr)


def _proxies() -> list[Any]:
    return [each for each in (sys.stdout, sys.stderr) if isinstance(each, Proxy)]


def _is_terminal(stream: IO[str] | None) -> bool:
    return stream is not None and stream.isatty() and not isinstance(stream, Proxy)


def _handlers() -> Iterator[Handler]:
    for logger in (logging.getLogger(), logging.getLogger("langgraph_hpc_fanout")):
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler):
                yield handler
