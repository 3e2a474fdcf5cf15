"""What the commands say to wrong usage: which options there are, and what was probably meant."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import redis

from tests.cli.commands import json_of, visionq, visionq_worker
from visionq.names import Names

Env = dict[str, str]


@pytest.fixture
def cover(pictures: Path) -> Path:
    return pictures / "book_cover.jpg"


def test_both_commands_tell_their_version() -> None:
    assert visionq({}, "--version").stdout == f"visionq, version {version('visionq')}\n"
    assert version("visionq-worker") in visionq_worker({}, "--version").stdout


@pytest.mark.parametrize(
    ("arguments", "known"),
    [
        (["--colour", "ls"], ["--settings", "--state", "--version"]),
        (["submit", "ocr", "a.png", "--lable=a=b"], ["-q/--question", "--label", "--no-reuse"]),
        (["submit", "ocr", "a.png", "--version"], ["--settings", "--state"]),
        (["submit", "ocr", "a.png", "-x"], ["--label"]),
        (["estimate", "ocr", "a.png", "--temperature=1"], ["--max-new-tokens", "--lane"]),
        (["status", "id", "--timeout=3"], ["--json"]),
        (["wait", "id", "--tiemout=3"], ["--timeout", "--json"]),
        (["up", "--worker=3"], ["--model", "--workers"]),
        (["dead", "ls", "--all"], ["--limit", "--reason", "--json"]),
        (["dead", "--json", "ls"], ["--help"]),
    ],
)
def test_a_wrong_option_lists_the_known_ones(arguments: list[str], known: list[str]) -> None:
    result = visionq({}, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "No such option -" in result.stderr
    assert [one for one in known if one not in result.stderr] == []


@pytest.mark.parametrize("command", ["run", "check", "render", "probe"])
def test_a_wrong_option_of_the_worker_lists_the_known_ones(command: str) -> None:
    result = visionq_worker({}, command, "--modle=pocket")
    assert result.exit_code == 2
    assert "No such option --modle; there are " in result.stderr
    assert "--settings, --state" in result.stderr
    assert ("--model" in result.stderr) == (command != "probe")


@pytest.mark.parametrize(("arguments", "known"), [(["sing"], "submit, "), (["dead", "x"], "ls, ")])
def test_a_wrong_command_lists_the_known_ones(arguments: list[str], known: str) -> None:
    result = visionq({}, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "No such command '" in result.stderr
    assert known in result.stderr


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (
            ["submit", "ocr", "COVER", "Title and author?"],
            ["submit", "ocr", "COVER", "-q", "Title and author?"],
        ),
        (
            ["submit", "ocr", "COVER", "Title", "and", "author?", "--wait"],
            ["submit", "ocr", "COVER", "-q", "Title and author?", "--wait"],
        ),
        (["submit", "ask", "COVER", "Who's it?"], ["submit", "ask", "COVER", "-q", "Who's it?"]),
        (["submit", "detect", "COVER", "cats"], ["submit", "detect", "COVER", "-q", "cats"]),
        (
            ["submit", "--wait", "compare", "inputs/a", "s3://b/c", "What differs"],
            ["submit", "--wait", "compare", "inputs/a", "s3://b/c", "-q", "What differs"],
        ),
        (
            ["submit", "--", "ocr", "COVER", "Is it v1.25?"],
            ["submit", "-q", "Is it v1.25?", "--", "ocr", "COVER"],
        ),
        (["estimate", "ocr", "COVER", "Title?"], ["estimate", "ocr", "COVER", "-q", "Title?"]),
    ],
)
def test_a_question_among_the_images_is_refused_with_the_command_that_was_meant(
    idle: Env, cover: Path, given: list[str], meant: list[str]
) -> None:
    """The command works as it is printed."""
    given, meant = (
        [str(cover) if one == "COVER" else one for one in line] for line in (given, meant)
    )
    refused = visionq(idle, *given)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert len(refused.stderr.splitlines()) == 1
    printed = refused.stderr.strip().split("if it is the question: ")[1]
    assert shlex.split(printed) == ["visionq", *meant]
    if "--wait" not in meant:
        assert visionq(idle, *meant).exit_code == 0


def test_a_question_among_the_images_of_render_is_refused_alike(cover: Path) -> None:
    refused = visionq_worker({"VISIONQ_MODEL__SOURCE": "tiny"}, "render", "ocr", cover, "Title?")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr.endswith(f": visionq-worker render ocr {cover} -q 'Title?'\n")


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (["COVER", "COVER"], "kind 'ocr' takes 1 image(s), got 2"),
        (["COVER", "misspelt cover.jpg"], "kind 'ocr' takes 1 image(s), got 2"),
        (["Title?"], "cannot read Title?: "),
    ],
)
def test_what_may_be_an_image_is_not_taken_for_a_question(
    idle: Env, cover: Path, images: list[str], said: str
) -> None:
    refused = visionq(
        idle, "submit", "ocr", *[str(cover) if one == "COVER" else one for one in images]
    )
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"visionq: {said}")


def test_start_labels_and_reuse_reach_the_task(idle: Env, raw: redis.Redis, names: Names) -> None:
    options = ("--start-in-seconds=50", "--label=job=7", "--label", "note=a=b", "--no-reuse")
    submitted = visionq(idle, "submit", "ocr", "inputs/a", *options, "--json")
    assert submitted.exit_code == 0, submitted.stderr
    record = raw.hgetall(names.record(json_of(submitted)["id"]))
    task = json.loads(record["task"])
    assert task["labels"] == {"job": "7", "note": "a=b"}
    assert task["options"] == {"reuse": False}
    assert float(record["due"]) - float(record["at"]) == pytest.approx(50, abs=1)
    assert raw.llen(names.queue("interactive")) == 0


@pytest.mark.parametrize("labels", [["job"], ["job=1", "job=2"]])
def test_a_label_needs_a_name_of_its_own_and_a_value(idle: Env, labels: list[str]) -> None:
    options = [f"--label={label}" for label in labels]
    refused = visionq(idle, "submit", "ocr", "inputs/a", *options)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "is not NAME=VALUE with a name of its own" in refused.stderr


WITHOUT_HOME = """
import os, sys
os.environ.pop("HOME"), os.environ.pop("XDG_STATE_HOME", None)
os.setresuid(54_321, 0, 0)  # a number without a name, as in many containers
from {module} import main
main({arguments!r})
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
@pytest.mark.parametrize(
    ("module", "arguments", "code"),
    [
        ("visionq_worker.cli", ["probe", "live"], 2),
        ("visionq_worker.cli", ["check", "--quick"], 1),
        ("visionq.cli", ["ls"], 5),
        ("visionq.cli", ["up"], 2),
    ],
)
def test_a_user_without_a_home_needs_no_state_folder(
    module: str, arguments: list[str], code: int, closed_port: int
) -> None:
    set_elsewhere = {"VISIONQ_BROKER__URL": f"redis://127.0.0.1:{closed_port}/0"}
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_HOME.format(module=module, arguments=arguments)],
        capture_output=True,
        text=True,
        env=os.environ | (set_elsewhere if arguments != ["up"] else {}),
        timeout=60,
    )
    assert run.returncode == code, run.stderr
    assert "Traceback" not in run.stderr
    assert ("name one by --state" in run.stderr) == (arguments == ["up"])


def test_settings_and_state_are_taken_before_and_behind_the_command(tmp_path: Path) -> None:
    file = tmp_path / "our.toml"
    file.write_text('[kinds.cars]\nprompt = "Count the cars."\n')
    assert "\ncars " in visionq({}, "--settings", file, "kinds").stdout
    assert "\ncars " in visionq({}, "kinds", "--settings", file).stdout
    other = ("--settings", tmp_path / "nowhere.toml")
    assert "\ncars " in visionq({}, *other, "kinds", "--settings", file).stdout
    state = tmp_path / "nothing runs here"
    for line in (["ls"], ["dead", "ls"], ["status", "x"]):
        before, behind = visionq({}, "--state", state, *line), visionq({}, *line, "--state", state)
        assert before.exit_code == behind.exit_code == 5
        assert before.stderr == behind.stderr
        assert str(state) in behind.stderr
    for of_worker in (["check"], ["render", "ocr", "640x480"], ["probe", "live"], ["run"]):
        before = visionq_worker({}, "--state", state, *of_worker)
        behind = visionq_worker({}, *of_worker, "--state", state)
        assert before.exit_code == behind.exit_code == 2
        assert before.stderr == behind.stderr
        assert str(state) in behind.stderr
