"""The figures of a progress event, in the words that all displays use."""

from __future__ import annotations

from datetime import timedelta

from langgraph_hpc_fanout.watch.display.protocol import Event


def line(event: Event) -> str:
    """Where a run stands, in one line."""
    kinds = f" {event['failed']}" if event["failed"] else ""
    return (
        f"{event['node']}: {event['done']}/{event['total']} done, {event['ok']} ok, "
        f"{failures(event)} failed{kinds}, {event['in_flight']} in flight, "
        f"{items_per_second(event):.1f} items/s, {tokens_per_second(event):.0f} tokens/s, "
        f"{event['seconds']:.1f} s{_and(cost(event))}{_and(waiting(event))}"
    )


def failures(event: Event) -> int:
    """Items that failed."""
    return sum(event["failed"].values())


def items_per_second(event: Event) -> float:
    """Items a second, without those that the journal knew."""
    return _rate(event["done"] - event["cached"], event)


def tokens_per_second(event: Event) -> float:
    """Tokens a second that models wrote."""
    return _rate(event["tokens"]["completion"], event)


def speed(event: Event) -> str:
    """Both rates in words, and the cost where there is one."""
    rates = f"{items_per_second(event):,.1f} items/s, {tokens_per_second(event):,.0f} tokens/s"
    return f"{rates}{_and(cost(event))}"


def cost(event: Event) -> str:
    """Dollars and node-hours so far, and those that the whole run will take; empty without any."""
    if (so_far := event.get("cost")) is None:
        return ""
    projected = so_far["projected"] or so_far
    amounts = [
        (so_far["usd"], projected["usd"], _dollars),
        (so_far["node_hours"], projected["node_hours"], _node_hours),
    ]
    return ", ".join(
        f"{words(now)} of about {words(whole)}" if whole > now else words(now)
        for now, whole, words in amounts
        if whole
    )


def waiting(event: Event) -> str:
    """For what the run waits; empty where it need not."""
    words = event.get("waiting")
    return f"waiting: {words}" if words else ""


def counted(event: Event) -> str:
    """How many items are done, of how many."""
    return f"{event['done']:,}/{event['total']:,}"


def share(event: Event) -> float:
    """The part of the run that is done, from 0 to 1; an empty run is done."""
    return event["done"] / event["total"] if event["total"] else 1.0


def failed_kinds(event: Event) -> str:
    """The failures by kind, the most frequent first."""
    kinds = sorted(event["failed"].items(), key=lambda kind: -kind[1])
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds)


def times(event: Event, *, ended: bool) -> str:
    """How long the run has taken, and what is left or how it ended."""
    elapsed = duration(event["seconds"])
    if ended:
        return elapsed if event["done"] == event["total"] else f"{elapsed}, stopped"
    remaining = event["remaining_seconds"]
    return elapsed if remaining is None else f"{elapsed}, {duration(remaining)} left"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


def _dollars(usd: float) -> str:
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.2g}"


def _node_hours(hours: float) -> str:
    return f"{hours:,.3g} node-hours"


def _and(words: str) -> str:
    return words and f", {words}"


def _rate(count: int, event: Event) -> float:
    seconds: float = event["seconds"]
    return count / seconds if seconds else 0.0
