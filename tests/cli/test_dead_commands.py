"""`visionq dead ls`, `show`, `replay` and `purge`."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import redis

from tests.cli.commands import json_lines, json_of, visionq
from tests.support.waiting import wait_until
from visionq import Client
from visionq.names import Names
from visionq_worker.leases import Leases

Env = dict[str, str]

GARBAGE = b"\x1b[31m \xff nonsense"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
LOST = "1 workers were lost while they had it"
NO_JSON = "it is not a JSON object"


@pytest.fixture
def leases(raw: redis.Redis, names: Names) -> Leases:
    """A worker's, of which one may be lost with a task."""
    opened = Leases(
        raw, names, owner="hand", lease_seconds=0.01, max_attempts=1, record_ttl_seconds=600
    )
    opened.load_claim()
    return opened


def claim(leases: Leases, raw: redis.Redis, names: Names) -> Any:
    command = leases.claim_command([names.queue("interactive")])
    return raw.execute_command(*command)  # type: ignore[no-untyped-call]


@pytest.fixture
def lost(idle: Env, leases: Leases, raw: redis.Redis, names: Names) -> str:
    """The id of a task that was put aside."""
    task_id = visionq(idle, "submit", "ocr", "inputs/0").stdout.strip()
    assert claim(leases, raw, names)
    assert wait_until(lambda: leases.sweep().put_aside) == (task_id,)
    return task_id


@pytest.fixture
def garbage(leases: Leases, raw: redis.Redis, names: Names) -> str:
    """The id of a message that nobody could read."""
    raw.lpush(names.queue("interactive"), GARBAGE)
    assert not claim(leases, raw, names)
    return str(raw.zrange(names.dead_index(), -1, -1)[0])


def listed(env: Env) -> list[str]:
    return [letter["id"] for letter in json_lines(visionq(env, "dead", "ls", "--json"))]


def test_ls_lists_the_newest_first_with_queue_time_and_reason(
    idle: Env, names: Names, lost: str, garbage: str
) -> None:
    result = visionq(idle, "dead", "ls")
    assert (result.exit_code, result.stderr) == (0, "")
    first, second = result.stdout.splitlines()
    queue = names.queue("interactive")
    assert re.fullmatch(rf"{garbage:<36} {queue} {TIME} {NO_JSON}", first)
    assert re.fullmatch(rf"{lost} {queue} {TIME} {LOST}", second)


def test_ls_is_limited_and_filtered(idle: Env, lost: str, garbage: str) -> None:
    assert visionq(idle, "dead", "ls", "--limit=1").stdout.startswith(garbage)
    (line,) = visionq(idle, "dead", "ls", "--reason", "workers were lost").stdout.splitlines()
    assert line.startswith(lost)
    assert visionq(idle, "dead", "ls", "--reason", "bad luck").stdout == "none\n"
    assert visionq(idle, "dead", "ls", "--reason", "bad luck", "--json").stdout == ""


def test_ls_as_json_is_a_line_per_letter(idle: Env, names: Names, lost: str) -> None:
    (letter,) = json_lines(visionq(idle, "dead", "ls", "--json"))
    assert letter.pop("at") > 1.7e9
    assert letter.pop("size") > 100
    assert letter == {
        "id": lost,
        "task_id": lost,
        "reason": LOST,
        "queue": names.queue("interactive"),
    }


def test_show_prints_a_message_without_what_a_terminal_would_obey(idle: Env, garbage: str) -> None:
    result = visionq(idle, "dead", "show", garbage)
    assert result.exit_code == 0
    _, size, text = result.stdout.splitlines()
    assert size == "16 bytes; the task is UNKNOWN"
    assert text == "\N{REPLACEMENT CHARACTER}[31m \N{REPLACEMENT CHARACTER} nonsense"


def test_show_as_json_has_the_message_and_the_task(idle: Env, lost: str) -> None:
    said = json_of(visionq(idle, "dead", "show", lost, "--json"))
    assert (said["id"], said["state"], said["task"]["kind"]) == (lost, "PENDING", "ocr")
    assert json.loads(said["text"])["headers"]["id"] == lost


def test_replay_puts_the_named_letter_back(
    idle: Env, raw: redis.Redis, names: Names, lost: str, garbage: str
) -> None:
    result = visionq(idle, "dead", "replay", lost)
    assert (result.exit_code, result.stdout) == (0, f"{lost} replayed: back in its queue\n")
    assert visionq(idle, "status", lost).stdout.startswith(f"{lost} ocr      PENDING  ")
    assert raw.llen(names.queue("interactive")) == 1
    assert listed(idle) == [garbage]


def test_replay_as_json_says_outcome_and_state(idle: Env, lost: str) -> None:
    said = json_of(visionq(idle, "dead", "replay", lost, "--json"))
    assert said == {
        "id": lost,
        "outcome": "replayed",
        "state": "PENDING",
        "message": "back in its queue",
    }


