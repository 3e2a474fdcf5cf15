"""Schemas of answers: which part of JSON Schema is carried out, and the strict form of it.

Everything that a schema may say stands here. What does not is refused where the task is built, with
its JSON pointer: a keyword that is passed over is an answer that does not validate.

The strict form is what the worker enforces. Whatever fits it fits the schema as it was given, but
nothing is left open in it, so that every document has an end and one spelling:

    references                replaced by what they refer to
    objects                   only the properties named; or a map, of limited size
    strings, arrays, numbers  never longer, or larger, than the limits below
    formats                   patterns of ours
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, NoReturn, TypeAlias

from visionq.errors import SchemaUnsupported
from visionq.patterns import read_pattern

Strict: TypeAlias = dict[str, Any]

MAX_SCHEMA_BYTES = 16 * 1024
MAX_SCHEMA_NODES = 500
"""Subschemas, each as often as something refers to it."""
MAX_SCHEMA_DEPTH = 32
"""References count as a level of their own."""
MAX_ENUM_VALUES = 500
MAX_STRING_CHARS = 4_000
MAX_ITEMS = 500
MAX_MAP_ENTRIES = 100
MAX_MAP_KEY_CHARS = 60
MAX_INTEGER = 2**53 - 1
"""The largest that every JSON reader takes for itself (RFC 8259, section 6)."""
MAX_NUMBER = 10**15
MAX_EXCLUSIVE_NUMBER = 10**9
"""Of an exclusive bound: beyond it a float does not tell the bound from the next number."""
NUMBER_DECIMALS = 6

ANNOTATIONS = frozenset({"title", "description", "default", "examples", "deprecated", "$comment"})
"""Say nothing about validity. The model is shown them."""

_YEAR = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP_YEAR = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    rf"|{_LEAP_YEAR}-02-29)"
)
_TIME = (
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
FORMATS: Mapping[str, str] = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
}
"""Bodies of patterns: days that the calendar has, times with their offset, no leap seconds."""

# No control characters but those with a short escape: the grammar writes no \u escapes, which would
# give a key a second spelling. And not the sign that stands for a space in the model's vocabulary.
_WRITABLE = re.compile("[^\x00-\x07\x0b\x0e-\x1f\x7f\u2581]*")
_REFERENCE = re.compile(r"#/\$defs/([^/%]+)")


def strict_schema(schema: object) -> Strict:
    """The strict form of a schema. Raises `SchemaUnsupported`, naming the JSON pointer."""
    if not isinstance(schema, dict):
        _refuse("", "a schema is a JSON object")
    try:
        text = json.dumps(schema, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise SchemaUnsupported("", f"the schema is no JSON: {exc}") from exc
    if len(text) > MAX_SCHEMA_BYTES:
        _refuse("", f"a schema has {MAX_SCHEMA_BYTES} bytes of JSON at most, not {len(text)}")
    return _Reading(schema).root()


class _Reading:
    """One walk through a schema."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = {
            key: value for key, value in schema.items() if key not in ("$schema", "$id", "$defs")
        }
        self._defs = schema.get("$defs", {})
        self._open: list[str] = []  # names whose definitions are being read
        self._num_nodes = 0

    def root(self) -> Strict:
        if not isinstance(self._defs, dict):
            _refuse("/$defs", "must be an object")
        return self.node(self._schema, "", 0)

    def node(self, schema: Any, at: str, depth: int) -> Strict:
        """The strict form of the subschema at that pointer."""
        if not isinstance(schema, dict):
            _refuse(at, "must be an object: true and false are not carried out")
        self._num_nodes += 1
        if self._num_nodes > MAX_SCHEMA_NODES:
            _refuse(at, f"more than {MAX_SCHEMA_NODES} subschemas, counted by use")
        if depth > MAX_SCHEMA_DEPTH:
            _refuse(at, f"nested deeper than {MAX_SCHEMA_DEPTH}")
        said = {key: value for key, value in schema.items() if key not in ANNOTATIONS}
        if "$ref" in said:
            return self._reference(said, at, depth)
        if "anyOf" in said:
            return self._any_of(said, at, depth)
        if "enum" in said or "const" in said:
            return _values(said, at)
        if "type" not in said:
            _only(said, at, _ALL_KEYWORDS)
            _refuse(at, "says neither type, enum, const, anyOf nor $ref: anything would fit")
        return self._typed(said, at, depth)

    def _reference(self, said: Strict, at: str, depth: int) -> Strict:
        _only(said, at, {"$ref"})
        here = f"{at}/$ref"
        found = _REFERENCE.fullmatch(said["$ref"]) if isinstance(said["$ref"], str) else None
        name = found[1].replace("~1", "/").replace("~0", "~") if found else None
        if name is None or name not in self._defs:
            _refuse(here, "must name one of the schema's own $defs: #/$defs/NAME")
        if name in self._open:
            _refuse(here, "refers to itself: recursion is not carried out")
        self._open.append(name)
        strict = self.node(self._defs[name], f"/$defs/{_escaped(name)}", depth + 1)
        self._open.pop()
        return strict

    def _any_of(self, said: Strict, at: str, depth: int) -> Strict:
        _only(said, at, {"anyOf"})
        here = f"{at}/anyOf"
        branches = said["anyOf"]
        if not isinstance(branches, list) or not branches:
            _refuse(here, "must be a list of schemas")
        return {
            "anyOf": [
                self.node(branch, f"{here}/{number}", depth + 1)
                for number, branch in enumerate(branches)
            ]
        }

    def _typed(self, said: Strict, at: str, depth: int) -> Strict:
        names = said["type"] if isinstance(said["type"], list) else [said["type"]]
        readers = self._readers()
        if not names or not all(isinstance(name, str) and name in readers for name in names):
            _refuse(f"{at}/type", f"must be of {', '.join(readers)}")
        known = {"type"}.union(*(_KEYWORDS[name] for name in names))
        _only(said, at, known)
        branches = [readers[name](said, at, depth) for name in dict.fromkeys(names)]
        return branches[0] if len(branches) == 1 else {"anyOf": branches}

    def _readers(self) -> dict[str, Callable[[Strict, str, int], Strict]]:
        return {
            "object": self._object,
            "array": self._array,
            "string": _string,
            "integer": _integer,
            "number": _number,
            "boolean": lambda *_: {"type": "boolean"},
            "null": lambda *_: {"type": "null"},
        }

    def _object(self, said: Strict, at: str, depth: int) -> Strict:
        others = said.get("additionalProperties", True)
        if "properties" not in said:
            return self._map(said, at, depth)
        if not isinstance(others, bool):
            _refuse(f"{at}/additionalProperties", "is carried out without properties only")
        if "maxProperties" in said:
            _refuse(f"{at}/maxProperties", "is carried out without properties only")
        properties = said["properties"]
        if not isinstance(properties, dict):
            _refuse(f"{at}/properties", "must be an object")
        strict = {}
        for name, schema in properties.items():
            here = f"{at}/properties/{_escaped(name)}"
            _writable(name, here)
            strict[name] = self.node(schema, here, depth + 1)
        required = said.get("required", [])
        if not isinstance(required, list):
            _refuse(f"{at}/required", "must be a list of names")
        for number, name in enumerate(required):
            if not isinstance(name, str) or name not in strict:
                _refuse(f"{at}/required/{number}", "is not among the properties")
        names = [name for name in strict if name in required]
        return {**_CLOSED, "properties": strict, "required": names}

    def _map(self, said: Strict, at: str, depth: int) -> Strict:
        """Any keys, values of one schema. A key may repeat, and then its last value counts."""
        if said.get("required"):
            _refuse(f"{at}/required/0", "is not among the properties")
        others = said.get("additionalProperties", True)
        if others is False:
            return {**_CLOSED, "properties": {}, "required": []}
        if others is True:
            _refuse(at, "an object has properties, or a schema as additionalProperties")
        _, most = _sizes(said, at, "minProperties", "maxProperties", MAX_MAP_ENTRIES)
        values = self.node(others, f"{at}/additionalProperties", depth + 1)
        keys = f"^.{{1,{MAX_MAP_KEY_CHARS}}}$"
        return {**_CLOSED, "patternProperties": {keys: values}, "maxProperties": most}

    def _array(self, said: Strict, at: str, depth: int) -> Strict:
        low, high = _sizes(said, at, "minItems", "maxItems", MAX_ITEMS)
        if "prefixItems" in said:
            return self._tuple(said, at, depth, low, high)
        if "items" not in said:
            _refuse(at, "an array has items, or prefixItems")
        items = self.node(said["items"], f"{at}/items", depth + 1)
        return {"type": "array", "items": items, "minItems": low, "maxItems": high}

    def _tuple(self, said: Strict, at: str, depth: int, low: int, high: int) -> Strict:
        """As long as prefixItems, no shorter and no longer."""
        schemas = said["prefixItems"]
        if not isinstance(schemas, list) or not schemas:
            _refuse(f"{at}/prefixItems", "must be a list of schemas")
        if said.get("items", False) is not False:
            _refuse(f"{at}/items", "is not carried out behind prefixItems")
        if not low <= len(schemas) <= high:
            _refuse(at, "minItems and maxItems leave no room for the prefixItems")
        return {
            "type": "array",
            "prefixItems": [
                self.node(schema, f"{at}/prefixItems/{number}", depth + 1)
                for number, schema in enumerate(schemas)
            ],
            "items": False,
            "minItems": len(schemas),
            "maxItems": len(schemas),
        }


