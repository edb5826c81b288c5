"""Tags: words by which tasks require or forbid endpoints."""

from __future__ import annotations

from collections.abc import Iterable

from langgraph_hpc_fanout.endpoints.protocol import Endpoint

Tags = str | Iterable[str]
"""One tag, or several."""


def as_tags(given: Tags, what: str) -> frozenset[str]:
    """The tags as a set.

    Args:
        given: One or several.
        what: Where they were given, for the message.

    Raises:
        TypeError: If one is no text.
        ValueError: If one is empty.
    """
    tags = frozenset((given,) if isinstance(given, str) else given)
    for tag in tags:
        if not isinstance(tag, str):
            raise TypeError(f"{what} has {tag!r} among its tags; they are words like 'on-site'.")
        if not tag.strip():
            raise ValueError(f"{what} has {tag!r} among its tags; they are words like 'on-site'.")
    return tags


def are_admitted(tags: frozenset[str], require: frozenset[str], forbid: frozenset[str]) -> bool:
    """Whether an endpoint with these tags may see what requires and forbids those."""
    return require <= tags and forbid.isdisjoint(tags)


def tags_of(endpoint: Endpoint) -> frozenset[str]:
    """The tags that an endpoint carries; one of a user's own need not have any."""
    return as_tags(getattr(endpoint, "tags", None) or (), endpoint.name)
