"""The published schema of the result says what the contract says, and refuses what it does not."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import TypeAdapter

from visionq.contract import (
    CONTRACT_VERSION,
    FINAL_STATES,
    Failure,
    FailureCode,
    Provenance,
    Result,
    State,
    Timings,
    Try,
    Usage,
    Verdict,
    dump_result,
)

FILE = Path(__file__).parents[2] / "docs" / "result.schema.json"
GOLDEN = Path(__file__).parent / "golden" / f"v{CONTRACT_VERSION}"
SCHEMA: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
CLASSES: dict[str, Any] = {
    "Result": Result,
    "Verdict": Verdict,
    "Try": Try,
    "Usage": Usage,
    "Timings": Timings,
    "Provenance": Provenance,
    "Failure": Failure,
}
ONLY_WORDS = {"description", "title", "default", "examples", "format"}
WRONG: dict[str, Any] = {
    "string": 5,
    "integer": "5",
    "number": "0.5",
    "boolean": "true",
    "array": "[]",
    "object": [],
}
Steps = tuple[str | int, ...]


def described(name: str) -> dict[str, Any]:
    """What the published schema says of a class."""
    part: dict[str, Any] = SCHEMA if name == "Result" else SCHEMA["$defs"][name]
    return part


def goldens() -> dict[str, Any]:
    return {
        file.stem: json.loads(file.read_text("utf-8"))
        for file in sorted(GOLDEN.glob("result_*.json"))
    }


def form(schema: Any) -> Any:
    """What a schema demands, written in one way, without its words."""
    if isinstance(schema, list):
        return [form(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: form(value) for key, value in schema.items() if key not in ONLY_WORDS}
    if isinstance(found.get("type"), list):
        return {"anyOf": [{"type": one} for one in found["type"]]}
    return found


def test_it_is_a_schema_of_the_2020_draft_without_a_host() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["$id"] == f"urn:visionq:result:{CONTRACT_VERSION}"


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_is_described_and_required_and_no_other_allowed(name: str) -> None:
    part, names = described(name), [field.name for field in fields(CLASSES[name])]
    assert list(part["properties"]) == names
    assert part["required"] == names
    assert part["additionalProperties"] is False
    assert all(one["description"] for one in (part, *part["properties"].values()))


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_has_the_type_of_the_contract(name: str) -> None:
    """As pydantic has it, but for what is narrower: a state is final, and the version is known."""
    contract = TypeAdapter(Result).json_schema(mode="serialization")
    expected = (contract if name == "Result" else contract["$defs"][name])["properties"]
    if name == "Result":
        final = [str(state) for state in SCHEMA["properties"]["state"]["enum"]]
        assert set(final) == FINAL_STATES
        expected |= {
            "state": {"type": "string", "enum": final},
            "version": {"type": "integer", "const": CONTRACT_VERSION},
        }
    given = described(name)["properties"]
    assert {key: form(one) for key, one in given.items()} == {
        key: form(one) for key, one in expected.items()
    }


def test_all_classes_and_failure_codes_are_there() -> None:
    assert set(SCHEMA["$defs"]) | {"Result"} == set(CLASSES)
    assert SCHEMA["$defs"]["Failure"]["properties"]["code"]["examples"] == list(FailureCode)


@pytest.mark.parametrize("name", goldens())
def test_stored_results_fit(name: str) -> None:
    VALIDATOR.validate(goldens()[name])


def test_a_result_of_many_tries_fits() -> None:
    verdict = Verdict(outcome="degraded", reasons=("truncated",))
    tried = Try(
        temperature=0.3,
        num_crops=4,
        finish_reason="length",
        verdict=verdict,
        completion_tokens=9,
    )
    result = Result(
        task_id="7d3c0d2a-9a5f-5f6e-8f43-4b0c8a7be912",
        kind="ocr",
        state=State.SUCCESS,
        finished_at=1.0,
        tries=(tried, tried),
    )
    written = json.loads(dump_result(result))
    VALIDATOR.validate(written)
    written["tries"][1]["verdict"]["mood"] = "bad"
    assert not VALIDATOR.is_valid(written)


def spoilt() -> Iterator[tuple[str, Any]]:
    """The goldens, each with one thing wrong: an unknown field, a missing one, another type."""
    for name, golden in goldens().items():
        for steps, part in parts(golden, described("Result")):
            for change in changes(part):
                broken = copy.deepcopy(golden)
                what = apply(broken, steps, change)
                yield f"{name}{''.join(f'/{step}' for step in steps)}: {what}", broken


def parts(value: Any, schema: dict[str, Any], steps: Steps = ()) -> Iterator[tuple[Steps, Any]]:
    """Each object in a result that is one of the contract's, with its schema."""
    yield steps, schema
    for name, of_field in schema["properties"].items():
        refs = [one.get("$ref") for one in (of_field, *of_field.get("anyOf", []))]
        ref = next((one for one in refs if one), None)
        if ref and value[name] is not None:
            inner = described(ref.rpartition("/")[2])
            yield from parts(value[name], inner, (*steps, name))


def changes(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "confidence", 0.5
    for name, of_field in schema["properties"].items():
        yield name, None  # taken away
        types = of_field.get("type", [])
        for one in [types] if isinstance(types, str) else types[:1]:
            yield name, WRONG[one]
        if "anyOf" in of_field or "$ref" in of_field:
            yield name, 5


def apply(result: Any, steps: Steps, change: tuple[str, Any]) -> str:
    name, wrong = change
    for step in steps:
        result = result[step]
    if wrong is None:
        del result[name]
        return f"no {name}"
    result[name] = wrong
    return f"{name} = {wrong!r}"


def test_whatever_is_wrong_with_a_result_is_refused() -> None:
    broken = list(spoilt())
    assert len(broken) > 200
    assert [what for what, result in broken if VALIDATOR.is_valid(result)] == []


@pytest.mark.parametrize("state", ["PENDING", "RETRY", "DONE"])
def test_a_result_is_final(state: str) -> None:
    golden = goldens()["result_success"] | {"state": state}
    assert not VALIDATOR.is_valid(golden)


def test_a_newer_version_has_another_schema() -> None:
    assert not VALIDATOR.is_valid(goldens()["result_success"] | {"version": 2})
