"""What anybody may have written cannot command a terminal, whichever command prints it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.cli.commands import json_lines, visionq, visionq_worker
from tests.support.workers import BIN
from visionq import Failure, Result, State
from visionq.contract import Task, dump_result, read_task
from visionq.names import Names, result_key
from visionq.objects import ObjectStore
from visionq.records import Records
from visionq.terminal import json_text, one_line, printable

Env = dict[str, str]

TITLE = "\x1b]0;owned\x07"
HOSTILE = f"{TITLE}\x1b[2J\x9b31m\x90q\x9c\r\b\x7f\u202egnp.exe\u2066\u2028end"
FORBIDDEN = set("\x1b\x07\x9b\x90\x9c\r\b\x7f\u202e\u2066\u2028\x00")
WORDS = "naïve 日本\u3000語 👩\u200d🔧 שלום\u200f 1\u00a0000 \u0645\u06cc\u200c\u062e\u0648"


def assert_harmless(*texts: str) -> None:
    for text in texts:
        assert not set(text) & FORBIDDEN, ascii(text)


def begun(records: Records, **more: Any) -> tuple[Task, int]:
    """A task that an attempt has in hand: its fence is what ends it."""
    data = {"kind": "ocr", "images": [{"ref": "inputs/a"}], **more}
    task = read_task(data, task_id=str(uuid.uuid4()))
    records.create(task)
    return task, records.start(task, owner="hand", max_new_tokens=9).fence


def answered(records: Records, store: ObjectStore, **outcome: Any) -> str:
    task, fence = begun(records)
    result = Result(
        task_id=task.id,
        kind="ocr",
        state=State.SUCCESS,
        finished_at=1.0,
        labels={HOSTILE: HOSTILE},
        **outcome,
    )
    store.put(result_key(task.id), dump_result(result))
    records.move(task.id, State.SUCCESS, fence=fence)
    return task.id


@pytest.mark.parametrize("text", [WORDS, "two\nlines\tand a tab", "", "a\n"])
def test_text_of_any_language_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_lines_of_windows_stay_lines_and_halves_of_characters_do_not_break_output() -> None:
    assert printable("a\r\nb") == "a\nb"
    printable("\udcff\ud83d").encode()
    assert one_line("a\nvisionq: all is well\tb") == "a visionq: all is well b"


def test_json_means_the_same() -> None:
    text = json_text({HOSTILE: [HOSTILE, WORDS, "\ud83d"]})
    assert_harmless(text)
    text.encode()
    assert WORDS in text
    assert json.loads(text) == {HOSTILE: [HOSTILE, WORDS, "\ud83d"]}


def test_answers(idle: Env, records: Records, store: ObjectStore) -> None:
    task_id = answered(records, store, text=f"{HOSTILE}\n{WORDS}\tand more")
    shown = visionq(idle, "result", task_id)
    assert shown.exit_code == 0
    assert_harmless(shown.stdout, shown.stderr)
    assert shown.stdout.endswith(f"end\n{WORDS}\tand more\n")
    (found,) = json_lines(visionq(idle, "result", task_id, "--json"))
    assert_harmless(visionq(idle, "result", task_id, "--json").stdout)
    assert found["text"] == f"{HOSTILE}\n{WORDS}\tand more"
    assert found["labels"] == {HOSTILE: HOSTILE}


def test_values(idle: Env, records: Records, store: ObjectStore) -> None:
    boxes = [{"label": f"{HOSTILE}\n9 9 9 9 dog", "box": [1, 2, 30, 40]}]
    shown = visionq(idle, "result", answered(records, store, text="[]", value=boxes))
    assert_harmless(shown.stdout)
    assert len(shown.stdout.splitlines()) == 2  # no line passes for another box
    value = visionq(idle, "result", answered(records, store, value={HOSTILE: 1}))
    assert_harmless(value.stdout)


def test_failures(idle: Env, records: Records) -> None:
    task, fence = begun(records)
    failure = Failure(code="model_error", message=f"{HOSTILE}\n{NOBODY} ocr SUCCESS")
    fields = {"code": failure.code, "message": failure.message}
    records.move(task.id, State.FAILURE, fence=fence, **fields)
    for command in ("status", "wait", "result", "ls"):
        shown = visionq(idle, command, *([] if command == "ls" else [task.id]))
        assert_harmless(shown.stdout, shown.stderr)
        assert "owned" in shown.stdout + shown.stderr
        assert len((shown.stdout + shown.stderr).splitlines()) <= 2
        as_json = visionq(idle, command, *([] if command == "ls" else [task.id]), "--json")
        assert_harmless(as_json.stdout, as_json.stderr)


NOBODY = "00000000-0000-4000-8000-000000000000"


def test_kinds_of_records(idle: Env, records: Records, raw: redis.Redis, names: Names) -> None:
    """A foreign sender's record: the text of a field is Redis's, not ours."""
    task, _ = begun(records)
    spoilt = json.dumps({"kind": HOSTILE, "tenant": HOSTILE, "labels": {HOSTILE: HOSTILE}})
    raw.hset(names.record(task.id), "task", spoilt)
    for arguments in (["status", task.id], ["ls"], ["ls", "--json"]):
        shown = visionq(idle, *arguments)
        assert shown.exit_code == 0
        assert_harmless(shown.stdout, shown.stderr)


def test_dead_letters(idle: Env, raw: redis.Redis, names: Names) -> None:
    letter = {"id": HOSTILE, "at": 1.0, "reason": f"{HOSTILE}\nm2 x", "queue": HOSTILE}
    raw.hset(names.dead(), HOSTILE, json.dumps(letter))
    raw.hset(names.dead_messages(), HOSTILE, HOSTILE)
    raw.zadd(names.dead_index(), {HOSTILE: 1.0})
    for key in (names.dead(), names.dead_messages(), names.dead_index()):
        raw.expire(key, 60)
    for arguments in (["ls"], ["show", HOSTILE], ["show", f"{HOSTILE}2"], ["replay", "--all"]):
        for more in ([], ["--json"]):
            shown = visionq(idle, "dead", *arguments, *more)
            assert_harmless(shown.stdout, shown.stderr)
            assert "owned" in shown.stdout + shown.stderr or arguments[0] == "replay"
    purged = visionq(idle, "dead", "purge", HOSTILE)
    assert_harmless(purged.stdout, purged.stderr)


@pytest.mark.parametrize("command", ["submit", "estimate"])
def test_names_of_files_labels_tenants_and_kinds(
    idle: Env, pictures: Path, tmp_path: Path, command: str
) -> None:
    cover = str(pictures / "book_cover.jpg")
    folder = tmp_path / HOSTILE.replace("/", "").replace("\x00", "")
    folder.mkdir()
    for arguments in (
        ["ocr", f"{folder}/nothing.png"],
        ["ocr", str(folder)],
        [HOSTILE, cover],
        ["ocr", cover, f"{HOSTILE}?"],
        ["ocr", cover, f"--lane={HOSTILE}"],
        ["ocr", cover, f"--{HOSTILE}"],
        ["ocr", cover, f"--field={HOSTILE}:{HOSTILE}"],
        ["ocr", cover, f"--tenant={HOSTILE}"],
        ["ocr", cover, f"--label={HOSTILE}"],
        ["ocr", f"s3://{HOSTILE}"],
        ["ocr", "--schema", f"{folder}/nothing.json", cover],
    ):
        for more in ([], ["--json"]):
            shown = visionq(idle, command, *arguments, *more)
            assert shown.exit_code == 2
            assert_harmless(shown.stdout, shown.stderr)


@pytest.mark.parametrize(
    "arguments", [[f"sing{HOSTILE}"], ["dead", HOSTILE], ["status", "--json", HOSTILE],
                  ["wait", HOSTILE, HOSTILE], ["cancel", HOSTILE], ["--settings", HOSTILE, "ls"],
                  ["--state", HOSTILE, "ls"], ["ls", f"--limit={HOSTILE}"]]
)  # fmt: skip
def test_arguments(idle: Env, arguments: list[str]) -> None:
    shown = visionq(idle, *arguments)
    assert shown.exit_code in (2, 4, 5)
    assert_harmless(shown.stdout, shown.stderr)


def test_commands_of_the_worker(idle: Env, pictures: Path, tmp_path: Path) -> None:
    cover = str(pictures / "book_cover.jpg")
    for arguments in (
        ["render", "ocr", cover, "-q", f"{HOSTILE}\n{WORDS}"],
        ["render", "ocr", cover, "-q", f"{HOSTILE}\n{WORDS}", "--json"],
        ["render", HOSTILE, cover],
        ["render", "ocr", f"{HOSTILE}.png"],
        ["render", "ocr", cover, HOSTILE],
        ["render", "ocr", cover, f"--model=./{HOSTILE}"],
        ["check", f"--model=./{HOSTILE}"],
        ["check", f"--model=./{HOSTILE}", "--json"],
        ["check", f"--device={HOSTILE}"],
        ["probe", HOSTILE],
        [HOSTILE],
    ):
        shown = visionq_worker(idle, *arguments)
        assert_harmless(shown.stdout, shown.stderr)
        if arguments[-1].endswith(WORDS):
            assert WORDS in shown.stdout


LOGGING = """
import logging
from visionq.settings import load_settings
from visionq_worker.cli import _set_up_logging

