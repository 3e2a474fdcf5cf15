"""What a schema may say: its strict form, written by hand here, and what is refused, by pointer."""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from datetime import date
from random import Random
from typing import Any

import pytest

from tests.support.random_schemas import random_schema
from visionq.errors import SchemaUnsupported
from visionq.formats import FORMATS
from visionq.patterns import any_key, other_than, read_pattern
from visionq.schemas import strict_schema

TEXT = {"type": "string", "minLength": 0, "maxLength": 4000}
WHOLE = {"type": "integer", "minimum": -(2**53 - 1), "maximum": 2**53 - 1}
NULL = {"type": "null"}
KEYS = f"^{any_key(1, 60)}$"
KEYS_BUT_A = f"^{other_than(['a'], 60)}$"


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def closed(required: Sequence[str] = "", **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": list(required),
    }


STRICT: dict[str, tuple[Any, Any]] = {
    "an open string": ({"type": "string", "title": "Name"}, TEXT),
    "an open object": (
        {"type": "object", "properties": {"b": {"type": "string"}, "a": NULL}},
        closed(b=TEXT, a=NULL),
    ),
    "a map": (
        {"type": "object", "additionalProperties": {"type": "boolean"}},
        {
            "type": "object",
            "patternProperties": {KEYS: {"type": "boolean"}},
            "additionalProperties": False,
            "properties": {},
            "required": [],
            "maxProperties": 100,
        },
    ),
    "an open array": (
        {"type": "array", "items": {"type": "integer"}, "minItems": 2},
        {"type": "array", "items": WHOLE, "minItems": 2, "maxItems": 500},
    ),
    "a tuple": (
        {"type": "array", "prefixItems": [NULL, {"const": 1}]},
        {
            "type": "array",
            "prefixItems": [NULL, {"enum": [1]}],
            "items": False,
            "minItems": 2,
            "maxItems": 2,
        },
    ),
    "a tuple of older drafts, with others behind": (
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "array",
            "items": [NULL],
            "additionalItems": {"const": 1},
            "maxItems": 3,
        },
        {
            "type": "array",
            "prefixItems": [NULL],
            "items": {"enum": [1]},
            "minItems": 1,
            "maxItems": 3,
        },
    ),
    "a reference": ({"$defs": {"a/b": TEXT}, "anyOf": [{"$ref": "#/$defs/a~1b"}]}, TEXT),
    "references by other ways": (
        {
            "$id": "https://example.org/a.json",
            "type": "object",
            "properties": {
                "a": {"type": "null"},
                "b": {"$ref": "#/properties/a"},
                "c": {"$ref": "a.json#/definitions/x%20y"},
                "d": {"$ref": "#here"},
                "e": {"$ref": "other.json"},
            },
            "definitions": {
                "x y": {"type": "null"},
                "anchored": {"$anchor": "here", "type": "null"},
                "other": {"$id": "other.json", "type": "null"},
            },
        },
        closed(a=NULL, b=NULL, c=NULL, d=NULL, e=NULL),
    ),
    "an identifier of draft 4": (
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "id": "http://example.org/",
            "items": {"$ref": "#word"},
            "definitions": {"word": {"id": "#word", "type": "null"}},
        },
        {"type": "array", "items": NULL, "minItems": 0, "maxItems": 500},
    ),
    "what stands beside a reference": (
        {"$ref": "#/$defs/a", "minimum": 3, "$defs": {"a": {"type": "integer", "maximum": 4}}},
        {"type": "integer", "minimum": 3, "maximum": 4},
    ),
    "several types": (
        {"type": ["string", "null"], "maxLength": 5},
        {"anyOf": [{**TEXT, "maxLength": 5}, NULL]},
    ),
    "a type that only its keywords tell": ({"properties": {"a": NULL}}, closed(a=NULL)),
    "unknown keywords": ({"type": "null", "x-order": 3, "nullable": True, "format": "odd"}, NULL),
    "exclusive bounds of whole numbers": (
        {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 2.5},
        {"type": "integer", "minimum": 1, "maximum": 2},
    ),
    "an exclusive bound of draft 4": (
        {"type": "integer", "minimum": 0, "exclusiveMinimum": True, "maximum": 2},
        {"type": "integer", "minimum": 1, "maximum": 2},
    ),
    "bounds of numbers": (
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1.25},
        {"type": "number", "minimum": 1e-06, "maximum": 1.25, "multipleOf": 1e-06},
    ),
    "bounds beyond ours": (
        {"type": "integer", "minimum": -1e300, "maximum": 2**64},
        WHOLE,
    ),
    "multiples": (
        {"type": "number", "multipleOf": 5, "minimum": 1, "maximum": 12},
        {"type": "integer", "multipleOf": 5, "minimum": 5, "maximum": 10},
    ),
    "a pattern": (
        {"type": "string", "pattern": "^(a|b)$"},
        {"type": "string", "pattern": "^(?:a|b)$"},
    ),
    "a pattern without an end": (
        {"type": "string", "pattern": "^x[a-z]+$", "maxLength": 100},
        {"type": "string", "pattern": "^x[a-z]{1,99}$"},
    ),
    "a pattern and a length": (
        {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 5},
        {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 5},
    ),
    "allOf": (
        {
            "allOf": [
                {"properties": {"a": {"type": "integer", "minimum": 3}}},
                {"properties": {"b": NULL}, "required": ["a"]},
            ],
            "properties": {"a": {"maximum": 4}},
        },
        closed("a", a={"type": "integer", "minimum": 3, "maximum": 4}, b=NULL),
    ),
    "a property that must be there, and has no schema": (
        {"type": "object", "required": ["a"], "additionalProperties": {"type": "null"}},
        {**closed("a", a=NULL), "patternProperties": {KEYS_BUT_A: NULL}, "maxProperties": 101},
    ),
    "a property that nothing fits": (
        {"type": "object", "properties": {"a": False, "b": NULL}},
        closed(b=NULL),
    ),
    "anyOf of required properties": (
        {
            "properties": {"a": NULL, "b": NULL},
            "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        },
        {"anyOf": [closed("a", a=NULL, b=NULL), closed("b", a=NULL, b=NULL)]},
    ),
    "oneOf of required properties": (
        {
            "properties": {"a": NULL, "b": NULL},
            "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
        },
        {"anyOf": [closed("a", a=NULL), closed("b", b=NULL)]},
    ),
    "oneOf of types": ({"oneOf": [{"type": "null"}, {"type": "string"}]}, {"anyOf": [NULL, TEXT]}),
    "oneOf told by a constant": (
        {
            "oneOf": [
                {"properties": {"kind": {"const": "a"}, "x": NULL}, "required": ["kind"]},
                {"properties": {"kind": {"const": "b"}, "y": NULL}, "required": ["kind"]},
            ]
        },
        {
            "anyOf": [
                closed(["kind"], kind={"enum": ["a"]}, x=NULL),
                closed(["kind"], kind={"enum": ["b"]}, y=NULL),
            ]
        },
    ),
    "oneOf of values": ({"oneOf": [{"enum": [1, 2]}, {"enum": [2, 3]}]}, {"enum": [1, 3]}),
    "values that fit what stands beside them": (
        {"enum": ["a", "bc", 3, None], "type": ["string", "null"], "maxLength": 1},
        {"enum": ["a", None]},
    ),
    "values of any kind": ({"enum": [{"a": [1.5]}, [], 1.5]}, {"enum": [{"a": [1.5]}, [], 1.5]}),
    "not": ({"type": ["null", "string"], "not": {"type": "string"}}, NULL),
    "not required": (
        {"properties": {"a": NULL, "b": NULL}, "not": {"required": ["a"]}},
        closed(b=NULL),
    ),
    "if, then and else": (
        {
            "properties": {"a": {"enum": [1, 2]}, "b": NULL},
            "required": ["a"],
            "if": {"properties": {"a": {"const": 1}}},
            "then": {"required": ["b"]},
        },
        {
            "anyOf": [
                closed("ab", a={"enum": [1]}, b=NULL),
                closed("a", a={"enum": [2]}, b=NULL),
            ]
        },
    ),
    "dependencies": (
        {"properties": {"a": NULL, "b": NULL}, "dependencies": {"a": ["b"]}},
        {"anyOf": [closed("ab", a=NULL, b=NULL), closed(b=NULL)]},
    ),
    "draft 3": (
        {
            "$schema": "http://json-schema.org/draft-03/schema#",
            "properties": {"a": {"type": "null", "required": True}},
            "extends": {"properties": {"a": {"type": "any"}}},
        },
        closed("a", a=NULL),
    ),
    "recursion, as deep as it goes": (
        {"type": "array", "items": {"$ref": "#"}, "maxItems": 1},
        {
            "type": "array",
            "items": {
                "type": "array",
                "items": {
                    "type": "array",
                    "items": {
                        "type": "array",
                        "items": {
                            "type": "array",
                            "items": {
                                "type": "array", "items": False, "minItems": 0, "maxItems": 0,
                            },
                            "minItems": 0, "maxItems": 1,
                        },
                        "minItems": 0, "maxItems": 1,
                    },
                    "minItems": 0, "maxItems": 1,
                },
                "minItems": 0, "maxItems": 1,
            },
            "minItems": 0, "maxItems": 1,
        },
    ),
    "a number of properties": (
        {"properties": {"a": NULL, "b": NULL}, "minProperties": 1, "maxProperties": 1},
        {"anyOf": [closed("a", a=NULL), closed("b", b=NULL)]},
    ),
    "what a property may be, by its name": (
        {"patternProperties": {"^x": {"type": "integer"}}, "properties": {"xa": {"minimum": 3}}},
        closed(xa={**WHOLE, "minimum": 3}),
    ),
    "distinct items": (
        {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True, "minItems": 1},
        {
            "anyOf": [
                {
                    "type": "array",
                    "prefixItems": [{"enum": [value]} for value in values],
                    "items": False,
                    "minItems": len(values),
                    "maxItems": len(values),
                }
                for values in ([1], [2], [1, 2])
            ]
        },
    ),
    "an array that contains": (
        {"type": "array", "items": {"type": "integer"}, "contains": {"const": 1}, "maxItems": 2},
        {
            "type": "array",
            "prefixItems": [{"enum": [1]}],
            "items": WHOLE,
            "minItems": 1,
            "maxItems": 2,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STRICT)
def test_strict_form_leaves_nothing_open(name: str) -> None:
    given, strict = STRICT[name]
    assert strict_schema(given) == strict


REFUSED: list[tuple[Any, str]] = [
    (True, ""),
    ({"type": "object", "properties": {"a": 5}}, "/properties/a"),
    ({"type": "object", "properties": {"a/b~c": {"type": 3}}}, "/properties/a~1b~0c/type"),
    ({"type": "object", "properties": {}, "maxProperties": -1}, "/maxProperties"),
    ({"type": "object", "properties": {"\x01": {"type": "null"}}}, "/properties/\x01"),
    ({"type": "object", "unevaluatedProperties": False}, "/unevaluatedProperties"),
    ({"type": "object", "minProperties": 2}, "/minProperties"),
    ({"patternProperties": {"^(?!a)": {"type": "null"}}}, "/patternProperties/^(?!a)"),
    ({"type": "array", "items": {"type": "null"}, "minItems": 501}, "/minItems"),
    ({"type": "array", "items": {"type": "null"}, "minItems": 3, "maxItems": 2}, ""),
    ({"type": "array", "prefixItems": [{"type": "some"}]}, "/prefixItems/0/type"),
    ({"type": "array", "items": {"type": "null"}, "uniqueItems": True}, "/uniqueItems"),
    ({"type": "array", "contains": {}, "minContains": 2}, "/minContains"),
    ({"type": "string", "minLength": 4001}, "/minLength"),
    ({"type": "string", "maxLength": True}, "/maxLength"),
    ({"type": "string", "format": "date", "pattern": "^a$"}, "/pattern"),
    ({"type": "string", "pattern": "^a{4}$", "maxLength": 3}, "/pattern"),
    ({"type": "string", "pattern": "^(?=a)a$"}, "/pattern"),
    ({"type": "number", "multipleOf": 0.1}, "/multipleOf"),
    ({"type": "integer", "minimum": "3"}, "/minimum"),
    ({"type": "integer", "minimum": 2**53}, ""),
    ({"type": "integer", "minimum": 3, "exclusiveMaximum": 3}, ""),
    ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e-06}, ""),
    ({"type": "number", "exclusiveMinimum": 1e10}, "/exclusiveMinimum"),
    ({"enum": []}, "/enum"),
    ({"enum": [1, [1e300]]}, "/enum/1"),
    ({"type": "string", "enum": [True]}, ""),
    ({"const": "a", "pattern": "(?!a)b"}, "/const"),
    ({"const": "\ud800"}, ""),
    ({"const": "▁"}, "/const"),
    ({"const": "\x7f"}, "/const"),
    ({"anyOf": []}, "/anyOf"),
    ({"anyOf": [{"type": "null"}, {"allOf": []}]}, "/anyOf/1/allOf"),
    ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "/oneOf"),
    ({"oneOf": [{"type": "string"}, {"type": "string", "format": "date"}]}, "/oneOf"),
    ({"type": "string", "not": {"format": "date"}}, "/not"),
    ({"type": "any"}, "/type"),
    ({"type": "array", "items": [NULL]}, "/items"),
    (
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "type": "object",
            "oneOf": [
                {"properties": {"a": {"const": 1}}, "required": ["a"]},
                {"properties": {"a": {"const": 2}}, "required": ["a"]},
            ],
        },
        "/oneOf",
    ),
    (
        {
            "oneOf": [{"$ref": "#/$defs/a", "type": "string"}, {"type": "null"}],
            "$defs": {"a": {"description": "anything"}},
        },
        "/oneOf",
    ),
    (
        {"$schema": "http://json-schema.org/draft-04/schema#", "enum": [1], "not": {"const": 2}},
        "/enum/0",
    ),
    ({"properties": {"a": {"required": True}}}, "/properties/a/required"),
    ({"$ref": "#"}, "/$ref"),
    ({"$ref": "https://example.org/schema"}, "/$ref"),
    ({"$ref": 5}, "/$ref"),
    ({"$ref": "https://[::"}, "/$ref"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}}}, "/$defs/a/$ref"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "/$defs/a/$ref"),
    (
        {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}, "minItems": 1}}},
        "",
    ),
    (nested(41), "/items" * 41),
    ({"const": "x" * 61_440}, ""),
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


