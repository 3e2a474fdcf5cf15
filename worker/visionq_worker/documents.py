"""Answers to a schema: what the model's text is worth in the end.

The engine's grammar has held every token of a finished answer to the schema. It is looked at once
more all the same: of a document that does not fit, nobody is given a value.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from visionq.contract import FinishReason, Verdict
from visionq.kinds import schema_text
from visionq.patterns import written_pattern
from visionq.schema_sharing import resolved
from visionq.schemas import Strict, strict_schema

TRUNCATED = "truncated"
SCHEMA_INVALID = "schema_invalid"


def schema_digest(schema: dict[str, Any] | None) -> str | None:
    """First 16 hex digits of the SHA-256 of a schema."""
    if schema is None:
        return None
    return hashlib.sha256(schema_text(schema).encode()).hexdigest()[:16]


def read_document(
    text: str, schema: dict[str, Any], *, finish_reason: FinishReason
) -> tuple[Any, Verdict]:
    """The document's value, and whether it can be relied on; None where it was cut off."""
    if finish_reason != "stop":
        return None, Verdict(outcome="degraded", reasons=(TRUNCATED,))
    try:
        value = json.loads(text)
    except ValueError:
        return None, _INVALID
    if not fits(value, strict_schema(schema)):
        return None, _INVALID
    return value, Verdict(outcome="ok")


_INVALID = Verdict(outcome="degraded", reasons=(SCHEMA_INVALID,))


def fits(value: Any, strict: Strict, root: Strict | None = None) -> bool:
    """Whether a value fits a schema in its strict form, whose definitions stand at the root."""
    root = strict if root is None else root
    strict = resolved(strict, root)
    if "anyOf" in strict:
        return any(fits(value, branch, root) for branch in strict["anyOf"])
    if "enum" in strict:
        # In Python, True is 1, and 1 is 1.0; as they are written, they differ.
        return json.dumps(value) in map(json.dumps, strict["enum"])
    match strict["type"]:
        case "object":
            return isinstance(value, dict) and _fits_object(value, strict, root)
        case "array":
            return isinstance(value, list) and _fits_array(value, strict, root)
        case "string":
            return isinstance(value, str) and _fits_string(value, strict)
        case "integer":
            return type(value) is int and _fits_number(value, strict)
        case "number":
            return type(value) in (int, float) and _fits_number(value, strict)
        case "boolean":
            return isinstance(value, bool)
        case other:
            assert other == "null", other
            return value is None


def _fits_object(value: dict[str, Any], strict: Strict, root: Strict) -> bool:
    if not strict.get("minProperties", 0) <= len(value):
        return False
    if "maxProperties" in strict and len(value) > strict["maxProperties"]:
        return False
    return all(name in value for name in strict["required"]) and all(
        _fits_property(key, one, strict, root) for key, one in value.items()
    )


def _fits_property(key: str, value: Any, strict: Strict, root: Strict) -> bool:
    if key in strict["properties"]:
        return fits(value, strict["properties"][key], root)
    return any(
        _matches(pattern, key) and fits(value, values, root)
        for pattern, values in strict.get("patternProperties", {}).items()
    )


def _fits_array(value: list[Any], strict: Strict, root: Strict) -> bool:
    if not strict["minItems"] <= len(value) <= strict["maxItems"]:
        return False
    firsts = strict.get("prefixItems", [])[: len(value)]
    schemas = [*firsts, *[strict["items"]] * (len(value) - len(firsts))]
    return all(
        schema is not False and fits(one, schema, root)
        for one, schema in zip(value, schemas, strict=True)
    )


def _fits_string(value: str, strict: Strict) -> bool:
    if not strict.get("minLength", 0) <= len(value) <= strict.get("maxLength", len(value)):
        return False
    return "pattern" not in strict or _matches(strict["pattern"], value)


def _matches(pattern: str, text: str) -> bool:
    """Where it would take too long to find out, the grammar's word counts."""
    return written_pattern(pattern).matches(text) is not False


def _fits_number(value: float, strict: Strict) -> bool:
    if not strict["minimum"] <= value <= strict["maximum"]:
        return False
    # Of decimals, floats keep no more than that they are near one.
    return strict["type"] == "number" or bool(value % strict.get("multipleOf", 1) == 0)
