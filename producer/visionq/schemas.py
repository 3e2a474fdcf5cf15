"""Schemas of answers: which part of JSON Schema is carried out, and the strict form of it.

What is not carried out is refused where the task is built, with its JSON pointer: a keyword that is
passed over is an answer that does not validate. Keywords that JSON Schema does not know say nothing
about validity, and are left to the model to read.

The strict form is what the worker enforces. Whatever fits it fits the schema as it was given, but
nothing is left open in it, so that every document has an end and one spelling:

    references                replaced by what they refer to, recursion up to a depth
    objects                   only the properties named; or a map, of limited size
    strings, arrays, numbers  never longer, or larger, than the limits say
    formats                   patterns of ours
    allOf, not, if, oneOf     made into plain forms, and branches of which any may be chosen
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, NoReturn

from visionq.errors import SchemaUnsupported
from visionq.schema_reading import Reading
from visionq.schema_scalars import Strict
from visionq.schema_sharing import shared

__all__ = ["Strict", "strict_schema"]

MAX_SCHEMA_BYTES = 60 * 1024
MAX_STRICT_BYTES = 400 * 1024
"""Of the strict form: the worker compiles a grammar of it."""


def strict_schema(schema: object) -> Strict:
    """The strict form of a schema. Raises `SchemaUnsupported`, naming the JSON pointer.

    What is used in several places is one object; nobody changes it.
    """
    if not isinstance(schema, dict):
        _refuse("", "a schema is a JSON object")
    try:
        text = json.dumps(schema, allow_nan=False, ensure_ascii=False)
        num_bytes = len(text.encode())
        is_json = _is_json(schema)
    except (TypeError, ValueError, RecursionError) as exc:
        raise SchemaUnsupported("", f"the schema is no JSON: {exc}") from exc
    if not is_json:
        _refuse("", "the schema is no JSON: names are strings")
    if num_bytes > MAX_SCHEMA_BYTES:
        _refuse("", f"a schema has {MAX_SCHEMA_BYTES} bytes of JSON at most, not {num_bytes}")
    return _strict(text)


def _is_json(value: object) -> bool:
    """Whether all names in a value are strings; Python's JSON writes numbers as such."""
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_json(item) for name, item in value.items())
    return not isinstance(value, list | tuple) or all(_is_json(item) for item in value)


@lru_cache(maxsize=32)
def _strict(text: str) -> Strict:
    """Each schema is read when it is submitted, and when its task is run, and its answer judged."""
    schema: dict[str, Any] = json.loads(text)
    strict = shared(Reading(schema).root())
    num_bytes = len(json.dumps(strict).encode())
    if num_bytes > MAX_STRICT_BYTES:
        _refuse("", "too much may stand in a document: give it fewer choices and properties")
    return strict


def _refuse(at: str, why: str) -> NoReturn:
    raise SchemaUnsupported(at, why)
