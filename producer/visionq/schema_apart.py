"""Telling schemas apart: strict forms that leave out whatever fits another schema.

`oneOf` asks that a document fits one branch and none of the others, `not` and `else` that it does
not fit. Each is carried out where that can be proven of every document that may be written; a
property that decides, and may be missing, is left out or made to decide.
"""

from __future__ import annotations

from typing import Any

from visionq.patterns import other_than, written_pattern
from visionq.schema_parts import Part, References
from visionq.schema_scalars import Strict, is_number, patterned
from visionq.schema_values import Values, is_among, is_of_type

MAX_LEVELS = 12
MAX_STEPS = 20_000
MAX_LEFT_OUT = 40
"""Texts that a string may be told not to be."""
TYPES = ("object", "array", "string", "number", "boolean", "null")
"""Every value is of one of these."""
_ANNOTATIONS = frozenset(
    {
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "$comment",
        "$schema",
        "$id",
        "id",
    }
)


class NotKnown(Exception):
    """Whether a document that may be written fits the other schema."""


class Apart:
    """Narrows strict forms until no document of theirs fits another schema."""

    def __init__(self, references: References, values: Values) -> None:
        self._references = references
        self._values = values
        self._steps_left = MAX_STEPS

    def without(self, strict: Strict, part: Part, level: int = 0) -> Strict | None:
        """What is left of a strict form without what fits the part: nothing, as None, or less.

        Raises `NotKnown` where the two cannot be told apart.
        """
        schema = part.schema
        if isinstance(schema, bool):
            return None if schema else strict
        self._steps_left -= 1
        if not isinstance(schema, dict) or level > MAX_LEVELS or self._steps_left < 0:
            raise NotKnown
        if "anyOf" in strict:
            each = [self.without(one, part, level) for one in strict["anyOf"]]
            return joined([one for one in each if one is not None])
        if "enum" in strict:
            return self._values_without(strict, part)
        if _takes_all(schema, strict["type"]):
            return None
        left = []
        for key in ["$ref"] if "$ref" in schema else schema:  # older drafts ignore the others
            try:
                found = self._by_keyword(strict, part, key, level)
            except NotKnown:
                continue
            if found is strict:
                return strict
            if found is not None:
                left.append(found)
        if not left:
            raise NotKnown
        return joined(left)

    def _values_without(self, strict: Strict, part: Part) -> Strict | None:
        answers = [self._values.fits(value, part) for value in strict["enum"]]
        if None in answers:
            raise NotKnown
        left = [value for value, fits in zip(strict["enum"], answers, strict=True) if fits is False]
        return {"enum": left} if left else None

    def _by_keyword(self, strict: Strict, part: Part, key: str, level: int) -> Strict | None:
        """What this one keyword takes away suffices, or `NotKnown`."""
        said = part.schema[key]
        if key in self._references.unsure:
            raise NotKnown
        match key:
            case "$ref":
                return self.without(strict, self._references.target(part), level + 1)
            case "allOf" if isinstance(said, list):
                for number in range(len(said)):
                    try:
                        found = self.without(strict, part.inner(key, number), level + 1)
                    except NotKnown:
                        continue
                    if found is not None:
                        return found
            case "anyOf" | "oneOf" if isinstance(said, list):
                left: Strict | None = strict
                for number in range(len(said)):
                    if left is not None:
                        left = self.without(left, part.inner(key, number), level + 1)
                return left
            case "not":
                if _takes_all(part.inner(key).schema, str(strict.get("type"))):
                    return strict
                raise NotKnown
            case "type":
                return _without_types(strict, said)
            case "enum" | "const":
                return self._without_values(strict, said if key == "enum" else [said])
        match strict.get("type"):
            case "object":
                return self._object(strict, part, key, level)
            case "array":
                return self._array(strict, part, key, level)
            case "string":
                return _string(strict, key, said)
            case "integer" | "number":
                return _number(strict, key, said)
        raise NotKnown

    def _without_values(self, strict: Strict, values: Any) -> Strict:
        kinds = {"integer": "number"}
        kind = strict.get("type")
        if isinstance(values, list) and not any(
            _type_of(value) == kinds.get(str(kind), kind) for value in values
        ):
            return strict
        if kind == "string" and "pattern" in strict and isinstance(values, list):
            pattern = written_pattern(strict["pattern"])
            if all(pattern.matches(one) is False for one in values if isinstance(one, str)):
                return strict
        elif kind == "string" and isinstance(values, list) and len(values) <= MAX_LEFT_OUT:
            return _other_strings(strict, values)
        raise NotKnown

    def _object(self, strict: Strict, part: Part, key: str, level: int) -> Strict | None:
        said = part.schema[key]
        if key == "required" and isinstance(said, list):
            return self._without_required(strict, said)
        if key == "properties" and isinstance(said, dict):
            return self._without_one(strict, part, level)
        if key == "additionalProperties" and said is False:
            own = part.schema.get("properties", {})
            if not part.schema.get("patternProperties") and any(
                name not in own for name in strict["required"]
            ):
                return strict
        raise NotKnown

    def _without_one(self, strict: Strict, part: Part, level: int) -> Strict | None:
        """Documents in which one of the properties is not as the part wants it."""
        left = []
        for name in part.schema["properties"]:
            try:
                inner = part.inner("properties", name)
                found = self._without_property(strict, inner, name, level)
            except NotKnown:
                continue
            if found is strict:
                return strict
            if found is not None:
                left.append(found)
        return joined(left)

    def _without_required(self, strict: Strict, names: list[Any]) -> Strict:
        """Documents that lack one of the names: the first that may be left out."""
        for name in names:
            if name not in strict["properties"] and not _may_have(strict, name):
                return strict
        for name in names:
            if name in strict["required"] or name not in strict["properties"]:
                continue
            left = {key: one for key, one in strict["properties"].items() if key != name}
            if left and "minProperties" not in strict:
                return {**strict, "properties": left}
        raise NotKnown

    def _without_property(self, strict: Strict, part: Part, name: str, level: int) -> Strict | None:
        """Documents that have the property, but not as the part wants it."""
        if name not in strict["properties"]:
            raise NotKnown
        own = strict["properties"][name]
        left = self.without(own, part, level + 1)
        if left is None:
            return None
        if left is own and name in strict["required"]:
            return strict
        properties = {**strict["properties"], name: left}
        required = [one for one in properties if one == name or one in strict["required"]]
        return {**strict, "properties": properties, "required": required}

    def _array(self, strict: Strict, part: Part, key: str, level: int) -> Strict | None:
        said = part.schema[key]
        if key == "minItems" and is_number(said) and strict["maxItems"] < said:
            return strict
        if key == "maxItems" and is_number(said) and strict["minItems"] > said:
            return strict
        is_plain = key == "items" and isinstance(said, dict) and "prefixItems" not in part.schema
        if is_plain and "prefixItems" not in strict and strict["maxItems"] > 0:
            left = self.without(strict["items"], part.inner(key), level + 1)
            if left is None:
                return None
            return {**strict, "items": left, "minItems": max(1, strict["minItems"])}
        raise NotKnown


