"""Whatever else is written to the terminal goes above the bars.

While bars are drawn, rich puts proxies in the place of `sys.stdout` and `sys.stderr`. Log handlers
hold on to the streams themselves, and what they write would be wiped out by the next drawing.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Any

Handler = logging.StreamHandler[Any]


def lend_to_logging() -> None:
    """Let log handlers that write to the terminal write through the proxies."""
    for proxy in _proxies():
        for handler in _handlers():
            if handler.stream is proxy.rich_proxied_file:
                handler.setStream(proxy)


def take_back_from_logging() -> None:
    """Let them write to the terminal again."""
    for proxy in _proxies():
        proxy.flush()  # a line that has not ended is still in there
        for handler in _handlers():
            if handler.stream is proxy:
                handler.setStream(proxy.rich_proxied_file)


def give_back_after_fork() -> None:
    """Do away with all proxies, whose locks may be held by threads that are gone."""
    for handler in _handlers():
        handler.stream = getattr(handler.stream, "rich_proxied_file", handler.stream)
    sys.stdout = getattr(sys.stdout, "rich_proxied_file", sys.stdout)
    sys.stderr = getattr(sys.stderr, "rich_proxied_file", sys.stderr)


def _proxies() -> list[Any]:
    return [each for each in (sys.stdout, sys.stderr) if hasattr(each, "rich_proxied_file")]


def _handlers() -> Iterator[Handler]:
    for logger in (logging.getLogger(), logging.getLogger("langgraph_hpc_fanout")):
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler):
                yield handler
