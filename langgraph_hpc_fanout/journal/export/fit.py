"""Whether a value is whole as an Arrow type, for Arrow takes some and loses a part of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

Misfit = Callable[[Any], str | None]
"""Why a value is none of a type, or None when it may be one."""


def misfit_of(kind: pa.DataType) -> Misfit | None:
    """What tells why a value is none of a type; None where Arrow itself loses nothing."""
    import pyarrow.types as types  # noqa: PLC0415

    if types.is_integer(kind):
        return _fraction
    if types.is_floating(kind):
        return _truth
    if types.is_struct(kind):
        return _struct_misfit({field.name: misfit_of(field.type) for field in kind})
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _list_misfit(misfit_of(kind.value_type))
    return None


def _fraction(value: Any) -> str | None:
    lost = isinstance(value, float) and not value.is_integer()
    return f"{value!r} is not whole" if lost else None


def _truth(value: Any) -> str | None:
    return f"{value!r} is no number" if isinstance(value, bool) else None


def _struct_misfit(fields: Mapping[str, Misfit | None]) -> Misfit:
    deep = {name: misfit for name, misfit in fields.items() if misfit is not None}

    def misfit(value: Any) -> str | None:
        if value is None:
            return None
        if not isinstance(value, dict):
            return f"a {type(value).__name__} has no fields"
        if unknown := value.keys() - fields.keys():
            return f"it has no field {min(unknown)!r}"
        return _first(check(value.get(name)) for name, check in deep.items())

    return misfit


def _list_misfit(inner: Misfit | None) -> Misfit:
    def misfit(value: Any) -> str | None:
        if value is None:
            return None
        if not isinstance(value, list):  # a text is a list of its letters to Arrow
            return f"a {type(value).__name__} is no list"
        return None if inner is None else _first(map(inner, value))

    return misfit


def _first(reasons: Iterable[str | None]) -> str | None:
    return next(filter(None, reasons), None)
