"""Answers to a schema: what the model's text is worth in the end.

The engine's grammar has held every token of a finished answer to the schema. It is looked at once
more all the same: of a document that does not fit, nobody is given a value.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from visionq.contract import FinishReason, Verdict
from visionq.kinds import schema_text
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


def fits(value: Any, strict: Strict) -> bool:
    """Whether a value fits a schema in its strict form."""
    if "anyOf" in strict:
        return any(fits(value, branch) for branch in strict["anyOf"])
    if "enum" in strict:
        # In Python, True is 1.
        return any(value == one and type(value) is type(one) for one in strict["enum"])
    match strict["type"]:
        case "object":
            return isinstance(value, dict) and _fits_object(value, strict)
        case "array":
            return isinstance(value, list) and _fits_array(value, strict)
        case "string":
            return isinstance(value, str) and _fits_string(value, strict)
        case "integer":
            return type(value) is int and strict["minimum"] <= value <= strict["maximum"]
        case "number":
            is_number = type(value) in (int, float)
            return is_number and bool(strict["minimum"] <= value <= strict["maximum"])
        case "boolean":
            return isinstance(value, bool)
        case other:
            assert other == "null", other
            return value is None


def _fits_object(value: dict[str, Any], strict: Strict) -> bool:
    if "patternProperties" in strict:
        ((pattern, values),) = strict["patternProperties"].items()
        return len(value) <= strict["maxProperties"] and all(
            re.search(pattern, key) and fits(one, values) for key, one in value.items()
        )
    properties = strict["properties"]
    return all(name in value for name in strict["required"]) and all(
        key in properties and fits(one, properties[key]) for key, one in value.items()
    )


def _fits_array(value: list[Any], strict: Strict) -> bool:
    if not strict["minItems"] <= len(value) <= strict["maxItems"]:
        return False
    schemas = strict.get("prefixItems") or [strict["items"]] * len(value)
    return all(fits(one, schema) for one, schema in zip(value, schemas, strict=True))


def _fits_string(value: str, strict: Strict) -> bool:
    if not strict.get("minLength", 0) <= len(value) <= strict["maxLength"]:
        return False
    return "pattern" not in strict or re.search(strict["pattern"], value) is not None