_CLOSED: Mapping[str, Any] = {"type": "object", "additionalProperties": False}
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_KEYWORDS: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties", "maxProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "integer": _BOUNDS,
    "number": _BOUNDS,
    "boolean": frozenset(),
    "null": frozenset(),
}
_ALL_KEYWORDS = frozenset().union(*_KEYWORDS.values())


def _string(said: Strict, at: str, _depth: int) -> Strict:
    low, high = _sizes(said, at, "minLength", "maxLength", MAX_STRING_CHARS)
    body = _pattern(said, at)
    if body is None:
        return {"type": "string", "minLength": low, "maxLength": high}
    for key in ("minLength", "maxLength"):
        if key in said:
            _refuse(f"{at}/{key}", "is not carried out beside a pattern or format")
    return {"type": "string", "pattern": f"^(?:{body})$", "maxLength": MAX_STRING_CHARS}


def _pattern(said: Strict, at: str) -> str | None:
    if "format" in said:
        if "pattern" in said:
            _refuse(f"{at}/pattern", "is not carried out beside a format")
        name = said["format"]
        if not isinstance(name, str) or name not in FORMATS:
            _refuse(f"{at}/format", f"must be of {', '.join(FORMATS)}")
        return FORMATS[name]
    if "pattern" not in said:
        return None
    pattern = said["pattern"]
    if not isinstance(pattern, str):
        _refuse(f"{at}/pattern", "must be a string")
    try:
        body, shortest = read_pattern(pattern)
    except ValueError as exc:
        raise SchemaUnsupported(f"{at}/pattern", str(exc)) from exc
    if shortest > MAX_STRING_CHARS:
        _refuse(f"{at}/pattern", f"matches nothing of {MAX_STRING_CHARS} characters or fewer")
    return body


