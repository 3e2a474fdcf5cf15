"""The commands about a task whose record is gone, while its result is in the store."""

from __future__ import annotations

import uuid

import pytest

from tests.cli.commands import json_lines, json_of, visionq
from visionq.contract import Failure, Result, State, dump_result
from visionq.names import result_key
from visionq.objects import ObjectStore

Env = dict[str, str]


@pytest.fixture
def gone(store: ObjectStore) -> str:
    """The id of a task that was answered, and has no record any more."""
    return put(store, state=State.SUCCESS, text="an answer")


@pytest.fixture
def failed(store: ObjectStore) -> str:
    failure = Failure(code="not_an_image", message="it is none")
    return put(store, state=State.FAILURE, failure=failure)


def put(store: ObjectStore, **fields: object) -> str:
    task_id = str(uuid.uuid4())
    result = Result(task_id=task_id, kind="ocr", finished_at=1.5, **fields)  # type: ignore[arg-type]
    store.put(result_key(task_id), dump_result(result))
    return task_id


def test_status_says_where_it_knows_it_from(idle: Env, gone: str) -> None:
    said = visionq(idle, "status", gone)
    assert said.exit_code == 0
    why = "(by its result in the store; its record is gone)"
    assert said.stdout == f"{gone} ocr      SUCCESS  {why}\n"
    assert json_of(visionq(idle, "status", gone, "--json"))["source"] == "store"


def test_status_of_one_with_a_record_says_so_in_json_only(idle: Env) -> None:
    waiting = visionq(idle, "submit", "ocr", "inputs/0").stdout.strip()
    assert json_of(visionq(idle, "status", waiting, "--json"))["source"] == "record"
    assert "store" not in visionq(idle, "status", waiting).stdout


def test_wait_and_result_end_as_with_a_record(idle: Env, gone: str, failed: str) -> None:
    assert visionq(idle, "wait", gone).exit_code == 0
    answered = visionq(idle, "result", gone)
    assert (answered.exit_code, answered.stdout) == (0, "an answer\n")
    assert visionq(idle, "wait", failed).exit_code == 1
    refused = visionq(idle, "result", failed)
    assert refused.exit_code == 1
    assert "it is none" in refused.stderr


def test_without_the_store_the_known_are_shown_and_the_command_fails(
    idle: Env, gone: str, closed_port: int
) -> None:
    waiting = visionq(idle, "submit", "ocr", "inputs/0").stdout.strip()
    env = idle | {"VISIONQ_STORAGE__ENDPOINT_URL": f"http://127.0.0.1:{closed_port}"}
    said = visionq(env, "status", gone, waiting, gone, "--json")
    assert said.exit_code == 5
    first, last = json_lines(said)
    assert (first["id"], first["state"]) == (waiting, "PENDING")
    assert last["error"] == "StorageUnavailable"
