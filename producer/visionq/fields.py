"""Fields to be read off a picture, by name and type: a schema for those who need no more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from visionq.errors import InvalidTask

FieldType: TypeAlias = type[str] | type[int] | type[float] | type[bool]

MAX_FIELD_CHARS = 500
"""Of a text: a field is a line or two, and a model that goes on has lost its way."""

_SCHEMAS: Mapping[type, dict[str, Any]] = {
    str: {"type": "string", "maxLength": MAX_FIELD_CHARS},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
}
FIELD_TYPES: Mapping[str, FieldType] = {"str": str, "int": int, "float": float, "bool": bool}

DESCRIPTION = "Fields to be read in the picture; null for what it does not say."
"""What the model is told of them, within the schema."""


def schema_of_fields(fields: Mapping[str, FieldType]) -> dict[str, Any]:
    """The schema of an object with all these fields, each of its type or null.

    Raises `InvalidTask` for fields of other types, and for none at all.
    """
    if not isinstance(fields, Mapping) or not fields:
        raise InvalidTask("fields must be a mapping from names to types, and not empty")
    for name, given in fields.items():
        if not isinstance(name, str) or not name:
            raise InvalidTask("a field's name must be a string, and not empty")
        if given not in FIELD_TYPES.values():
            raise InvalidTask(f"field {name!r} must be of {', '.join(FIELD_TYPES)}")
    return {
        "description": DESCRIPTION,
        "type": "object",
        "properties": {
            name: {"anyOf": [_SCHEMAS[given], {"type": "null"}]} for name, given in fields.items()
        },
        "required": list(fields),
    }


def read_field(text: str) -> tuple[str, FieldType]:
    """`name` or `name:type`, as on a command line. Raises `InvalidTask`."""
    name, _, named = text.partition(":")
    try:
        return name, FIELD_TYPES[named or "str"]
    except KeyError:
        raise InvalidTask(f"field {name!r} must be of {', '.join(FIELD_TYPES)}") from None
