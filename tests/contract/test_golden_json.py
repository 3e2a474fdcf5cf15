"""Version 1 of the wire, as JSON files: what was stored or queued once stays readable for ever."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from visionq.contract import (
    Options,
    Result,
    State,
    Task,
    Verdict,
    dump,
    dump_result,
    read_result,
    read_task,
)
from visionq.errors import InvalidTask

GOLDEN = Path(__file__).parent / "golden" / "v1"

TASK_FIELDS = [
    "id",
    "kind",
    "images",
    "question",
    "options",
    "lane",
    "deadline",
    "tenant",
    "labels",
    "notify",
    "version",
]
OPTION_FIELDS = [
    "max_new_tokens",
    "temperature",
    "top_p",
    "seed",
    "num_crops",
    "schema",
    "reuse",
]


def golden_task(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((GOLDEN / f"task_{name}.json").read_text("utf-8"))
    return data


def golden_result(name: str) -> str:
    return (GOLDEN / f"result_{name}.json").read_text("utf-8").rstrip("\n")


@pytest.mark.parametrize("name", ["minimal", "full"])
def test_golden_task_is_read_and_written_back_unchanged(name: str) -> None:
    golden = golden_task(name)
    written = dump(read_task(golden))
    assert written == golden
    assert list(written) == list(golden)


@pytest.mark.parametrize("name", ["success", "failure", "revoked"])
def test_golden_result_is_read_and_written_back_byte_for_byte(name: str) -> None:
    golden = golden_result(name)
    assert dump_result(read_result(golden.encode())).decode() == golden


def test_full_golden_task_has_every_field_of_the_contract() -> None:
    golden = golden_task("full")
    assert list(golden) == TASK_FIELDS
    assert list(golden["options"]) == OPTION_FIELDS
    assert [field.name for field in fields(Task)] == TASK_FIELDS
    assert [field.name for field in fields(Options)] == OPTION_FIELDS


def test_golden_result_has_every_field_of_the_contract() -> None:
    golden = json.loads(golden_result("success"))
    assert [field.name for field in fields(Result)] == list(golden)


def test_minimal_golden_task_means_the_defaults_of_version_1() -> None:
    task = read_task(golden_task("minimal"))
    assert task.question is None
    assert task.options == Options(
        max_new_tokens=None, temperature=0.0, top_p=1.0, seed=None, num_crops=None, schema=None
    )
    assert task.lane == "interactive"
    assert task.deadline is None
    assert task.tenant == "default"
    assert task.labels == {}
    assert task.notify is None
    assert task.version == 1


def test_golden_success_is_read_into_typed_values() -> None:
    result = read_result(golden_result("success").encode())
    assert result.state is State.SUCCESS
    assert result.verdict == Verdict(outcome="degraded", reasons=("repeats itself",))
    assert result.usage is not None
    assert result.usage.total_tokens == 2555
    assert result.failure is None


def test_golden_failure_keeps_its_code() -> None:
    failure = read_result(golden_result("failure").encode()).failure
    assert failure is not None
    assert (failure.code, failure.retryable) == ("image_truncated", False)


@pytest.mark.parametrize("field", [name for name in TASK_FIELDS if name != "options"])
def test_a_renamed_field_of_a_task_is_refused_by_its_new_name(field: str) -> None:
    renamed = golden_task("full")
    renamed[f"{field}_2"] = renamed.pop(field)
    with pytest.raises(InvalidTask, match=rf"{field}_2: Unexpected|^{field}: Field required"):
        read_task(renamed)


@pytest.mark.parametrize("field", OPTION_FIELDS)
def test_a_renamed_option_is_refused_by_its_new_name(field: str) -> None:
    renamed = golden_task("full")
    renamed["options"][f"{field}_2"] = renamed["options"].pop(field)
    with pytest.raises(InvalidTask, match=rf"options\.{field}_2"):
        read_task(renamed)


@pytest.mark.parametrize("field", ["task_id", "kind", "state", "finished_at"])
def test_a_result_without_a_required_field_is_refused(field: str) -> None:
    cut = json.loads(golden_result("success"))
    del cut[field]
    with pytest.raises(InvalidTask, match=f"{field}: Field required"):
        read_result(json.dumps(cut).encode())


def test_a_result_of_a_newer_version_is_read_without_what_is_new_in_it() -> None:
    newer = json.loads(golden_result("success")) | {"version": 2, "confidence": 0.5}
    assert read_result(json.dumps(newer).encode()).version == 2


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"null", b"[]", b"<Error/>"])
def test_what_is_no_result_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidTask):
        read_result(content)
