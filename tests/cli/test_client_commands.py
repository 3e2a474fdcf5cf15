"""`visionq submit`, `status`, `wait`, `result`, `cancel` and `ls`, for people and for programs."""

from __future__ import annotations

import json
import re
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from tests.cli.commands import json_lines, json_of, visionq
from visionq import Result, State
from visionq.contract import Provenance, dump_result
from visionq.fields import schema_of_fields
from visionq.names import Names, result_key
from visionq.objects import ObjectStore

Env = dict[str, str]

NO_WORKER = "(no worker is running)"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


@pytest.fixture
def picture(pictures: Path) -> Path:
    return pictures / "shelf_after.png"


@pytest.fixture
def waiting(idle: Env, picture: Path) -> str:
    """The id of a task that nobody works on."""
    submitted = visionq(idle, "submit", "describe", picture)
    assert submitted.exit_code == 0
    return submitted.stdout.strip()


@pytest.fixture
def answered(answering: Env, picture: Path) -> str:
    """The id of a task that has its answer."""
    submitted = visionq(
        answering, "submit", "describe", picture, "--max-new-tokens=3", "--wait", "--json"
    )
    assert submitted.exit_code == 0, submitted.stderr
    return str(json_of(submitted)["task_id"])


@pytest.fixture
def failed(answering: Env, tmp_path: Path) -> str:
    """The id of a task that has failed: its image is none."""
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8 but no picture")
    submitted = visionq(answering, "submit", "ocr", tmp_path / "cut.jpg")
    assert visionq(answering, "wait", submitted.stdout.strip()).exit_code == 1
    return submitted.stdout.strip()


def test_submit_prints_the_id_and_nothing_else(idle: Env, picture: Path) -> None:
    result = visionq(idle, "submit", "ocr", picture)
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.fullmatch(rf"{UUID}\n", result.stdout)


def test_submit_as_json_says_where_the_result_will_be(idle: Env, picture: Path) -> None:
    said = json_of(visionq(idle, "submit", "ocr", picture, "--json"))
    assert said == {"id": said["id"], "result_key": f"results/{said['id']}.json"}


def test_the_schema_is_read_from_a_file(
    idle: Env, picture: Path, raw: redis.Redis, names: Names, tmp_path: Path
) -> None:
    file = tmp_path / "schema.json"
    file.write_text('{"type": "boolean"}')
    submitted = visionq(idle, "submit", "ask", picture, "-q", "Is it red?", "--schema", file)
    assert submitted.exit_code == 0, submitted.stderr
    record = raw.hget(names.record(submitted.stdout.strip()), "task")
    assert json.loads(str(record))["options"]["schema"] == {"type": "boolean"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as JSON"),
        ('{"oneOf": []}', "schema at /oneOf"),
        ("5", "neither a JSON"),
    ],
)
def test_a_schema_that_cannot_be_used_is_a_usage_error(
    idle: Env, picture: Path, tmp_path: Path, content: str, said: str
) -> None:
    file = tmp_path / "schema.json"
    file.write_text(content)
    submitted = visionq(idle, "submit", "describe", picture, "--schema", file)
    assert submitted.exit_code == 2
    assert said in submitted.stderr


def test_fields_are_named_one_by_one(
    idle: Env, picture: Path, raw: redis.Redis, names: Names
) -> None:
    submitted = visionq(idle, "submit", "ocr", picture, "--field", "title", "--field", "year:int")
    assert submitted.exit_code == 0, submitted.stderr
    task = json.loads(str(raw.hget(names.record(submitted.stdout.strip()), "task")))
    assert task["options"]["schema"] == schema_of_fields({"title": str, "year": int})
    wrong = visionq(idle, "submit", "ocr", picture, "--field", "year:date")
    assert (wrong.exit_code, "str, int, float, bool" in wrong.stderr) == (2, True)