_set_up_logging(load_settings())
logging.getLogger("any").warning("message %s", {hostile!r})
try:
    raise ValueError({hostile!r})
except ValueError:
    logging.getLogger("any").exception("failed")
"""


def test_the_log_of_the_worker() -> None:
    code = LOGGING.format(hostile=HOSTILE)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0
    assert_harmless(run.stderr)
    assert run.stderr.count("owned") == 2


def test_the_real_command_beside_a_real_worker(answering: Env, tmp_path: Path) -> None:
    """From a process of its own: what a terminal would get are these bytes."""
    letter = tmp_path / f"{TITLE.replace('/', '')}.png"
    letter.write_text("Dear Sir or Madam,")
    run = subprocess.run(
        [BIN / "visionq", "submit", "ocr", letter, "--wait", f"--label={HOSTILE}=1"],
        capture_output=True,
        env=answering | {"LANG": "C.UTF-8"},
        timeout=60,
    )
    assert run.returncode in (1, 2)
    assert_harmless(run.stdout.decode(), run.stderr.decode())


def test_messages_that_are_no_text(idle: Env, raw: redis.Redis, names: Names) -> None:
    message = json.dumps({"body": base64.b64encode(HOSTILE.encode()).decode(), "headers": HOSTILE})
    raw.hset(names.dead(), "m1", json.dumps({"id": "m1", "at": 1, "reason": "x", "queue": "q"}))
    raw.hset(names.dead_messages(), "m1", message.encode() + b"\xff\x9b\x1b")
    raw.zadd(names.dead_index(), {"m1": 1.0})
    for key in (names.dead(), names.dead_messages(), names.dead_index()):
        raw.expire(key, 60)
    assert_harmless(visionq(idle, "dead", "show", "m1").stdout)
