"""Outcomes as Arrow columns.

pyarrow is imported when it is needed: it takes a while, and is an extra.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from langgraph_hpc_fanout.journal.export.fit import misfit_of
from langgraph_hpc_fanout.records import SWEEP, Outcome

if TYPE_CHECKING:
    import pyarrow as pa

PREFIX = "sweep_"
"""What the names of columns with coordinates of a sweep begin with."""

_TYPES = {
    "index": "int64",
    "key": "string",
    "sample": "int64",
    "ok": "bool",
    "value": "string",
    "error_kind": "string",
    "error_message": "string",
    "model": "string",
    "endpoint": "string",
    "prompt_tokens": "int64",
    "completion_tokens": "int64",
    "attempts": "int64",
    "latency": "double",
    "finish_reason": "string",
    "cost": "double",
    "cached": "bool",
}

REPETITIVE = frozenset({"error_kind", "model", "endpoint", "finish_reason"})
"""Columns in which a few texts come again and again."""


class Columns:
    """Turns outcomes into Arrow record batches of one schema.

    Args:
        first: Some of the outcomes, which tell the coordinates of a sweep.
        values: Arrow type of the values; None makes texts of them.
    """

    def __init__(self, first: Sequence[Outcome], values: pa.DataType | None) -> None:
        import pyarrow as pa  # noqa: PLC0415

        self._values = values
        self._misfit = None if values is None else misfit_of(values)
        types: dict[str, Any] = dict(_TYPES)
        if values is not None:
            types["value"] = values
        for name in _coordinates(first):
            types[PREFIX + name] = _type_of(_sweep(each).get(name) for each in first)
        self.schema = pa.schema([pa.field(name, kind) for name, kind in types.items()])
        self._sweep = {name[len(PREFIX) :]: types[name] for name in types if name not in _TYPES}

    def batch(self, outcomes: Sequence[Outcome]) -> pa.RecordBatch:
        """The outcomes as a record batch.

        Raises:
            ValueError: If a value does not fit; the message names the item.
        """
        import pyarrow as pa  # noqa: PLC0415

        arrays = [
            _array(name, values, self.schema.field(name).type, outcomes)
            for name, values in self._lists(outcomes).items()
        ]
        return pa.record_batch(arrays, schema=self.schema)

    def _lists(self, outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
        usages = [each.usage for each in outcomes]
        errors = [each.error for each in outcomes]
        return {
            "index": [each.index for each in outcomes],
            "key": [each.key for each in outcomes],
            "sample": [each.sample for each in outcomes],
            "ok": [each.ok for each in outcomes],
            "value": self._values_of(outcomes),
            "error_kind": [error and error.kind for error in errors],
            "error_message": [error and error.message for error in errors],
            "model": [each.model for each in outcomes],
            "endpoint": [each.endpoint for each in outcomes],
            "prompt_tokens": [usage and usage.prompt_tokens for usage in usages],
            "completion_tokens": [usage and usage.completion_tokens for usage in usages],
            "attempts": [each.attempts for each in outcomes],
            "latency": [each.latency for each in outcomes],
            "finish_reason": [each.finish_reason for each in outcomes],
            "cost": [each.cost for each in outcomes],
            "cached": [bool(each.meta.get("cached")) for each in outcomes],
            **self._sweep_of(outcomes),
        }

    def _values_of(self, outcomes: Sequence[Outcome]) -> list[Any]:
        if self._values is None:
            return [_text(each.value) for each in outcomes]
        if self._misfit is not None:
            for each in outcomes:
                if (reason := self._misfit(each.value)) is not None:
                    raise ValueError(_no_fit("value", each, self._values, reason))
        return [each.value for each in outcomes]

    def _sweep_of(self, outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
        if unknown := _coordinates(outcomes).keys() - self._sweep.keys():
            raise ValueError(
                f"Some outcomes have coordinates of a sweep that the first lack ({min(unknown)}): "
                "write the outcomes of each run to a file of its own."
            )
        return {
            PREFIX + name: [
                _text(value) if kind == "string" else value
                for value in (_sweep(each).get(name) for each in outcomes)
            ]
            for name, kind in self._sweep.items()
        }


def _sweep(outcome: Outcome) -> Mapping[str, Any]:
    return outcome.meta.get(SWEEP) or {}


def _coordinates(outcomes: Iterable[Outcome]) -> dict[str, None]:
    """Names of coordinates, in the order in which they were first seen."""
    return dict.fromkeys(name for each in outcomes for name in _sweep(each))


def _type_of(values: Iterable[Any]) -> str:
    """Type of a coordinate: all numbers are doubles, for a 0.5 may come after many a 1."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return "bool"
    return "double" if kinds and kinds <= {int, float} else "string"


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()


def _array(name: str, values: list[Any], kind: pa.DataType, outcomes: Sequence[Outcome]) -> Any:
    import pyarrow as pa  # noqa: PLC0415

    misfits = (pa.ArrowException, TypeError, ValueError, OverflowError)
    try:
        return pa.array(values, kind)
    except misfits:
        for outcome, value in zip(outcomes, values, strict=True):
            try:
                pa.array([value], kind)
            except misfits as error:
                raise ValueError(_no_fit(name, outcome, kind, str(error))) from None
        raise  # each fits, all together do not


def _no_fit(name: str, outcome: Outcome, kind: Any, reason: str) -> str:
    return f"The {name} of item {outcome.index}, sample {outcome.sample} is no {kind}: {reason}."