def test_every_option_of_submit_reaches_the_task(
    idle: Env, picture: Path, raw: redis.Redis, names: Names
) -> None:
    options = (
        "--question=Which?",
        "--max-new-tokens=9",
        "--temperature=0.5",
        "--top-p=0.8",
        "--seed=4",
        "--num-crops=2",
        "--lane=bulk",
        "--tenant=acme",
        "--expires-in-seconds=60",
    )
    before = time.time()
    submitted = visionq(idle, "submit", "compare", "inputs/a", "s3://other/b", *options)
    task_id = submitted.stdout.strip()
    task = json.loads(str(raw.hget(names.record(task_id), "task")))
    assert before + 59 < task.pop("deadline") < time.time() + 61
    assert task == {
        "id": task_id,
        "kind": "compare",
        "images": [{"ref": "inputs/a"}, {"ref": "s3://other/b"}],
        "question": "Which?",
        "options": {
            "max_new_tokens": 9,
            "temperature": 0.5,
            "top_p": 0.8,
            "seed": 4,
            "num_crops": 2,
        },
        "lane": "bulk",
        "tenant": "acme",
        "version": 1,
    }
    assert raw.llen(names.queue("bulk")) == 1


def test_same_idempotency_key_is_the_same_task(idle: Env, picture: Path) -> None:
    first, again, other = (
        visionq(idle, "submit", "ocr", picture, f"--idempotency-key={key}").stdout
        for key in ("a", "a", "b")
    )
    assert first == again != other


def test_submit_and_wait_prints_the_answer_and_shows_progress_beside_it(
    answering: Env, picture: Path
) -> None:
    result = visionq(
        answering, "submit", "ask", picture, "-q", "What is this?", "--max-new-tokens=4", "--wait"
    )
    assert result.exit_code == 0
    assert result.stdout.strip()
    assert result.stderr.splitlines()[-1] == (
        "SUCCESS  [########################] 4 of at most 4 tokens"
    )


def test_submit_and_wait_as_json_is_the_stored_result(
    answering: Env, answered: str, store: ObjectStore
) -> None:
    said = json_of(visionq(answering, "result", answered, "--json"))
    assert said == json.loads(store.get(f"results/{answered}.json"))
    assert (said["state"], said["usage"]["completion_tokens"]) == ("SUCCESS", 3)


def test_result_prints_the_answer_again(answering: Env, answered: str) -> None:
    text = json_of(visionq(answering, "result", answered, "--json"))["text"]
    assert visionq(answering, "result", answered).stdout == f"{text}\n"


def test_status_of_a_waiting_task_is_one_line(idle: Env, waiting: str) -> None:
    result = visionq(idle, "status", waiting)
    assert result.exit_code == 0
    assert result.stdout == f"{waiting} describe PENDING  next in the queue {NO_WORKER}\n"


def test_status_of_an_answered_task_shows_its_tokens(answering: Env, answered: str) -> None:
    assert visionq(answering, "status", answered).stdout == (
        f"{answered} describe SUCCESS  [########################] 3 of at most 3 tokens\n"
    )


def test_status_of_a_failed_task_says_why(answering: Env, failed: str) -> None:
    result = visionq(answering, "status", failed)
    assert result.exit_code == 0
    assert result.stdout == (
        f"{failed} ocr      FAILURE  "
        "not_an_image: an input is no image of these kinds: JPEG, PDF, PNG, WEBP\n"
    )


def test_status_as_json_is_a_line_per_task(answering: Env, answered: str, failed: str) -> None:
    first, second = json_lines(visionq(answering, "status", answered, failed, "--json"))
    assert (first["id"], first["state"]) == (answered, "SUCCESS")
    assert (first["generated_tokens"], first["max_new_tokens"]) == (3, 3)
    assert first["result_key"] == f"results/{answered}.json"
    assert (second["id"], second["state"]) == (failed, "FAILURE")
    assert second["failure"] == {
        "code": "not_an_image",
        "message": "an input is no image of these kinds: JPEG, PDF, PNG, WEBP",
        "retryable": False,
    }


def test_wait_prints_the_final_status(answering: Env, answered: str) -> None:
    result = visionq(answering, "wait", answered)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{answered} describe SUCCESS  ")
    assert json_of(visionq(answering, "wait", answered, "--json"))["state"] == "SUCCESS"


def test_cancel_revokes_a_waiting_task(idle: Env, waiting: str) -> None:
    result = visionq(idle, "cancel", waiting)
    assert (result.exit_code, result.stdout) == (0, "REVOKED\n")
    assert visionq(idle, "status", waiting).stdout == f"{waiting} describe REVOKED \n"


