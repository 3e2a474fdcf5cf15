"""What a schema may say: its strict form, written by hand here, and what is refused, by pointer."""

from __future__ import annotations

import pickle
import re
from datetime import date
from random import Random
from typing import Any

import pytest

from tests.support.random_schemas import random_schema
from visionq.errors import SchemaUnsupported
from visionq.patterns import read_pattern
from visionq.schemas import FORMATS, strict_schema

TEXT = {"type": "string", "minLength": 0, "maxLength": 4000}
WHOLE = {"type": "integer", "minimum": -(2**53 - 1), "maximum": 2**53 - 1}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


STRICT: dict[str, tuple[Any, Any]] = {
    "an open string": ({"type": "string", "title": "Name"}, TEXT),
    "an open object": (
        {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "null"}}},
        {
            "type": "object",
            "properties": {"b": TEXT, "a": {"type": "null"}},
            "required": [],
            "additionalProperties": False,
        },
    ),
    "a map": (
        {"type": "object", "additionalProperties": {"type": "boolean"}},
        {
            "type": "object",
            "patternProperties": {"^.{1,60}$": {"type": "boolean"}},
            "additionalProperties": False,
            "maxProperties": 100,
        },
    ),
    "an open array": (
        {"type": "array", "items": {"type": "integer"}, "minItems": 2},
        {"type": "array", "items": WHOLE, "minItems": 2, "maxItems": 500},
    ),
    "a tuple": (
        {"type": "array", "prefixItems": [{"type": "null"}, {"const": 1}]},
        {
            "type": "array",
            "prefixItems": [{"type": "null"}, {"enum": [1]}],
            "items": False,
            "minItems": 2,
            "maxItems": 2,
        },
    ),
    "a reference": (
        {"$defs": {"a/b": {"type": "string"}}, "anyOf": [{"$ref": "#/$defs/a~1b"}]},
        {"anyOf": [TEXT]},
    ),
    "several types": (
        {"type": ["string", "null"], "maxLength": 5},
        {"anyOf": [{**TEXT, "maxLength": 5}, {"type": "null"}]},
    ),
    "exclusive bounds of whole numbers": (
        {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 2.5},
        {"type": "integer", "minimum": 1, "maximum": 2},
    ),
    "bounds of numbers": (
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1.25},
        {"type": "number", "minimum": 1e-06, "maximum": 1.25, "multipleOf": 1e-06},
    ),
    "a pattern": (
        {"type": "string", "pattern": "^a|b$"},
        {"type": "string", "pattern": "^(?:a|b)$", "maxLength": 4000},
    ),
}


@pytest.mark.parametrize("name", STRICT)
def test_strict_form_leaves_nothing_open(name: str) -> None:
    given, strict = STRICT[name]
    assert strict_schema(given) == strict


REFUSED: list[tuple[Any, str]] = [
    ({}, ""),
    (True, ""),
    ({"type": "object", "properties": {"a": {}}}, "/properties/a"),
    ({"type": "object", "properties": {"a": True}}, "/properties/a"),
    ({"type": "object", "properties": {"a/b~c": {"not": {}}}}, "/properties/a~1b~0c/not"),
    ({"type": "object"}, ""),
    ({"type": "object", "properties": {}, "required": ["a"]}, "/required/0"),
    ({"type": "object", "properties": {}, "minProperties": 1}, "/minProperties"),
    ({"type": "object", "properties": {}, "maxProperties": 1}, "/maxProperties"),
    ({"type": "object", "properties": {}, "patternProperties": {}}, "/patternProperties"),
    (
        {"type": "object", "properties": {}, "additionalProperties": {"type": "null"}},
        "/additionalProperties",
    ),
    ({"type": "object", "properties": {"\x01": {"type": "null"}}}, "/properties/\x01"),
    ({"type": "array"}, ""),
    ({"type": "array", "items": {"type": "null"}, "uniqueItems": True}, "/uniqueItems"),
    ({"type": "array", "items": {"type": "null"}, "contains": {}}, "/contains"),
    ({"type": "array", "items": {"type": "null"}, "maxItems": 501}, "/maxItems"),
    ({"type": "array", "items": {"type": "null"}, "minItems": 3, "maxItems": 2}, "/minItems"),
    ({"type": "array", "prefixItems": [{"type": "null"}], "minItems": 2}, ""),
    ({"type": "array", "prefixItems": [{"type": "any"}]}, "/prefixItems/0/type"),
    ({"type": "string", "maxLength": 4001}, "/maxLength"),
    ({"type": "string", "maxLength": True}, "/maxLength"),
    ({"type": "string", "format": "email"}, "/format"),
    ({"type": "string", "format": "date", "pattern": "^a$"}, "/pattern"),
    ({"type": "string", "pattern": "^a$", "maxLength": 3}, "/maxLength"),
    ({"type": "string", "pattern": "a"}, "/pattern"),
    ({"type": "string", "pattern": "^(?=a)a$"}, "/pattern"),
    ({"type": "string", "minimum": 3}, "/minimum"),
    ({"type": "integer", "multipleOf": 3}, "/multipleOf"),
    ({"type": "integer", "minimum": 2**53}, "/minimum"),
    ({"type": "integer", "minimum": "3"}, "/minimum"),
    ({"type": "integer", "minimum": 3, "exclusiveMaximum": 3}, ""),
    ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e-06}, ""),
    ({"type": "number", "exclusiveMinimum": 1e10}, "/exclusiveMinimum"),
    ({"enum": []}, "/enum"),
    ({"enum": [1, [2]]}, "/enum/1"),
    ({"enum": ["a", 1.5]}, "/enum/1"),
    ({"type": "string", "enum": ["a", True]}, "/enum/1"),
    ({"const": "\ud800"}, ""),
    ({"const": "▁"}, "/const"),
    ({"const": "\x7f"}, "/const"),
    ({"anyOf": []}, "/anyOf"),
    ({"anyOf": [{"type": "null"}, {"allOf": []}]}, "/anyOf/1/allOf"),
    ({"oneOf": [{"type": "null"}]}, "/oneOf"),
    ({"$ref": "#"}, "/$ref"),
    ({"$ref": "https://example.org/schema"}, "/$ref"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}}}, "/$defs/a/$ref"),
    ({"$ref": "#/$defs/a", "minimum": 3, "$defs": {"a": {"type": "integer"}}}, "/minimum"),
    (
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}},
        "/$defs/a/items/$ref",
    ),
    (nested(33), "/items" * 33),
    ({"anyOf": [{"type": "null"}] * 500}, "/anyOf/499"),
    ({"const": "x" * 16_384}, ""),
    ({"type": "null", "default": float("nan")}, ""),
    ({"type": "null", "default": object()}, ""),
]


