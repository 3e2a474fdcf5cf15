"""`visionq reconcile`: a dry run, what --apply does, what programs read, how it exits."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.cli.commands import json_lines, visionq
from tests.cli.conftest import only_ours
from tests.support.addresses import store_address
from tests.support.workers import environment
from visionq.contract import Result, State, dump_result
from visionq.local import LocalServers
from visionq.names import result_key
from visionq.objects import ObjectStore

Env = dict[str, str]

GONE = "its result is in the store, and its record is gone from Redis"


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServers]:
    """Whose bucket holds the results of these tests only."""
    with LocalServers(tmp_path_factory.mktemp("own-servers")) as running:
        yield running


@pytest.fixture
def env(own_servers: LocalServers) -> Env:
    return only_ours(environment(own_servers.urls, "own"))


@pytest.fixture
def gone(own_servers: LocalServers) -> Iterator[str]:
    """The id of a task that was answered, and has no record any more."""
    store = ObjectStore(store_address(own_servers.urls))
    task_id = str(uuid.uuid4())
    result = Result(
        task_id=task_id, kind="ocr", state=State.SUCCESS, finished_at=1.5, text="an answer"
    )
    store.put(result_key(task_id), dump_result(result))
    yield task_id
    store.delete(result_key(task_id))
    store.close()
    with redis.Redis.from_url(own_servers.urls.broker_url) as raw:
        raw.flushall()


def test_where_nothing_differs_it_exits_0(env: Env) -> None:
    said = visionq(env, "reconcile")
    assert (said.exit_code, said.stderr) == (0, "")
    assert said.stdout.endswith("no difference\n")


def test_a_dry_run_reports_and_changes_nothing(env: Env, gone: str) -> None:
    for _ in range(2):
        said = visionq(env, "reconcile")
        assert (said.exit_code, said.stderr) == (1, "")
        difference, summary = said.stdout.splitlines()
        assert difference == f"{gone} record_gone UNKNOWN: {GONE}"
        assert summary.startswith("1 results and ")
        assert summary.endswith("1 record_gone; nothing was changed (--apply makes records anew)")


def test_apply_makes_the_record_anew(env: Env, gone: str) -> None:
    said = visionq(env, "reconcile", "--apply")
    assert said.exit_code == 0
    assert said.stdout.startswith(f"{gone} record_gone SUCCESS: {GONE}; the record was made anew\n")
    assert "its record is gone" not in visionq(env, "status", gone).stdout
    assert visionq(env, "reconcile").exit_code == 0
    assert visionq(env, "result", gone).stdout == "an answer\n"


def test_programs_get_one_difference_a_line(env: Env, gone: str) -> None:
    said = visionq(env, "reconcile", "--json")
    assert said.exit_code == 1
    assert json_lines(said) == [
        {
            "id": gone,
            "finding": "record_gone",
            "state": "UNKNOWN",
            "is_repaired": False,
            "message": GONE,
        }
    ]
    assert "1 record_gone" in said.stderr


@pytest.mark.parametrize("name", ["VISIONQ_STORAGE__ENDPOINT_URL", "VISIONQ_BROKER__URL"])
def test_servers_that_are_away_end_it_with_5(env: Env, closed_port: int, name: str) -> None:
    scheme = "http" if "STORAGE" in name else "redis"
    said = visionq(env | {name: f"{scheme}://127.0.0.1:{closed_port}"}, "reconcile")
    assert said.exit_code == 5
    assert said.stderr.startswith("visionq: ")


def test_it_is_listed_among_the_commands(tmp_path: Path) -> None:
    assert "reconcile" in visionq({}, "--help").stdout
