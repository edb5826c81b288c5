"""A progress event as a piece of HTML that needs nothing else."""

from __future__ import annotations

from html import escape

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

_MOST_ENDPOINTS = 12
# Text has the notebook's own colour, and greys are see-through: right on light and on dark.
_FRAME = "font:13px/1.6 system-ui,sans-serif;max-width:52em;margin:.3em 0"
_TRACK = "display:flex;height:8px;margin:3px 0;border-radius:4px;background:#8884;overflow:hidden"
_CELL = "padding:0 1.2em 0 0;text-align:left"
_OK, _FAILED, _WAITING = "#2a9d5c", "#d9534f", "#b8860b"


def markup(event: Event, *, ended: bool) -> str:
    """The event as HTML: a bar, counts, failures by kind, and items by endpoint."""
    heading = f"<b>{escape(event['node'])}</b> {counted(event)} ({share(event):.0%})"
    return (
        f'<div style="{_FRAME}">'
        f"<div>{heading} {_pale(times(event, ended=ended))}</div>"
        f"{_bar(event)}<div>{_counts(event)}</div>{_endpoints(event)}</div>"
    )


def _bar(event: Event) -> str:
    total = event["total"] or 1
    parts = ((event["ok"], _OK), (failures(event), _FAILED))
    filled = "".join(
        f'<div style="width:{100 * count / total:.2f}%;background:{colour}"></div>'
        for count, colour in parts
    )
    return f'<div style="{_TRACK}">{filled}</div>'


def _counts(event: Event) -> str:
    counts = [f"{event['ok']:,} ok"]
    if event["cached"]:
        counts.append(f"{event['cached']:,} known before")
    counts += [f"{event['in_flight']:,} in flight", speed(event)]
    return _pale(", ".join(counts)) + _waiting(event) + _failures(event)


def _waiting(event: Event) -> str:
    words = waiting(event)
    return words and f'<div style="color:{_WAITING}">{escape(words)}</div>'


def _failures(event: Event) -> str:
    if not event["failed"]:
        return ""
    kinds = escape(failed_kinds(event))
    return f'<div style="color:{_FAILED}">{failures(event):,} failed: {kinds}</div>'


def _endpoints(event: Event) -> str:
    busiest = sorted(event["endpoints"].items(), key=lambda each: -each[1])
    if not busiest:
        return ""
    rows = "".join(
        f'<tr style="background:none"><td style="{_CELL}">{escape(name)}</td>'
        f'<td style="text-align:right">{count:,} items</td></tr>'
        for name, count in busiest[:_MOST_ENDPOINTS]
    )
    more = len(busiest) - _MOST_ENDPOINTS
    rest = _pale(f"and {more:,} more endpoints") if more > 0 else ""
    return f'<table style="margin:.3em 0;border:0"><tbody>{rows}</tbody></table>{rest}'


def _pale(text: str) -> str:
    return f'<span style="opacity:.75">{text}</span>'
