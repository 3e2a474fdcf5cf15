"""Fields to be read: the schema that they become, and what comes back."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from tests.client.hand_worker import HandWorker
from visionq import Client, Submission
from visionq.errors import InvalidTask, SchemaUnsupported
from visionq.fields import DESCRIPTION, read_field, schema_of_fields
from visionq.names import Names
from visionq.schemas import strict_schema

BOOK = {"title": str, "year": int, "price": float, "is_signed": bool}


def test_each_field_is_of_its_type_or_null() -> None:
    null = {"type": "null"}
    assert schema_of_fields(BOOK) == {
        "description": DESCRIPTION,
        "type": "object",
        "properties": {
            "title": {"anyOf": [{"type": "string", "maxLength": 500}, null]},
            "year": {"anyOf": [{"type": "integer"}, null]},
            "price": {"anyOf": [{"type": "number"}, null]},
            "is_signed": {"anyOf": [{"type": "boolean"}, null]},
        },
        "required": ["title", "year", "price", "is_signed"],
    }
    assert strict_schema(schema_of_fields(BOOK))["required"] == list(BOOK)


def test_fields_are_the_tasks_schema(client: Client, key: str, worker: HandWorker) -> None:
    handle = client.ocr(key, fields=BOOK)
    (other,) = client.submit_many([Submission("ocr", key, options={"fields": {"title": str}})])
    assert worker.task(handle.id).options.schema == schema_of_fields(BOOK)
    assert worker.task(other.id).options.schema == schema_of_fields({"title": str})


def test_what_was_read_comes_back_by_name(client: Client, key: str, worker: HandWorker) -> None:
    handle = client.ocr(key, fields={"title": str, "author": str})
    worker.succeed(handle.id, value={"title": "Dune", "author": None})
    assert handle.result(10).value == {"title": "Dune", "author": None}


@pytest.mark.parametrize(
    "fields", [{}, {"": str}, {1: str}, {"a": list}, {"a": "str"}, {"a": None}, [("a", str)], "a"]
)
def test_what_are_no_fields_is_refused_before_anything_is_written(
    client: Client, key: str, raw: redis.Redis, names: Names, fields: Any
) -> None:
    with pytest.raises(InvalidTask):
        client.ocr(key, fields=fields)
    assert not raw.keys(names.record("*"))


def test_a_name_that_the_grammar_cannot_write_is_refused(client: Client, key: str) -> None:
    with pytest.raises(SchemaUnsupported, match="properties"):
        client.ocr(key, fields={"a\x00": str})


def test_fields_and_a_schema_exclude_each_other(client: Client, key: str) -> None:
    with pytest.raises(InvalidTask, match="either fields or a schema"):
        client.ocr(key, fields=BOOK, schema={"type": "null"})


def test_a_field_on_the_command_line_is_text_unless_it_says_more() -> None:
    assert read_field("title") == ("title", str)
    assert read_field("year:int") == ("year", int)
    with pytest.raises(InvalidTask, match="str, int, float, bool"):
        read_field("year:date")