def test_cancel_as_json_says_the_state(idle: Env, waiting: str) -> None:
    said = json_of(visionq(idle, "cancel", waiting, "--json"))
    assert said == {"id": waiting, "state": "REVOKED"}


def test_cancel_of_an_answered_task_says_that_it_is_answered(answering: Env, answered: str) -> None:
    result = visionq(answering, "cancel", answered)
    assert (result.exit_code, result.stdout) == (0, "SUCCESS\n")


def test_ls_lists_the_newest_task_first(idle: Env) -> None:
    ids = [visionq(idle, "submit", "ocr", f"inputs/{n}").stdout.strip() for n in range(3)]
    listed = visionq(idle, "ls").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ids[::-1]
    assert listed[0] == f"{ids[2]} ocr      PENDING  2 before it in the queue {NO_WORKER}"
    assert [one["id"] for one in json_lines(visionq(idle, "ls", "--json"))] == ids[::-1]
    assert len(visionq(idle, "ls", "--limit", "2").stdout.splitlines()) == 2


def test_ls_of_nothing_says_none_and_is_empty_as_json(idle: Env) -> None:
    result = visionq(idle, "ls")
    assert (result.exit_code, result.stdout) == (0, "none\n")
    assert visionq(idle, "ls", "--json").stdout == ""


def _stored(
    store: ObjectStore, raw: redis.Redis, names: Names, kind: str, **outcome: object
) -> str:
    """The id of a task that has this answer."""
    task_id = str(uuid.uuid4())
    answer = Result(task_id=task_id, kind=kind, state=State.SUCCESS, finished_at=1.0)
    store.put(result_key(task_id), dump_result(replace(answer, **outcome)))  # type: ignore[arg-type]
    task = json.dumps({"kind": kind, "images": [{"ref": "inputs/a"}]})
    raw.hset(names.record(task_id), mapping={"state": "SUCCESS", "task": task, "at": "1"})
    raw.expire(names.record(task_id), 60)
    return task_id


BOXES = [{"label": "cat", "box": [12, 40, 300, 410]}, {"label": "a dog", "box": [0, 1, 2, 3]}]
PARTS = '[{"label": "cat", "box": [20, 50, 470, 512]}]'


@pytest.mark.parametrize(
    ("outcome", "printed"),
    [
        (
            {"text": PARTS, "value": BOXES},
            "left top right bottom, in pixels\n12 40 300 410 cat\n0 1 2 3 a dog\n",
        ),
        (
            {"value": [{"label": "x", "box": [0, 0, 9, 9], "score": 0.875}]},
            "left top right bottom, in pixels\n0 0 9 9 x (0.88)\n",
        ),
        (
            {"text": PARTS, "value": BOXES[1:], "provenance": Provenance(input_pages=(3,))},
            "left top right bottom, in points of the page\n0 1 2 3 a dog\n",
        ),
        # Of two images, the first one's size is what edges are measured by.
        (
            {"value": BOXES[1:], "provenance": Provenance(input_pages=(None, 1))},
            "left top right bottom, in pixels\n0 1 2 3 a dog\n",
        ),
        ({"text": "[]", "value": []}, "left top right bottom, in pixels\nnone\n"),
        ({"text": "I see a cat.", "value": None}, "I see a cat.\n"),
        # What a schema has asked for has the unit that the schema says.
        (
            {"text": PARTS, "value": BOXES, "provenance": Provenance(schema_digest="d")},
            f"{PARTS}\n",
        ),
        ({"value": [[1], {"label": "x"}]}, '[[1], {"label": "x"}]\n'),
        ({}, "null\n"),
        ({"value": {"a": 1}}, '{"a": 1}\n'),
    ],
)
def test_boxes_are_printed_in_the_unit_of_the_value(
    idle: Env,
    store: ObjectStore,
    raw: redis.Redis,
    names: Names,
    outcome: dict[str, object],
    printed: str,
) -> None:
    task_id = _stored(store, raw, names, "detect", **outcome)
    result = visionq(idle, "result", task_id)
    assert (result.exit_code, result.stdout) == (0, printed)
