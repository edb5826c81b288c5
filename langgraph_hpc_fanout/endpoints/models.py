"""Which models an endpoint serves, under their logical names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Models = Mapping[str, str] | Iterable[str]
"""Logical names and the ids that they have here, or ids that are their own logical names."""


def as_mapping(models: Models) -> Mapping[str, str]:
    """Logical names to ids. One name may be given as it is."""
    if isinstance(models, Mapping):
        return dict(models)
    if isinstance(models, str):
        models = [models]
    return {model: model for model in models}


def id_of(models: Mapping[str, str], model: str | None) -> str | None:
    """The id of a request's model, or None if it is not served; no model means the only one."""
    if model is None:
        return next(iter(models.values())) if len(models) == 1 else None
    return models.get(model)
