"""JSON values that fit a schema, taken from a text where they can be."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

Json = Any

_EXCERPT = 40
_NUMBER = re.compile(r"(?<![\w.])-?\d{1,15}(?:\.\d{1,15})?(?!\w)")
_QUOTED = re.compile(r"(?<!\w)(['\"])(.+?)\1(?!\w)")


def fitting(schema: Mapping[str, Any], text: str) -> Json:
    """A value that fits a JSON schema.

    Numbers are the first of the text that fits, enum members the first that the text names,
    strings what the text quotes, or its beginning. Objects get what is required, arrays one item
    or as many as they must have.

    Understood are type, const, enum, anyOf, oneOf, $ref, properties, required, items,
    prefixItems, minItems, maxItems, minLength, maxLength and the four bounds of numbers; all else
    is ignored.

    Args:
        schema: The schema. Its references point into itself.
        text: Where to take values from.

    Raises:
        ValueError: If nothing fits.
    """
    return _Maker(schema, text).make(schema, frozenset())


def names(text: str, word: str) -> bool:
    """Whether a text holds something as a word of its own, in upper or lower case."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def quoted(text: str) -> list[str]:
    """What a text has in quotation marks."""
    return [match[2] for match in _QUOTED.finditer(text)]


class _Maker:
    """Makes values for the parts of one schema.

    A reference is never followed inside itself: whatever a recursive schema allows, it also
    allows something without such a repetition, which the alternatives lead to.
    """

    __slots__ = ("_excerpt", "_numbers", "_root", "_text")

    def __init__(self, root: Mapping[str, Any], text: str) -> None:
        self._root = root
        self._text = text
        self._numbers = [_number(match[0]) for match in _NUMBER.finditer(text)]
        self._excerpt = next(iter(quoted(text)), " ".join(text.split())[:_EXCERPT]) or "text"

    def make(self, schema: Mapping[str, Any] | bool, inside: frozenset[str]) -> Json:
        """A value for a part of the schema, inside of the references that led to it."""
        if schema is True:
            return None
        if schema is False:
            raise ValueError("Nothing fits the schema false.")
        while (pointer := schema.get("$ref")) is not None:
            if pointer in inside:
                raise ValueError(f"{pointer} holds itself without end.")
            inside |= {pointer}
            schema = {**_without(schema, "$ref"), **self._target(pointer)}
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._member(schema["enum"])
        for key in ("anyOf", "oneOf"):
            if key in schema:
                rest = _without(schema, key)
                return self._first(({**rest, **option} for option in schema[key]), inside)
        return self._typed(schema, inside)

    def _typed(self, schema: Mapping[str, Any], inside: frozenset[str]) -> Json:
        match schema.get("type", "object" if "properties" in schema else "string"):
            case list(types):
                return self._first(({**schema, "type": each} for each in types), inside)
            case "object":
                return self._object(schema, inside)
            case "array":
                return self._array(schema, inside)
            case "string":
                return self._string(schema)
            case "integer" | "number" as kind:
                return self._bounded(schema, whole=kind == "integer")
            case "boolean":
                return True
            case "null":
                return None
            case other:
                raise ValueError(f"There is no type {other!r} in JSON schemas.")

    def _target(self, pointer: str) -> Mapping[str, Any]:
        target: Any = self._root
        for step in pointer.removeprefix("#").split("/")[1:]:
            target = target[step.replace("~1", "/").replace("~0", "~")]
        found: Mapping[str, Any] = target
        return found

    def _member(self, members: list[Json]) -> Json:
        return next((each for each in members if names(self._text, str(each))), members[0])

    def _first(self, schemas: Iterable[Mapping[str, Any]], inside: frozenset[str]) -> Json:
        """A value for the first of the schemas that has one."""
        flaws = []
        for schema in schemas:
            try:
                return self.make(schema, inside)
            except ValueError as error:
                flaws.append(str(error))
        raise ValueError(" ".join(flaws))

    def _object(self, schema: Mapping[str, Any], inside: frozenset[str]) -> Json:
        properties = schema.get("properties", {})
        return {
            name: self.make(properties.get(name, {}), inside) for name in schema.get("required", ())
        }

    def _array(self, schema: Mapping[str, Any], inside: frozenset[str]) -> Json:
        least = schema.get("minItems", 0)
        first, rest = schema.get("prefixItems", []), schema.get("items", {})
        count = max(least, min(1, schema.get("maxItems", 1)))
        schemas = [*first, *[rest] * (count - len(first))][:count]
        try:
            return [self.make(each, inside) for each in schemas]
        except ValueError:
            if least:
                raise
            return []

    def _string(self, schema: Mapping[str, Any]) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        text = self._excerpt
        if len(text) < least:
            text = (text * least)[:least]
        return text[:most]

    def _bounded(self, schema: Mapping[str, Any], *, whole: bool) -> int | float:
        """A number: of the text, else 0, else near a bound."""
        low = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf))
        high = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf))
        ends = [low, high, low + 1, high - 1, low / 2 + high / 2]
        near: list[int | float] = [end for end in ends if math.isfinite(end)]
        if whole:
            near = [end for each in near for end in (math.ceil(each), math.floor(each))]
        for number in (*self._numbers, 0, *near):
            if _within(schema, number) and (isinstance(number, int) or not whole):
                return number
        raise ValueError(f"No number fits {dict(schema)}.")


def _within(schema: Mapping[str, Any], number: float) -> bool:
    bounds = (
        schema.get("minimum", -math.inf) <= number <= schema.get("maximum", math.inf),
        schema.get("exclusiveMinimum", -math.inf) < number,
        number < schema.get("exclusiveMaximum", math.inf),
    )
    return all(bounds)


def _number(digits: str) -> int | float:
    return float(digits) if "." in digits else int(digits)


def _without(schema: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != key}