def _integer(said: Strict, at: str, _depth: int) -> Strict:
    low, high = _range(said, at, Decimal(MAX_INTEGER), Decimal(1))
    return {"type": "integer", "minimum": int(low), "maximum": int(high)}


def _number(said: Strict, at: str, _depth: int) -> Strict:
    step = Decimal(1).scaleb(-NUMBER_DECIMALS)
    low, high = _range(said, at, Decimal(MAX_NUMBER), step)
    for key in ("exclusiveMinimum", "exclusiveMaximum"):
        if abs(said.get(key, 0)) > MAX_EXCLUSIVE_NUMBER:
            _refuse(f"{at}/{key}", f"lies between -{MAX_EXCLUSIVE_NUMBER} and it at most")
    return {
        "type": "number",
        "minimum": float(low),
        "maximum": float(high),
        "multipleOf": float(step),
    }


def _range(said: Strict, at: str, most: Decimal, step: Decimal) -> tuple[Decimal, Decimal]:
    """The lowest and the highest multiple of `step` that the bounds allow."""
    low, high = -most, most
    for key in sorted(_BOUNDS & said.keys()):
        bound, here = said[key], f"{at}/{key}"
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            _refuse(here, "must be a number")
        exact = Decimal(bound) if isinstance(bound, int) else Decimal(repr(float(bound)))
        if abs(exact) > most:
            _refuse(here, f"must lie between -{most} and {most}")
        is_low = key.endswith("inimum")
        nearest = (exact / step).to_integral_value(ROUND_CEILING if is_low else ROUND_FLOOR) * step
        if key.startswith("exclusive") and nearest == exact:
            nearest += step if is_low else -step
        low, high = (max(low, nearest), high) if is_low else (low, min(high, nearest))
    if low > high:
        _refuse(at, "no number lies within the bounds")
    return low, high


