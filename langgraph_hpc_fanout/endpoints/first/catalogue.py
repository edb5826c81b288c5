"""Which cluster serves a model, under which framework and id: `/list-endpoints` and `/models`.

Source: FIRST main 329c0cd, views/core.py and services.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

_CHAT = "chat/completions"
_MOST_NAMES = 12
_NEAR = 0.7
"""Likeness, from 0 to 1, from which a name may be meant (difflib's ratio)."""


@dataclass(frozen=True, slots=True)
class Served:
    """A model as one cluster serves it.

    Attributes:
        cluster: The cluster's name, such as `sophia`.
        framework: What serves it there, such as `vllm`.
        model: Its id there, such as `openai/gpt-oss-120b`.
    """

    cluster: str
    framework: str
    model: str


@dataclass(frozen=True, slots=True)
class Card:
    """What a cluster tells of a model.

    Attributes:
        user_tokens: Tokens per minute that a user may have; None where it is not told.
        context: Tokens of its context window; None where it is not told.
    """

    user_tokens: int | None = None
    context: int | None = None


def read_catalogue(raw: bytes) -> tuple[Served, ...]:
    """All models for chat that the gateway lists for this user.

    Raises:
        ValueError: If it is no such list.
    """
    found = []
    try:
        for cluster, about in orjson.loads(raw)["clusters"].items():
            for framework, offer in about["frameworks"].items():
                if any(str(each).endswith(_CHAT) for each in offer["endpoints"]):
                    found += [Served(cluster, framework, str(each)) for each in offer["models"]]
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ValueError("its /list-endpoints is no list of clusters") from error
    return tuple(found)


def read_card(raw: bytes, model: str) -> Card:
    """What `/{cluster}/models` tells of a model; nothing of one that it does not have."""
    try:
        listed = orjson.loads(raw)
        cards = listed.get("data", []) if isinstance(listed, dict) else listed
        (card,) = [each for each in cards if each["id"] == model]
        return Card(
            _positive(card.get("rate_limit_token_per_minute_per_user")),
            _positive((card.get("capabilities") or {}).get("context_window_tokens")),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return Card()


def find(
    catalogue: Sequence[Served], model: str, cluster: str, framework: str | None = None
) -> Served:
    """The model that is meant, on a cluster.

    One model has different ids on different clusters, so its last part is enough to name it.

    Raises:
        LookupError: If the cluster does not serve it to this user, or several that it may be;
            the message names the right id where one is near.
    """
    there = _at(catalogue, cluster, framework)
    exact = [each for each in there if each.model == model]
    found = exact or [each for each in there if is_same(each.model, model)]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(sorted(f"{each.framework}: {each.model}" for each in found))
        raise LookupError(f"{cluster} serves several {model!r} ({ids}); name one by its id.")
    raise LookupError(why_not(catalogue, model, cluster, framework))


def clusters_of(catalogue: Iterable[Served], model: str) -> list[Served]:
    """Where a model is served, one a cluster."""
    found: dict[str, Served] = {}
    for each in catalogue:
        if is_same(each.model, model):
            found.setdefault(each.cluster, each)
    return list(found.values())


def is_same(one: str, other: str) -> bool:
    """Whether two ids name one model: all of them, or the part that is the model's own name."""
    return one == other or _own_name(one) == _own_name(other)


def _at(catalogue: Sequence[Served], cluster: str, framework: str | None) -> list[Served]:
    there = [each for each in catalogue if each.cluster == cluster]
    return [each for each in there if framework in (None, each.framework)]


def nearest(model: str, ids: Iterable[str]) -> str | None:
    """The id that is most likely meant by a name that is none; None where none is near."""
    by_name = {_own_name(each): each for each in sorted(ids)}
    near = difflib.get_close_matches(_own_name(model), by_name, n=1, cutoff=_NEAR)
    return by_name[near[0]] if near else None


def _own_name(model: str) -> str:
    return model.rpartition("/")[2].casefold()


def why_not(
    catalogue: Sequence[Served], model: str, cluster: str, framework: str | None = None
) -> str:
    """Why a cluster does not serve a model to this user, and which one may be meant."""
    there = _at(catalogue, cluster, framework)
    if not there:
        where = cluster if framework is None else f"{cluster}/{framework}"
        names = sorted({f"{each.cluster}/{each.framework}" for each in catalogue})
        return (
            f"FIRST lists no models of {where} for you; it lists {', '.join(names) or 'nothing'}."
        )
    ids = sorted({each.model for each in there})
    if (near := nearest(model, ids)) is not None:
        return f"{cluster} serves no {model!r}; did you mean {near!r}?"
    more = f" and {len(ids) - _MOST_NAMES} more" if len(ids) > _MOST_NAMES else ""
    return f"{cluster} serves no {model!r} to you, only {', '.join(ids[:_MOST_NAMES])}{more}."


def _positive(number: Any) -> int | None:
    return number if isinstance(number, int) and number > 0 else None