def joined(branches: list[Strict]) -> Strict | None:
    """One strict form of those that are left."""
    flat: list[Strict] = []
    values: Strict = {"enum": []}
    for branch in branches:
        for one in branch.get("anyOf", [branch]):
            if "enum" in one:
                others = [value for value in one["enum"] if not is_among(value, values["enum"])]
                values["enum"] += others
                flat += [] if any(values is other for other in flat) else [values]
            elif not any(one is other or _are_equal(one, other) for other in flat):
                flat.append(one)
    if not flat:
        return None
    return flat[0] if len(flat) == 1 else {"anyOf": flat}


def _are_equal(one: Strict, other: Strict) -> bool:
    """Of scalars: to compare others may take long, and where it counts they are one object."""
    return one.get("type") not in ("object", "array") and one == other


def _other_strings(strict: Strict, values: list[Any]) -> Strict:
    """Any string but these."""
    texts = [one for one in values if isinstance(one, str)]
    low, high = strict["minLength"], strict["maxLength"]
    pattern = written_pattern(f"^{other_than(texts, None)}$")
    if not pattern.has_length(low, high):
        raise NotKnown
    found = patterned(pattern, low, high)
    if found is None:
        raise NotKnown
    return found


def _may_have(strict: Strict, name: Any) -> bool:
    """Whether a free key of the object may be this."""
    return isinstance(name, str) and any(
        written_pattern(pattern).matches(name) is not False
        for pattern in strict.get("patternProperties", {})
    )


def _takes_all(schema: Any, kind: str) -> bool:
    """Whether the schema says no more than types, and this is one of them."""
    if not isinstance(schema, dict) or schema.keys() - _ANNOTATIONS - {"type"}:
        return schema is True
    said = schema.get("type", kind)
    names = said if isinstance(said, list) else [said]
    return kind in names or (kind == "integer" and "number" in names)


def _without_types(strict: Strict, said: Any) -> Strict | None:
    names = said if isinstance(said, list) else [said]
    kind = strict["type"]
    if any(not isinstance(name, str) or name == "any" for name in names):
        raise NotKnown
    if kind in names or (kind == "integer" and "number" in names):
        raise NotKnown  # what is of the type may still not fit for another reason
    if kind == "number" and "integer" in names:
        raise NotKnown
    return strict


def _string(strict: Strict, key: str, said: Any) -> Strict:
    if key == "minLength" and is_number(said) and strict.get("maxLength", said) < said:
        return strict
    if key == "maxLength" and is_number(said) and strict.get("minLength", 0) > said:
        return strict
    raise NotKnown


def _number(strict: Strict, key: str, said: Any) -> Strict:
    is_apart = is_number(said) and (
        (key == "minimum" and strict["maximum"] < said)
        or (key == "exclusiveMinimum" and strict["maximum"] <= said)
        or (key == "maximum" and strict["minimum"] > said)
        or (key == "exclusiveMaximum" and strict["minimum"] >= said)
    )
    if not is_apart:
        raise NotKnown
    return strict


def _type_of(value: Any) -> str:
    for kind in TYPES:
        if is_of_type(value, kind):
            return kind
    return ""
