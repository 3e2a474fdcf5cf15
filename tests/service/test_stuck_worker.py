"""A worker that is left on the old primary by a failover ends itself, and the next one works.

With two real Valkeys, and `--supervise`'s supervisor around a real worker.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from tests.conftest import REPOSITORY
from tests.faults.proxy import Proxy
from tests.support.addresses import store_address
from tests.support.pairs import running_pair
from tests.support.waiting import wait_until
from tests.support.workers import READY_SECONDS, environment
from visionq import Client, State
from visionq.local import LocalServers
from visionq_worker.health import problem

SUPERVISOR = """
import logging, sys
from visionq_worker.supervisor import Supervisor
logging.basicConfig(level="INFO")
command = [sys.executable, "-m", "tests.service.stuck_worker"]
sys.exit(Supervisor(command, first_pause_seconds=0.1).run())
"""

STUCK_SECONDS = 60.0
"""At most, on a busy machine: it is about ten."""


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServers]:
    """A Redis that may forbid something."""
    with LocalServers(tmp_path_factory.mktemp("forbidding")) as servers:
        yield servers


@contextmanager
def supervised(env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR],
            cwd=REPOSITORY,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("all of its connections", "Redis has taken no write of this worker's for "),
        (
            "the channel alone",  # while Celery connects again and again, its loop stands still
            "Redis has answered no claim for messages for |the event loop has not turned for ",
        ),
    ],
)
def test_worker_left_on_the_old_primary_is_started_again(
    tmp_path: Path, pictures: Path, what: str, reason: str
) -> None:
    log, file = tmp_path / "log", tmp_path / "health.json"

    def has_said(text: str) -> bool:
        return text in log.read_text()

    with (
        running_pair(tmp_path) as pair,
        Proxy(pair.ports[0]) as stays,
        Proxy(pair.ports[0]) as moves,
    ):
        own = stays if what == "all of its connections" else moves
        urls = replace(pair.urls, broker_url=pair.url(own.port))
        env = environment(
            urls,
            "stuck",
            VISIONQ_WORKER__HEALTH_FILE=str(file),
            VISIONQ_BROKER__TIMEOUT_SECONDS="0.5",
            CHANNEL_URL=pair.url(stays.port),
            FRESH_URL=pair.url(moves.port),
        )
        with (
            supervised(env, log),
            Client(pair.url(moves.port), store_address(urls), namespace="stuck") as client,
        ):
            wait_until(
                lambda: file.exists() and problem(file, must_be_ready=True) is None,
                seconds=READY_SECONDS,
            )
            pair.change_places()
            moves.point_to(pair.ports[1])
            moves.reset()
            task = client.ask(pictures / "shelf_after.png", "What?", max_new_tokens=2)
            wait_until(
                lambda: has_said("the worker ends with code 75, for its supervisor"),
                seconds=STUCK_SECONDS,
                what="the worker to see that it is stuck",
            )
            assert re.search(reason, log.read_text())
            stays.point_to(pair.ports[1])
            stays.reset()
            wait_until(
                lambda: has_said("the worker has ended with code 75 and is started again"),
                seconds=STUCK_SECONDS,
            )
            assert task.wait(READY_SECONDS).state is State.SUCCESS
            wait_until(lambda: problem(file, must_be_ready=True) is None)


def test_worker_whose_claims_are_forbidden_is_not_ready_and_not_started_again(
    own_servers: LocalServers, tmp_path: Path
) -> None:
    """A new process would be refused, too."""
    urls, log, file = own_servers.urls, tmp_path / "log", tmp_path / "health.json"
    env = environment(
        urls,
        "forbidden",
        VISIONQ_WORKER__HEALTH_FILE=str(file),
        VISIONQ_BROKER__TIMEOUT_SECONDS="0.5",
        CHANNEL_URL=urls.broker_url,
        FRESH_URL=urls.broker_url,
    )

    def ready() -> str | None:
        return problem(file, must_be_ready=True)

    def seconds_refused() -> int:
        said = re.match(r"Redis has refused all claims for messages for (\d+) s", ready() or "")
        return int(said[1]) if said else 0

    with supervised(env, log), redis.Redis.from_url(urls.broker_url) as raw:
        wait_until(lambda: file.exists() and ready() is None, seconds=READY_SECONDS)
        raw.execute_command("ACL", "SETUSER", "default", "-evalsha")
        try:
            # Long enough for a worker that is stuck to be ended.
            wait_until(lambda: seconds_refused() >= 12, seconds=STUCK_SECONDS)
            assert problem(file, must_be_ready=False) is None
        finally:
            raw.execute_command("ACL", "SETUSER", "default", "+evalsha")
        wait_until(lambda: ready() is None, seconds=STUCK_SECONDS)
    assert "is started again" not in log.read_text()
    assert log.read_text().count("claiming messages fails: ") == 1
