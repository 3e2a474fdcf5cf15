"""An outage in the log: its begin, a line now and then, its end. With a Redis that is stopped."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest
import redis

from tests.support.killing import kill_valkey, paused
from tests.support.waiting import wait_until
from visionq.connections import connect
from visionq.local import LocalServers
from visionq.names import Names
from visionq_worker.health import Pulse
from visionq_worker.keeper import Keeper
from visionq_worker.leases import Leases
from visionq_worker.outage_log import OutageLog
from visionq_worker.write_check import check_write

log = logging.getLogger("visionq_worker.a_test")
NAMES = Names("outages")


@pytest.fixture
def client(breakable: LocalServers) -> Iterator[redis.Redis]:
    opened = connect(breakable.urls.broker_url, timeout_seconds=0.1)
    yield opened
    opened.close()


def outage(*, repeat_seconds: float = 60.0, quiet_seconds: float = 0.0) -> OutageLog:
    return OutageLog(
        log,
        "writing",
        "it is tried again; act if this lasts",
        repeat_seconds=repeat_seconds,
        quiet_seconds=quiet_seconds,
    )


def write(client: redis.Redis, outage: OutageLog, task_id: str | None = None) -> bool:
    try:
        check_write(client, NAMES, "host:1")
    except (redis.RedisError, OSError) as error:
        outage.failed(error, task_id=task_id)
        return False
    outage.worked()
    return True


def test_outage_is_its_begin_and_its_end(
    breakable: LocalServers, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    told = outage()
    assert write(client, told)
    kill_valkey(breakable)
    for _ in range(20):
        assert not write(client, told)
    breakable.restart("valkey")
    for _ in range(20):
        assert write(client, told)
    begin, end = caplog.messages
    assert re.fullmatch(
        r"writing fails: Error 111 connecting to .*; it is tried again; act if this lasts", begin
    )
    assert re.fullmatch(r"writing works again, after \d+\.\d s; nothing to do", end)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_outage_that_lasts_is_told_now_and_then_with_its_seconds(
    breakable: LocalServers, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    told = outage(repeat_seconds=0.5)
    num_tries = 0

    def has_been_told_thrice() -> bool:
        nonlocal num_tries
        num_tries += 1
        write(client, told, task_id="7c9e6679")
        return len(caplog.messages) == 3

    with paused(breakable.pid("valkey")):
        wait_until(has_been_told_thrice)
    assert num_tries > 3
    begin, *later = caplog.messages
    assert begin.startswith("writing fails (task 7c9e6679): ")
    for number, text in enumerate(later, start=1):
        seconds = re.match(r"writing has failed for (\d) s \(task 7c9e6679\): ", text)
        assert seconds is not None
        assert int(seconds[1]) >= number // 2


def test_what_fails_now_and_then_is_one_outage(
    breakable: LocalServers, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    told = outage(quiet_seconds=0.3)
    with redis.Redis.from_url(breakable.urls.broker_url) as raw:
        for _ in range(5):
            raw.config_set("maxmemory", 1)
            assert not write(client, told)
            raw.config_set("maxmemory", 0)
            assert write(client, told)
    assert len(caplog.messages) == 1
    wait_until(lambda: write(client, told) and len(caplog.messages) == 2)


def test_heartbeat_tells_an_outage_once(
    breakable: LocalServers, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    leases = Leases(
        client,
        NAMES,
        owner="host:1",
        lease_seconds=0.6,
        max_attempts=3,
        record_ttl_seconds=60,
    )
    pulse, num_tries = Pulse(), 0

    def write_check() -> None:
        nonlocal num_tries
        num_tries += 1
        check_write(client, NAMES, "host:1")

    keeper = Keeper(leases, pulse, lambda: True, write_check)
    keeper.start()
    try:
        wait_until(lambda: pulse.write_at)
        kill_valkey(breakable)
        # The write is due every five seconds, and at each turn while it fails.
        wait_until(lambda: num_tries > 12, seconds=30)
        breakable.restart("valkey")
        wait_until(lambda: len(caplog.messages) > 1, seconds=30)
    finally:
        keeper.stop()
    begin, end = caplog.messages
    assert begin.startswith("the heartbeat fails: ")
    assert "act if Redis does not come back by itself" in begin
    assert end.startswith("the heartbeat works again, after ")
