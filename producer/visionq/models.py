"""pydantic models as schemas: there and back.

A model that is given as a schema is sent as its JSON Schema; what comes back becomes its instance.
pydantic is the caller's here: nothing is imported for those who do not use it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from visionq.errors import NoValue, SchemaUnsupported

if TYPE_CHECKING:
    from pydantic import BaseModel

    from visionq.contract import Result

Model = TypeVar("Model", bound="BaseModel")


def as_schema(given: dict[str, Any] | type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema itself, or the model's. Raises `SchemaUnsupported`."""
    if isinstance(given, dict):
        return given
    if not (isinstance(given, type) and hasattr(given, "model_json_schema")):
        raise SchemaUnsupported("", "neither a JSON Schema nor a pydantic model")
    from pydantic.errors import PydanticUserError

    try:
        return given.model_json_schema()
    except PydanticUserError as exc:
        raise SchemaUnsupported("", f"the model has no JSON Schema: {exc}") from exc


def as_model(given: dict[str, Any] | type[BaseModel] | None) -> type[BaseModel] | None:
    """The model, if it is one that was given as a schema."""
    return given if isinstance(given, type) else None


def instance(model: type[Model], result: Result) -> Model:
    """What the result holds, as the model. Raises `NoValue`, with the result."""
    from pydantic import ValidationError

    if result.value is None:
        reasons = ", ".join(result.verdict.reasons) if result.verdict else ""
        raise NoValue(f"the answer has no value: {reasons or 'none was asked for'}", result)
    try:
        # As JSON: a model in strict mode takes no string for a date otherwise.
        return model.model_validate_json(json.dumps(result.value))
    except ValidationError as exc:
        raise NoValue(
            f"the value is no {model.__name__}: {exc.error_count()} errors", result
        ) from exc


def with_instance(model: type[BaseModel] | None, result: Result) -> Result:
    """The result with its value as the model, where there are both."""
    if model is None or result.value is None:
        return result
    return replace(result, value=instance(model, result))
