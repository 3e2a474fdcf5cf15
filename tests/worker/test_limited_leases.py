"""What a Redis user may not do without need keeps no task of a lost worker from coming back.

Common access rules of Redis (`-@dangerous`) forbid INFO; some also SCRIPT, CLIENT and PING.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, cast

import pytest
import redis
from redis.exceptions import NoScriptError

from tests.support.redis_users import EVERYTHING, redis_user
from tests.support.waiting import wait_until
from tests.worker.test_leases import message
from visionq import Lane
from visionq.connections import connect
from visionq.local import LocalServers, LocalUrls
from visionq.names import Names
from visionq_worker.leases import Leases, Swept

LEASE_SECONDS = 1.0
Open = Callable[..., Leases]


@pytest.fixture
def open_leases(urls: LocalUrls, names: Names) -> Iterator[Open]:
    """Leases over a connection of a user of Redis with these rules."""
    with ExitStack() as stack:

        def make(*rules: str) -> Leases:
            user = stack.enter_context(redis_user(urls, *rules))
            return stack.enter_context(opened(user.urls, names))

        yield make


@contextmanager
def opened(urls: LocalUrls, names: Names) -> Iterator[Leases]:
    client = connect(urls.broker_url, timeout_seconds=2)
    yield Leases(
        client,
        names,
        owner="host:1",
        lease_seconds=LEASE_SECONDS,
        max_attempts=3,
        record_ttl_seconds=600,
    )
    client.close()


def claim(leases: Leases, names: Names) -> str | None:
    """What the transport does, without kombu."""
    queues, send = [names.queue(Lane.INTERACTIVE)], cast("Any", leases._redis).execute_command
    try:
        reply = send(*leases.claim_command(queues))
    except NoScriptError:
        leases.load_claim()
        reply = send(*leases.claim_command(queues))
    if not reply:
        return None
    leases.took(reply[2])
    return str(reply[2])


@pytest.mark.parametrize(
    "rules",
    [("-@dangerous",), ("-info",), ("-@dangerous", "-ping", "-client", "-script")],
    ids=["no dangerous ones", "no INFO", "no PING, CLIENT and SCRIPT either"],
)
def test_task_of_a_lost_worker_comes_back_without_info(
    open_leases: Open,
    raw: redis.Redis,
    names: Names,
    rules: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    lost, sweeper = open_leases(*EVERYTHING, *rules), open_leases(*EVERYTHING, *rules)
    raw.lpush(names.queue(Lane.INTERACTIVE), message())
    assert claim(lost, names) is not None
    began = monotonic()
    assert sweeper.sweep() == Swept(0, ()), "its owner may be coming back after an outage"
    wait_until(lambda: sweeper.sweep() == Swept(1, ()), seconds=10)
    assert monotonic() - began >= LEASE_SECONDS
    told = [one for one in caplog.records if "INFO does not say" in one.getMessage()]
    assert [one.levelno for one in told] == [logging.WARNING], "once"
    raw.delete(names.queue(Lane.INTERACTIVE))


def test_redis_that_answers_info_in_part_is_taken_for_one_that_has_just_started(
    open_leases: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = open_leases(*EVERYTHING)
    monkeypatch.setattr(leases._redis, "info", lambda _section: {"redis_version": "7.2.4"})
    assert leases._uptime() == 0.0


def test_redis_that_is_away_is_no_reason_to_sweep_without_info(
    tmp_path: Path, names: Names
) -> None:
    with LocalServers(tmp_path) as servers, opened(servers.urls, names) as leases:
        servers.kill("valkey")
        with pytest.raises(redis.exceptions.ConnectionError):
            leases.sweep()
        assert leases._sweeps_from is None
        servers.restart("valkey")


@pytest.mark.parametrize("number", range(2))
def test_scripts_are_run_without_leave_to_load_them(
    open_leases: Open, raw: redis.Redis, names: Names, number: int
) -> None:
    """The second time Redis knows them; a Redis that was restarted does not."""
    if number == 0:
        raw.script_flush()
    leases = open_leases(*EVERYTHING, "-script")
    raw.lpush(names.queue(Lane.INTERACTIVE), message())
    taken = claim(leases, names)
    assert taken is not None
    assert leases.renew() == []
    leases.ack(taken)
    assert leases.held == []
