"""A task carries the lowest contract version that has its fields, and newer ones are told apart.

The newer contract is this one with raised numbers: fields that there are stand for new ones.
"""

import json
import pickle
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from visionq import contract
from visionq.contract import (
    CONTRACT_VERSION,
    FIELD_VERSIONS,
    ImageRef,
    Options,
    State,
    Task,
    dump,
    encode_task,
    read_newer_result,
    read_newer_task,
    read_result,
    read_task,
)
from visionq.errors import InvalidTask, UnsupportedVersion

TASK_ID = "0b0c1a9e-52a8-4b43-9a56-0a2f8a1d9a11"
GOLDEN = Path(__file__).parent / "golden" / "v1"
CLASSES = (Task, Options, ImageRef)


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A contract of version 4, in which three fields came one after the other."""
    later = {"Options.reuse": 2, "ImageRef.page": 3, "Task.notify": 4}
    monkeypatch.setattr(contract, "FIELD_VERSIONS", MappingProxyType(later))
    monkeypatch.setattr(contract, "CONTRACT_VERSION", 4)
    contract._later_fields.cache_clear()
    monkeypatch.setattr(contract, "_later_fields", contract._later_fields.__wrapped__)


def task(**more: Any) -> Task:
    return Task(id=TASK_ID, kind="ocr", **{"images": (ImageRef(ref="inputs/a"),)} | more)


def test_the_table_has_each_field_that_version_1_has_not() -> None:
    full = json.loads((GOLDEN / "task_full.json").read_text("utf-8"))
    first = {
        *(f"Task.{name}" for name in full),
        *(f"Options.{name}" for name in full["options"]),
        *("ImageRef.ref", "ImageRef.page"),
    }
    now = {f"{cls.__name__}.{item.name}" for cls in CLASSES for item in fields(cls)}
    assert now - first == set(FIELD_VERSIONS)


def test_the_newest_field_has_raised_the_version() -> None:
    assert max(FIELD_VERSIONS.values(), default=1) == CONTRACT_VERSION


@pytest.mark.usefixtures("newer")
@pytest.mark.parametrize(
    ("more", "version"),
    [
        ({}, 1),
        ({"question": "What?", "tenant": "acme", "deadline": 5.0}, 1),
        ({"options": Options(reuse=True, seed=1)}, 1),
        ({"options": Options(reuse=False)}, 2),
        ({"images": (ImageRef(ref="a"), ImageRef(ref="b", page=2))}, 3),
        ({"notify": "https://a.b/c"}, 4),
        ({"notify": "https://a.b/c", "options": Options(reuse=False)}, 4),
        ({"version": 4}, 1),
        ({"version": 1, "options": Options(reuse=False)}, 2),
    ],
)
def test_a_task_carries_the_lowest_version_that_has_its_fields(
    more: dict[str, Any], version: int
) -> None:
    made = task(**more)
    assert made.version == version
    assert dump(made)["version"] == version
    assert json.loads(encode_task(made))["version"] == version
    assert read_task(dump(made)) == made


@pytest.mark.usefixtures("newer")
def test_a_changed_task_has_the_version_of_its_change() -> None:
    assert replace(task(), notify="https://a.b/c").version == 4
    assert replace(task(notify="https://a.b/c"), notify=None).version == 1


def test_a_newer_task_says_which_version_it_needs() -> None:
    with pytest.raises(UnsupportedVersion) as raised:
        read_task({"id": TASK_ID, "kind": "ocr", "images": [], "version": 7, "colour": "red"})
    assert raised.value.version == 7
    assert pickle.loads(pickle.dumps(raised.value)).version == 7


@pytest.mark.parametrize("version", [1001, 10**9, 2**63, 10**300])
def test_what_is_above_every_version_is_no_newer_task(version: int) -> None:
    with pytest.raises(InvalidTask, match="version must be a whole number") as raised:
        read_task({"id": TASK_ID, "kind": "ocr", "images": [], "version": version})
    assert not isinstance(raised.value, UnsupportedVersion)


def test_of_a_newer_task_is_told_whose_it_is() -> None:
    newer = {
        "kind": "film",
        "images": [{"frames": 3}],
        "lane": "bulk",
        "tenant": "acme",
        "labels": {"batch": "7"},
        "version": 2,
        "colour": "red",
    }
    told = read_newer_task(newer, task_id=TASK_ID)
    assert (told.id, told.kind, told.lane, told.tenant) == (TASK_ID, "film", "bulk", "acme")
    assert told.labels == {"batch": "7"}


@pytest.mark.parametrize("data", [None, [], "", {}, {"kind": 5}, {"kind": "ocr", "lane": "slow"}])
def test_of_what_is_no_task_nothing_is_told(data: object) -> None:
    with pytest.raises(InvalidTask):
        read_newer_task(data, task_id=TASK_ID)


def golden_result() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((GOLDEN / "result_success.json").read_text("utf-8"))
    return data


@pytest.mark.parametrize("part", ["usage", "timings", "provenance", "verdict"])
def test_new_fields_in_any_part_of_a_newer_result_are_passed_over(part: str) -> None:
    newer = golden_result() | {"version": 2}
    newer[part] = newer[part] | {"more": {"of": "it"}}
    assert read_result(json.dumps(newer).encode()) == replace(
        read_result(json.dumps(golden_result()).encode()), version=2
    )


def test_a_newer_result_that_cannot_be_read_still_says_how_its_task_ended() -> None:
    newer = golden_result() | {"version": 2, "finish_reason": "bored", "usage": 5}
    content = json.dumps(newer).encode()
    with pytest.raises(UnsupportedVersion):
        read_result(content)
    told = read_newer_result(content)
    assert (told.task_id, told.state, told.text) == (
        golden_result()["task_id"],
        State.SUCCESS,
        golden_result()["text"],
    )


def test_a_newer_result_with_an_unknown_state_does_not_end_its_task() -> None:
    with pytest.raises(InvalidTask):
        read_newer_result(json.dumps(golden_result() | {"version": 2, "state": "BORED"}).encode())