def _values(said: Strict, at: str) -> Strict:
    """Those of an enum, or the const. A type beside them must be that of each."""
    keyword = "enum" if "enum" in said else "const"
    _only(said, at, {keyword, "type"})
    here = f"{at}/{keyword}"
    values = said[keyword] if keyword == "enum" else [said[keyword]]
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_ENUM_VALUES:
        _refuse(here, f"must be a list of 1 to {MAX_ENUM_VALUES} values")
    types = said.get("type", list(_SCALARS))
    types = types if isinstance(types, list) else [types]
    for number, value in enumerate(values):
        place = f"{here}/{number}" if keyword == "enum" else here
        if isinstance(value, str):
            _writable(value, place)
        if isinstance(value, float) or (isinstance(value, int) and abs(value) > MAX_INTEGER):
            _refuse(place, f"numbers here are whole and {MAX_INTEGER} at most")
        if not any(is_of(value) for name, is_of in _SCALARS.items() if name in types):
            _refuse(place, "is not of the type, or not a single value")
    return {"enum": values}


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_SCALARS: Mapping[str, Callable[[object], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": _is_whole,
    "number": _is_whole,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def _sizes(said: Strict, at: str, least: str, greatest: str, most: int) -> tuple[int, int]:
    low, high = said.get(least, 0), said.get(greatest, most)
    for key, size in ((least, low), (greatest, high)):
        if not _is_whole(size) or not 0 <= size <= most:
            _refuse(f"{at}/{key}", f"must be a whole number, 0 to {most}")
    if low > high:
        _refuse(f"{at}/{least}", f"is above {greatest}")
    return low, high


def _writable(text: Any, at: str) -> None:
    if not isinstance(text, str) or _WRITABLE.fullmatch(text) is None:
        _refuse(at, "holds characters that are not written")


def _only(said: Strict, at: str, known: set[str] | frozenset[str]) -> None:
    for key in said:
        if key not in known:
            _refuse(f"{at}/{_escaped(key)}", "is not carried out here")


def _escaped(key: object) -> str:
    """As a step of a JSON pointer (RFC 6901)."""
    return str(key).replace("~", "~0").replace("/", "~1")


def _refuse(at: str, why: str) -> NoReturn:
    raise SchemaUnsupported(at, why)
