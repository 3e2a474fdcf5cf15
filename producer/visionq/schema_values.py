"""Whether one value fits a schema: for the values of enums, and to tell branches apart.

This is JSON Schema as it is meant, not the strict form: what a constant must fit is the schema that
was given. Where the validators in use differ, the answer is None.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from visionq.formats import FORMATS
from visionq.patterns import read_pattern, written_pattern
from visionq.schema_parts import Part, References

MAX_LEVELS = 60

Known = bool | None
"""None: cannot be told."""


def all_of(answers: Iterable[Known]) -> Known:
    """No as soon as one is no."""
    answers = list(answers)
    return False if False in answers else None if None in answers else True


def any_of(answers: Iterable[Known]) -> Known:
    """Yes as soon as one is yes."""
    answers = list(answers)
    return True if True in answers else None if None in answers else False


def negated(answer: Known) -> Known:
    return None if answer is None else not answer


def is_same(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1, but 1.0 is."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other
    return type(one) is type(other) and bool(one == other)


def is_among(value: Any, values: list[Any]) -> bool:
    """Whether one of the values is the same; of long lists, quick for texts."""
    if isinstance(value, str):
        return value in values
    return any(is_same(value, one) for one in values)


def is_of_type(value: Any, name: object) -> bool:
    match name:
        case "object":
            return isinstance(value, dict)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case _:
            return name == "any"


class Values:
    """Judges values by the parts of one schema."""

    def __init__(self, references: References) -> None:
        self._references = references

    def fits(self, value: Any, part: Part, level: int = 0) -> Known:
        schema = part.schema
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict) or level > MAX_LEVELS:
            return None
        answers = []
        for key in schema:
            if key in _KEYWORDS or key in _UNKNOWN:
                found = self._keyword(value, part, key, level)
                is_beside = "$ref" in schema and key != "$ref"  # which older drafts ignore
                is_unsure = is_beside or key in self._references.unsure
                answers.append(None if found is False and is_unsure else found)
        return all_of(answers)

    def _keyword(self, value: Any, part: Part, key: str, level: int) -> Known:
        if key in _UNKNOWN:
            return None
        said = part.schema[key]
        try:
            match key:
                case "$ref":
                    return self.fits(value, self._references.target(part), level + 1)
                case "type":
                    names = said if isinstance(said, list) else [said]
                    if any(isinstance(name, dict) for name in names):
                        return None
                    if isinstance(value, float) and value.is_integer() and "number" not in names:
                        return None if "integer" in names else False
                    return any(is_of_type(value, name) for name in names)
                case "enum":
                    return is_among(value, said)
                case "const":
                    return is_same(value, said)
                case "allOf" | "extends" if isinstance(said, list):
                    return all_of(self._each(value, part, key, level))
                case "anyOf":
                    return any_of(self._each(value, part, key, level))
                case "oneOf":
                    return _exactly_one(self._each(value, part, key, level))
                case "not":
                    return negated(self.fits(value, part.inner(key), level + 1))
                case "if":
                    return self._conditional(value, part, level)
                case "then" | "else":
                    return True
            if isinstance(value, dict):
                return self._of_object(value, part, key, level)
            if isinstance(value, list):
                return self._of_array(value, part, key, level)
            if isinstance(value, str):
                return _of_string(value, said, key)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return _of_number(value, part.schema, key)
        except (TypeError, ValueError, KeyError, AttributeError):
            return None  # the schema is no schema there, which its reading reports
        return True

    def _each(self, value: Any, part: Part, key: str, level: int) -> list[Known]:
        return [
            self.fits(value, part.inner(key, number), level + 1)
            for number in range(len(part.schema[key]))
        ]

    def _conditional(self, value: Any, part: Part, level: int) -> Known:
        condition = self.fits(value, part.inner("if"), level + 1)
        then, otherwise = (
            self.fits(value, part.inner(key), level + 1) if key in part.schema else True
            for key in ("then", "else")
        )
        if condition is None:
            return True if then is True and otherwise is True else None
        return then if condition else otherwise

    def _of_object(self, value: dict[str, Any], part: Part, key: str, level: int) -> Known:
        said = part.schema[key]
        patterns = part.schema.get("patternProperties", {})
        match key:
            case "properties":
                return all_of(
                    self.fits(value[name], part.inner(key, name), level + 1)
                    for name in said
                    if name in value
                )
            case "required":
                return said is False or said is True or all(name in value for name in said)
            case "minProperties":
                return bool(len(value) >= said)
            case "maxProperties":
                return bool(len(value) <= said)
            case "patternProperties":
                return all_of(
                    any_of(
                        [
                            negated(_matches(pattern, name)),
                            self.fits(one, part.inner(key, pattern), level + 1),
                        ]
                    )
                    for pattern in said
                    for name, one in value.items()
                )
            case "additionalProperties":
                return all_of(
                    any_of(
                        [
                            name in part.schema.get("properties", {}),
                            *(_matches(one, name) for one in patterns),
                            self.fits(value[name], part.inner(key), level + 1),
                        ]
                    )
                    for name in value
                )
            case "propertyNames":
                return all_of(self.fits(name, part.inner(key), level + 1) for name in value)
            case "dependencies" | "dependentRequired" | "dependentSchemas":
                return all_of(
                    all(one in value for one in needed)
                    if isinstance(needed, list)
                    else self.fits(value, part.inner(key, name), level + 1)
                    for name, needed in said.items()
                    if name in value
                )
        return True

    def _of_array(self, value: list[Any], part: Part, key: str, level: int) -> Known:
        said = part.schema[key]
        prefix = part.schema.get("prefixItems", [])
        if isinstance(part.schema.get("items"), list):
            prefix = part.schema["items"]
        match key:
            case "prefixItems" | "items" if isinstance(said, list):
                return all_of(
                    self.fits(one, part.inner(key, number), level + 1)
                    for number, one in enumerate(value[: len(said)])
                )
            case "items":
                return all_of(
                    self.fits(one, part.inner(key), level + 1) for one in value[len(prefix) :]
                )
            case "additionalItems" if isinstance(part.schema.get("items"), list):
                return all_of(
                    self.fits(one, part.inner(key), level + 1) for one in value[len(prefix) :]
                )
            case "minItems":
                return bool(len(value) >= said)
            case "maxItems":
                return bool(len(value) <= said)
            case "uniqueItems" if said:
                return not any(
                    is_same(one, other)
                    for number, one in enumerate(value)
                    for other in value[:number]
                )
            case "contains":
                return any_of(self.fits(one, part.inner(key), level + 1) for one in value)
        return True


_KEYWORDS = frozenset(
    {
        "$ref", "type", "enum", "const", "allOf", "extends", "anyOf", "oneOf", "not", "if", "then",
        "else", "properties", "required", "minProperties", "maxProperties", "patternProperties",
        "additionalProperties", "propertyNames", "dependencies", "dependentRequired",
        "dependentSchemas", "prefixItems", "items", "additionalItems", "minItems", "maxItems",
        "uniqueItems", "contains", "minLength", "maxLength", "pattern", "format", "minimum",
        "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "divisibleBy",
    }
)  # fmt: skip
_UNKNOWN = frozenset(
    {
        "$dynamicRef", "$recursiveRef", "unevaluatedProperties", "unevaluatedItems", "minContains",
        "maxContains", "disallow",
    }
)  # fmt: skip
"""Keywords that are not looked into here."""


def _exactly_one(answers: list[Known]) -> Known:
    if answers.count(True) > 1:
        return False
    return None if None in answers else answers.count(True) == 1


def _matches(pattern: str, text: str) -> Known:
    """In ASCII all dialects agree; of other texts, what is written of a pattern may not be all."""
    try:
        found = read_pattern(pattern).matches(text)
    except ValueError:
        return None
    return found if found or (text.isascii() and text.isprintable()) else None


def _of_string(value: str, said: Any, key: str) -> Known:
    match key:
        case "minLength":
            return bool(len(value) >= said)
        case "maxLength":
            return bool(len(value) <= said)
        case "pattern":
            return _matches(said, value)
        case "format" if said in FORMATS:
            return written_pattern(f"^{FORMATS[said]}$").matches(value) or None
    return True


def _of_number(value: float, schema: dict[str, Any], key: str) -> Known:
    said = schema[key]
    match key:
        case "minimum":
            return bool(value > said if schema.get("exclusiveMinimum") is True else value >= said)
        case "maximum":
            return bool(value < said if schema.get("exclusiveMaximum") is True else value <= said)
        case "exclusiveMinimum" if not isinstance(said, bool):
            return bool(value > said)
        case "exclusiveMaximum" if not isinstance(said, bool):
            return bool(value < said)
        case "multipleOf" | "divisibleBy":
            if isinstance(value, int) and isinstance(said, int):
                return value % said == 0 if said else None
            return None
    return True
