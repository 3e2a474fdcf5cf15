"""The published schema of the task says what the contract says, and refuses what it refuses."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from pydantic import TypeAdapter

from tests.contract.test_contract_properties import tasks
from tests.contract.test_result_schema import form
from visionq.contract import (
    CONTRACT_VERSION,
    MAX_LABEL_CHARS,
    MAX_LABELS,
    MAX_PAGE,
    MAX_QUESTION_CHARS,
    ImageRef,
    Lane,
    Options,
    Task,
    dump,
    read_task,
)
from visionq.errors import InvalidTask
from visionq.kinds import BUILTIN_KINDS, MAX_CROPS, MAX_IMAGES, MAX_NEW_TOKENS

FILE = Path(__file__).parents[2] / "docs" / "task.schema.json"
GOLDEN = Path(__file__).parent / "golden" / f"v{CONTRACT_VERSION}"
SCHEMA: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
TASK_ID = "0b0c1a9e-52a8-4b43-9a56-0a2f8a1d9a11"
CLASSES: dict[str, Any] = {"Task": Task, "ImageRef": ImageRef, "Options": Options}
RANGES = {
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "minLength",
    "maxLength",
    "maxItems",
    "maxProperties",
    "propertyNames",
    "const",
}
"""What the contract checks by hand; pydantic does not know of it."""
FULL: dict[str, Any] = json.loads((GOLDEN / "task_full.json").read_text("utf-8"))


def described(name: str) -> dict[str, Any]:
    part: dict[str, Any] = SCHEMA if name == "Task" else SCHEMA["$defs"][name]
    return part


def without_ranges(schema: Any) -> Any:
    if isinstance(schema, list):
        return [without_ranges(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: without_ranges(value) for key, value in schema.items() if key not in RANGES}


def test_it_is_a_schema_of_the_2020_draft_without_a_host() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["$id"] == f"urn:visionq:task:{CONTRACT_VERSION}"


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_is_described_and_no_other_allowed(name: str) -> None:
    part, cls = described(name), CLASSES[name]
    assert list(part["properties"]) == [field.name for field in fields(cls)]
    assert part["additionalProperties"] is False
    texts = [part, *part["properties"].values()]
    assert all(one.get("description") or "$ref" in one for one in texts)
    needed = [
        field.name
        for field in fields(cls)
        if field.default is MISSING and field.default_factory is MISSING
    ]
    # The message has an id of its own.
    assert part.get("required", []) == [name for name in needed if name != "id"]


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_has_the_type_and_default_of_the_contract(name: str) -> None:
    contract = TypeAdapter(Task).json_schema(mode="validation")
    expected = (contract if name == "Task" else contract["$defs"][name])["properties"]
    if name == "Task":
        expected |= {"lane": {"type": "string", "enum": list(Lane), "default": "interactive"}}
    given_ = described(name)["properties"]
    assert {key: form(without_ranges(one)) for key, one in given_.items()} == {
        key: form(one) for key, one in expected.items()
    }
    assert {key: one["default"] for key, one in given_.items() if "default" in one} == {
        key: one["default"] for key, one in expected.items() if "default" in one
    }


def test_the_kinds_that_come_with_it_are_named() -> None:
    text = SCHEMA["properties"]["kind"]["description"]
    assert all(kind in text for kind in BUILTIN_KINDS)


@pytest.mark.parametrize("name", ["task_full", "task_minimal"])
def test_sent_tasks_fit(name: str) -> None:
    task = json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))
    VALIDATOR.validate(task)
    del task["id"]
    VALIDATOR.validate(task)


@settings(max_examples=200)
@given(tasks)
def test_whatever_a_client_sends_fits(task: Task) -> None:
    VALIDATOR.validate(json.loads(json.dumps(dump(task))))


VALUES: dict[str, list[Any]] = {
    "id": [TASK_ID.upper(), "no-uuid", 5, None],
    "kind": ["a", "k" * 40, "k" * 41, "Ocr", "9a", "", None, 5],
    "images": [[], [{"ref": "inputs/a"}] * MAX_IMAGES, [{"ref": "inputs/a"}] * (MAX_IMAGES + 1)],
    "images/0/ref": ["", 5, None],
    "images/0/page": [None, 1, MAX_PAGE, 0, MAX_PAGE + 1, 1.5, "1", True],
    "images/0/bytes": ["AAAA"],
    "question": [None, "", "?" * MAX_QUESTION_CHARS, "?" * (MAX_QUESTION_CHARS + 1), 5, ["?"]],
    "options": [{}, None, [], 5],
    "options/max_new_tokens": [None, 1, MAX_NEW_TOKENS, 0, MAX_NEW_TOKENS + 1, 1.5, "1", True],
    "options/temperature": [0, 2, 0.5, -0.1, 2.1, "0", None, False],
    "options/top_p": [0.001, 1, 0, 1.1, "1", None, True],
    "options/seed": [None, 0, 2**63 - 1, -1, 2**63, "1"],
    "options/num_crops": [None, 1, MAX_CROPS, 0, MAX_CROPS + 1, "4"],
    "options/schema": [None, "object", 5, []],
    "options/reuse": [True, False, None, 1, "true"],
    "options/beams": [4],
    "lane": ["interactive", "bulk", "fast", None, 5],
    "deadline": [None, 0, 2**53, 1.5, -1, 2**53 + 2, "tomorrow", True],
    "tenant": ["a", "a" * 40, "a" * 41, "", "A", "a_b", None, 5],
    "labels": [
        {},
        {str(n): "x" for n in range(MAX_LABELS)},
        {str(n): "x" for n in range(MAX_LABELS + 1)},
        {"k" * MAX_LABEL_CHARS: "v" * MAX_LABEL_CHARS},
        {"k" * (MAX_LABEL_CHARS + 1): "v"},
        {"k": "v" * (MAX_LABEL_CHARS + 1)},
        {"k": 5},
        [],
        None,
    ],
    "notify": [None, "https://example.org/done", 5],
    "version": [1, 2, "1", None],
    "colour": ["red"],
}


def changed() -> Iterator[tuple[str, Any]]:
    """The golden task with one field set to each value, and with each field left out."""
    for path, values in VALUES.items():
        *steps, last = path.split("/")
        for value in [*values, "left out"]:
            task = copy.deepcopy(FULL)
            part = task
            for step in steps:
                part = part[int(step)] if step.isdigit() else part[step]  # type: ignore[index]
            if value == "left out":
                part.pop(last, None)
            else:
                part[last] = value
            yield f"{path} = {str(value)[:40]!r}", task


def is_read(task: Any) -> bool:
    """As a worker reads it; the message's id is the golden's."""
    try:
        read_task(task, task_id=FULL["id"])
    except InvalidTask:
        return False
    return True


def test_what_the_schema_takes_is_what_a_worker_takes() -> None:
    cases = list(changed())
    assert sum(is_read(task) for _, task in cases) > 40
    assert sum(not is_read(task) for _, task in cases) > 60
    assert [what for what, task in cases if VALIDATOR.is_valid(task) is not is_read(task)] == []