@pytest.mark.parametrize(("schema", "pointer"), REFUSED)
def test_what_is_not_carried_out_is_refused_with_its_pointer(schema: Any, pointer: str) -> None:
    with pytest.raises(SchemaUnsupported) as caught:
        strict_schema(schema)
    assert caught.value.pointer == pointer


def test_the_error_is_the_same_after_it_has_been_pickled() -> None:
    error = SchemaUnsupported("/oneOf", "is not carried out here")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "schema at /oneOf: is not carried out here"
    assert again.pointer == "/oneOf"


def test_references_that_multiply_are_refused() -> None:
    defs = {
        f"d{number}": {"anyOf": [{"$ref": f"#/$defs/d{number + 1}"}] * 4} for number in range(12)
    }
    with pytest.raises(SchemaUnsupported, match="more than 500 subschemas"):
        strict_schema({"$ref": "#/$defs/d0", "$defs": {**defs, "d12": {"type": "null"}}})


def test_the_strict_form_is_its_own_strict_form_but_for_what_only_it_says() -> None:
    """Random schemas: nothing is refused, and no annotation or reference is left."""
    random = Random(5)
    for _ in range(200):
        text = repr(strict_schema(random_schema(random)))
        assert "'description'" not in text
        assert "#/$defs" not in text


PATTERNS = {
    "^$": 0,
    "^[A-Z]{2}[0-9]{3,6}$": 5,
    "^(?:a|bc)+d?$": 1,
    "^(a(b|cd){2}){3}$": 9,
    r"^\d+\.\d{2}$": 4,
    r"^[\w.\-]{1,}@x$": 3,
    "^.*$": 0,
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_shortest_match_of_a_pattern_is_known(pattern: str) -> None:
    assert read_pattern(pattern) == (pattern[1:-1], PATTERNS[pattern])


@pytest.mark.parametrize(
    "pattern",
    [
        "a", "^a", "a$", "^(a$", "^a)$", "^*a$", "^a**$", "^a+?$", "^a{3,2}$", "^a{,3}$",
        "^(a{100}){11}$", "^(?i)a$", "^(?P<n>a)$", r"^(a)\1$", r"^\ba$", r"^\D$", r"^[^\d]$",
        r"^[^a\s]$", "^[[:alpha:]]$", "^[a&&b]$", "^[z-a]$", "^[]$", "^]$", "^{$", "^a^b$",
        "^\x01$", "^▁$", r"^\x41$", r"^\p{L}$", "^" + "a" * 500 + "$",
    ],
)  # fmt: skip
def test_what_dialects_read_differently_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValueError):
        read_pattern(pattern)


def test_dates_are_those_of_the_calendar() -> None:
    pattern = re.compile(FORMATS["date"])
    for year in (1, 4, 100, 400, 1900, 2000, 2023, 2024, 9999):
        for month in range(14):
            for day in range(33):
                text = f"{year:04}-{month:02}-{day:02}"
                assert (pattern.fullmatch(text) is not None) == _is_date(text), text
    assert pattern.fullmatch("0000-01-01") is None


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