def test_replay_by_reason_leaves_the_others_and_replay_of_all_none(
    idle: Env, lost: str, garbage: str
) -> None:
    by_reason = visionq(idle, "dead", "replay", "--reason", "JSON")
    assert by_reason.stdout == f"{garbage} replayed: back in its queue\n"
    assert listed(idle) == [lost]
    assert visionq(idle, "dead", "replay", "--all").stdout.startswith(f"{lost} replayed")
    nothing_left = visionq(idle, "dead", "replay", "--all")
    assert (nothing_left.exit_code, nothing_left.stdout) == (0, "none\n")


def test_replay_of_a_cancelled_task_is_refused_and_exits_1(idle: Env, lost: str) -> None:
    assert visionq(idle, "cancel", lost).stdout == "REVOKED\n"
    result = visionq(idle, "dead", "replay", lost)
    assert result.exit_code == 1
    assert result.stdout == f"{lost} final: the task has ended as REVOKED, which stays\n"
    assert visionq(idle, "status", lost).stdout == f"{lost} ocr      REVOKED \n"
    assert listed(idle) == [lost]


def test_purge_throws_away_the_named_letter_only(idle: Env, lost: str, garbage: str) -> None:
    result = visionq(idle, "dead", "purge", lost)
    assert (result.exit_code, result.stdout) == (0, f"{lost} purged\n")
    assert listed(idle) == [garbage]
    said = json_of(visionq(idle, "dead", "purge", garbage, "--json"))
    assert said == {"id": garbage, "outcome": "purged"}
    assert listed(idle) == []


def test_purge_by_age_and_reason(
    idle: Env, raw: redis.Redis, names: Names, lost: str, garbage: str
) -> None:
    raw.zincrby(names.dead_index(), -2 * 24 * 3600, lost)
    assert visionq(idle, "dead", "purge", "--older-than=3", "--yes").stdout == "none\n"
    both = ("--older-than=1", "--reason=JSON")
    assert visionq(idle, "dead", "purge", *both, "--yes").stdout == "none\n"
    assert visionq(idle, "dead", "purge", "--older-than=1", "--yes").stdout == f"{lost} purged\n"
    assert visionq(idle, "dead", "purge", "--all", "--yes").stdout == f"{garbage} purged\n"


@pytest.mark.parametrize("which", ["--all", "--reason=JSON", "--older-than=0"])
def test_purge_of_what_is_not_named_needs_a_yes(idle: Env, garbage: str, which: str) -> None:
    result = visionq(idle, "dead", "purge", which)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--yes" in result.stderr
    assert listed(idle) == [garbage]


@pytest.mark.parametrize(
    "which", [[], ["--reason="], ["m1", "--all"], ["m1", "--reason=x"], ["--all", "--reason=x"]]
)
@pytest.mark.parametrize("command", ["replay", "purge"])
def test_letters_are_chosen_in_one_way_only(
    idle: Env, garbage: str, command: str, which: list[str]
) -> None:
    result = visionq(idle, "dead", command, *which)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Usage: visionq dead {command} ")
    assert listed(idle) == [garbage]


def test_id_of_no_letter_exits_4(idle: Env, garbage: str) -> None:
    shown = visionq(idle, "dead", "show", "m1")
    assert (shown.exit_code, shown.stderr) == (4, "visionq: no dead letter m1\n")
    replayed = visionq(idle, "dead", "replay", "m1", garbage)
    assert replayed.exit_code == 4
    assert replayed.stdout.splitlines() == [
        "m1 unknown: there is no such dead letter",
        f"{garbage} replayed: back in its queue",
    ]
    purged = visionq(idle, "dead", "purge", "m1")
    assert (purged.exit_code, purged.stdout) == (4, "m1 unknown\n")


@pytest.mark.parametrize(
    "command", [["ls"], ["show", "m1"], ["replay", "m1"], ["purge", "--all", "--yes"]]
)
def test_redis_that_is_away_exits_5(idle: Env, closed_port: int, command: list[str]) -> None:
    away = idle | {"VISIONQ_BROKER__URL": f"redis://127.0.0.1:{closed_port}/0"}
    result = visionq(away, "dead", *command)
    assert (result.exit_code, result.stdout) == (5, "")
    assert len(result.stderr.splitlines()) == 1


def test_what_a_running_worker_puts_aside_is_seen_replayed_and_purged(
    answering: Env, service: Client, raw: redis.Redis
) -> None:
    """A message that is no JSON comes back from its replay with a new id."""
    mine = f"nonsense {id(raw)}".encode()
    raw.lpush(Names("service").queue("interactive"), mine)

    def letters() -> list[str]:
        found = listed(answering)
        shown = [json_of(visionq(answering, "dead", "show", one, "--json")) for one in found]
        return [letter["id"] for letter in shown if letter["text"].encode() == mine]

    (first,) = wait_until(letters)
    assert visionq(answering, "dead", "replay", first).exit_code == 0
    (second,) = wait_until(letters)
    assert second != first
    assert visionq(answering, "dead", "purge", second).exit_code == 0
    assert letters() == []
