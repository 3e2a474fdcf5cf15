"""The documented exit codes of `visionq`, and the one line that comes with each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import json_of, visionq
from visionq import Client

Env = dict[str, str]

NOBODY = "00000000-0000-4000-8000-000000000000"
WAITING = ("wait", "result")


@pytest.fixture
def waiting(idle: Env) -> str:
    """The id of a task that nobody works on."""
    return visionq(idle, "submit", "ocr", "inputs/0").stdout.strip()


@pytest.mark.parametrize(("command", "state"), [("wait", "REVOKED"), ("result", "REVOKED")])
def test_task_without_an_answer_exits_1(idle: Env, waiting: str, command: str, state: str) -> None:
    visionq(idle, "cancel", waiting)
    result = visionq(idle, command, waiting)
    assert result.exit_code == 1
    assert state in result.stdout + result.stderr


def test_failed_task_exits_1_and_says_why(answering: Env, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8 but no picture")
    result = visionq(answering, "submit", "ocr", tmp_path / "cut.jpg", "--wait")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1] == (
        "visionq: an input is no image of these kinds: JPEG, PDF, PNG, WEBP"
    )


def test_expired_task_exits_1(answering: Env) -> None:
    result = visionq(
        answering, "submit", "ocr", "inputs/0", "--expires-in-seconds=0.001", "--wait", "--json"
    )
    assert result.exit_code == 1
    assert json_of(result)["error"] == "TaskExpired"


def test_answer_that_is_gone_from_the_store_exits_1(
    answering: Env, service: Client, pictures: Path
) -> None:
    done = visionq(answering, "submit", "ocr", pictures / "shelf_after.png", "--wait", "--json")
    task_id = json_of(done)["task_id"]
    store = service._submitter.store
    store.delete(f"results/{task_id}.json")
    result = visionq(answering, "result", task_id, "--json")
    assert (result.exit_code, json_of(result)["error"]) == (1, "ResultGone")


def test_key_that_is_in_use_for_something_else_exits_2_and_names_its_task(idle: Env) -> None:
    order = ("submit", "ocr", "inputs/0", "--idempotency-key=order-17")
    task_id = visionq(idle, *order).stdout.strip()
    result = visionq(idle, *order, "--question=Author?", "--json")
    assert result.exit_code == 2
    said = json_of(result)
    assert (said["error"], said["task_id"]) == ("IdempotencyConflict", task_id)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["submit", "guess", "inputs/0"], "visionq: no kind 'guess'; there are analyze, ask, "),
        (["submit", "ocr", "nothing.png"], "visionq: cannot read nothing.png: No such file"),
        (["submit", "ask", "inputs/0"], "visionq: kind 'ask' needs a question"),
        (["submit", "ocr", "inputs/0", "inputs/1"], "visionq: kind 'ocr' takes 1 image(s), got 2"),
        (["submit", "ocr", "inputs/0", "--lane=fast"], "visionq: no lane 'fast'; there are "),
        (["submit", "ocr", "inputs/0", "--top-p=2"], "visionq: top_p must be a number, 0.0 to"),
        (["submit", "ocr"], "Usage: visionq submit "),
        (["result", NOBODY, "--timeout=-1"], "Usage: visionq result "),
        (["wait", NOBODY, "--timeout=nan"], "Usage: visionq wait "),
        (["dead", "purge", "--older-than=nan", "--yes"], "Usage: visionq dead purge "),
        (["dead", "purge", "--older-than=1e9", "--yes"], "visionq: older_than_seconds must be a n"),
        (["sing"], "Usage: visionq "),
        (["--settings", "nowhere.toml", "ls"], "visionq: there is no settings file nowhere.toml"),
    ],
)
def test_wrong_usage_or_task_exits_2_before_anything_is_sent(
    idle: Env, arguments: list[str], line: str
) -> None:
    result = visionq(idle, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(line)
    assert visionq(idle, "ls").stdout == "none\n"


def test_wrong_setting_exits_2_and_names_its_key(idle: Env) -> None:
    result = visionq(idle | {"VISIONQ_BROKER__TIMEOUT_SECONDS": "soon"}, "ls")
    assert result.exit_code == 2
    assert "broker.timeout_seconds: " in result.stderr
    unknown = visionq(idle | {"VISIONQ_BROCKER__URL": "x"}, "ls")
    assert unknown.exit_code == 2
    assert unknown.stderr.startswith("visionq: VISIONQ_BROCKER__URL: no such setting")


@pytest.mark.parametrize("command", ["wait", "result"])
@pytest.mark.parametrize("seconds", ["0", "0.3"])
def test_time_that_is_up_exits_3_and_says_where_the_task_is(
    idle: Env, waiting: str, command: str, seconds: str
) -> None:
    result = visionq(idle, command, waiting, "--timeout", seconds)
    assert result.exit_code == 3
    assert result.stderr.splitlines()[-1] == (
        f"visionq: task {waiting} is PENDING after {seconds} s; no worker is running"
    )


def test_submit_that_waits_in_vain_exits_3(idle: Env) -> None:
    result = visionq(idle, "submit", "ocr", "inputs/0", "--wait", "--timeout=0.3")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "PENDING  next in the queue (no worker is running)\n" in result.stderr
    assert result.stderr.endswith(" is PENDING after 0.3 s; no worker is running\n")


@pytest.mark.parametrize("command", ["status", "wait", "result", "cancel"])
def test_id_of_no_task_exits_4(idle: Env, command: str) -> None:
    assert visionq(idle, command, NOBODY).exit_code == 4
    assert visionq(idle, command, "not-an-id").exit_code == 4


def test_status_of_known_and_unknown_tasks_shows_both_and_exits_4(idle: Env, waiting: str) -> None:
    result = visionq(idle, "status", NOBODY, waiting)
    assert result.exit_code == 4
    assert result.stdout == (
        f"{NOBODY} -        UNKNOWN \n"
        f"{waiting} ocr      PENDING  next in the queue (no worker is running)\n"
    )


def test_full_queue_exits_5(idle: Env, waiting: str) -> None:
    full = idle | {"VISIONQ_BROKER__MAX_WAITING": "1"}
    result = visionq(full, "submit", "ocr", "inputs/1", "--json")
    assert (result.exit_code, json_of(result)["error"]) == (5, "QueueFull")
    assert visionq(idle, "status", waiting).exit_code == 0


@pytest.mark.parametrize("command", ["status", "wait", "result", "cancel"])
def test_redis_that_is_away_exits_5(idle: Env, closed_port: int, command: str) -> None:
    away = idle | {"VISIONQ_BROKER__URL": f"redis://127.0.0.1:{closed_port}/0"}
    result = visionq(away, command, NOBODY, *(["--timeout=1"] if command in WAITING else []))
    assert result.exit_code == 5
    assert len(result.stderr.splitlines()) == 1
    assert "broker.url (VISIONQ_BROKER__URL)" in result.stderr
    assert "`visionq up`" in result.stderr


@pytest.mark.parametrize("command", ["submit", "estimate", "ls", "dead"])
def test_with_nothing_running_and_nothing_set_the_way_out_is_named(
    command: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    """At the port of the default, which is another one here: somebody may listen at 6379."""
    (tmp_path / "settings.toml").write_text(
        f'[broker]\nurl = "redis://:hunter2@127.0.0.1:{closed_port}/0"\n'
    )
    asked: list[object] = ["ocr", pictures / "book_cover.jpg"]
    more: dict[str, list[object]] = {"submit": asked, "estimate": asked, "dead": ["ls"], "ls": []}
    result = visionq({}, command, *more[command])
    assert (result.exit_code, result.stdout) == (5, "")
    assert "set broker.url (VISIONQ_BROKER__URL), or run `visionq up` here" in result.stderr
    assert "hunter2" not in result.stderr


def test_store_that_is_away_exits_5_at_submit(idle: Env, closed_port: int, pictures: Path) -> None:
    away = idle | {"VISIONQ_STORAGE__ENDPOINT_URL": f"http://127.0.0.1:{closed_port}"}
    result = visionq(away, "submit", "ocr", pictures / "shelf_after.png")
    assert result.exit_code == 5
    assert result.stderr.startswith("visionq: object store: ")
    assert "set storage.endpoint_url (VISIONQ_STORAGE__...), or run `visionq up`" in result.stderr
    assert visionq(idle, "ls").stdout == "none\n"


def test_state_folder_that_nothing_runs_in_exits_5_instead_of_looking_elsewhere(
    idle: Env, tmp_path: Path
) -> None:
    result = visionq(idle, "--state", tmp_path, "ls")
    assert result.exit_code == 5
    assert result.stderr == f"visionq: no `visionq up` runs with the folder {tmp_path}\n"


def test_error_as_json_is_on_standard_output(idle: Env) -> None:
    result = visionq(idle, "result", NOBODY, "--json")
    assert (result.exit_code, result.stderr) == (4, "")
    assert json_of(result) == {"error": "TaskUnknown", "message": f"no task {NOBODY}"}