def test_choices_that_multiply_are_refused() -> None:
    schema = {"allOf": [{"anyOf": [{"minimum": n}, {"maximum": n}]} for n in range(20)]}
    with pytest.raises(SchemaUnsupported, match="more than 6000 subschemas"):
        strict_schema(schema)


def test_what_is_referred_to_from_many_places_is_read_once() -> None:
    defs = {
        f"d{number}": {"type": "array", "prefixItems": [{"$ref": f"#/$defs/d{number + 1}"}] * 4}
        for number in range(12)
    }
    schema = {"$ref": "#/$defs/d0", "$defs": {**defs, "d12": {"type": "null"}}}
    assert len(strict_schema(schema)["$defs"]) == 11


def test_a_pattern_does_not_take_for_ever() -> None:
    evil = {"enum": ["a" * 5_000 + "b"], "pattern": "^(a+)+$"}
    with pytest.raises(SchemaUnsupported, match="no document fits"):
        strict_schema(evil)


def test_the_strict_form_has_no_annotations() -> None:
    """Random schemas: nothing is refused, and no annotation is left."""
    random = Random(5)
    for _ in range(200):
        assert "'description'" not in repr(strict_schema(random_schema(random)))


PATTERNS = {
    "^$": (
        "",
        [
            "",
        ],
        ["a"],
    ),
    "^[A-Z]{2}[0-9]{3,6}$": ("[A-Z]{2}[0-9]{3,6}", ["AB123"], ["AB12", "ab123"]),
    "^(?:a|bc)+d?$": ("(?:a|bc)+d?", ["abca", "bcd"], ["", "d", "b"]),
    "^(a(b|cd){2}){3}$": ("(?:a(?:b|cd){2}){3}", ["abbabcdacdb"], ["abb"]),
    r"^\d+\.\d{2}$": (r"[0-9]+\x2e[0-9]{2}", ["1.25"], ["1.2", "١.25"]),
    "^a+?$": ("a+", ["aa"], [""]),
    "^a|b$": (None, ["a", "ax", "b", "xb"], ["xa", "bx"]),
    "ab": (None, ["ab", "xaby"], ["a", ""]),
    "(^a$|^b$)": ("(?:a|b)", ["a", "b"], ["ab"]),
    r"^\S$": (None, ["a"], [" ", "\n"]),
    r"^[^\d]$": (None, ["a"], ["1", "١"]),
    r"^\x41\u00e9$": ("Aé", ["Aé"], ["A"]),
    "^.$": (None, ["a", "é"], ["\n", "\u2028"]),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_are_written_anew(pattern: str) -> None:
    body, fitting, others = PATTERNS[pattern]
    read = read_pattern(pattern)
    assert body in (None, read.body)
    assert all(read.matches(text) for text in fitting)
    assert all(re.search(pattern, text) for text in fitting)
    assert not any(read.matches(text) for text in others)
    assert read_pattern(f"^{read.body}$").lengths == read.lengths


@pytest.mark.parametrize("name", FORMATS)
def test_formats_read_the_same_when_they_are_written(name: str) -> None:
    assert re.compile(FORMATS[name]).pattern
    assert read_pattern(f"^{FORMATS[name]}$").lengths


@pytest.mark.parametrize(
    "pattern",
    [
        "^(a$", "^a)$", "^*a$", "^a**$", "^a{3,2}$", "^a{,3}$", "^a++$", "a$b", "(^a)b",
        "^(a{1000}){11}$", "^(?i)a$", "^(?P<n>a)$", r"^(a)\1$", r"^\ba$", "^(?!a)b$", r"^a\Z",
        "^[[:alpha:]]$", "^[a&&b]$", "^[z-a]$", "^[]$", "^]$", "^{$", "^a^b$", r"[\w-x]",
        "^\x01$", "^▁$", r"^\p{L}$", "^" + "a" * 1000 + "$", "(" * 21 + ")" * 21,
    ],
)  # fmt: skip
def test_what_dialects_read_differently_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValueError):
        read_pattern(pattern)


def test_two_patterns_exclude_each_other_where_no_text_matches_both() -> None:
    assert read_pattern("^x-").excludes(read_pattern("^y-"))
    assert read_pattern("^[0-9]+$").excludes(read_pattern("^[a-z]+$"))
    assert not read_pattern("^x-").excludes(read_pattern("y"))


@pytest.mark.parametrize("most", [60, None])
def test_the_pattern_of_other_texts_matches_all_but_those(most: int | None) -> None:
    pattern = re.compile(other_than(["ab", "abc", "x"], most))
    for text in ("ab", "abc", "x"):
        assert pattern.fullmatch(text) is None
    for text in ("a", "b", "abd", "abcd", "xy", "y" * 60):
        assert pattern.fullmatch(text)


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
