"""A primary that sentinels name: clients find it, whichever sentinel is lost and whoever it is."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from uuid import uuid4

import pytest

from tests.support.guarded import NAME, Guarded, guarded
from tests.support.waiting import wait_until
from visionq.broker import Publisher
from visionq.broker_urls import BrokerAddress
from visionq.connections import connect
from visionq.contract import ImageRef, Lane, State, Task
from visionq.errors import BrokerUnavailable, NotReplicated
from visionq.names import Names
from visionq.primaries import ROLE_SECONDS
from visionq.records import Records
from visionq.replication import Replicas
from visionq.sentinels import SENTINEL_SECONDS, Sentinels
from visionq.settings import load_settings
from visionq.watch import Watch
from visionq_worker.broker_checks import check_broker
from visionq_worker.findings import Level

NAMES = Names("guarded")
BACK_SECONDS = 5.0
"""From the naming of the new primary until a client goes on."""


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(tmp_path_factory.mktemp("guarded")) as running:
        yield running


def new_task() -> Task:
    image = ImageRef(ref="inputs/" + "0" * 64)
    return Task(id=str(uuid4()), kind="describe", images=(image,), lane=Lane.INTERACTIVE)


def new_records(address: BrokerAddress) -> Records:
    return Records(connect(address, timeout_seconds=2), NAMES, ttl_seconds=600)


def places(group: Guarded) -> list[str]:
    return [f"127.0.0.1:{port}" for port in group.sentinels]


def with_hosts(group: Guarded, *hosts: str, name: str = NAME) -> BrokerAddress:
    """The same primary, by other sentinels: an address of its own, of which nothing is known."""
    url = f"sentinel://:{group.password}@{','.join(hosts)}/{name}"
    return replace(group.address, url=url)


def test_a_planned_failover_costs_no_error(group: Guarded) -> None:
    """Sentinels demote the old primary ten seconds later; until then it takes what it is given."""
    records = new_records(group.address)
    publisher = Publisher(group.address, NAMES, timeout_seconds=2)
    records.create(new_task())
    publisher.publish(new_task())
    group.promote()

    def is_with_the_new_one() -> bool:
        task = new_task()
        records.create(task)
        with group.raw() as primary:
            return bool(primary.exists(NAMES.record(task.id)))

    wait_until(is_with_the_new_one, seconds=ROLE_SECONDS + 1)
    publisher.publish(new_task())
    with group.raw() as primary:
        assert primary.llen(NAMES.queue(Lane.INTERACTIVE)) >= 2
    records.close()
    publisher.close()


def test_what_one_connection_hears_of_sentinels_holds_for_all(group: Guarded) -> None:
    """A status that came from the new primary is not followed by one of the old."""
    group.wait_until_ready_to_fail_over()
    first, second = (connect(group.address, timeout_seconds=2) for _ in range(2))
    for one in (first, second):
        one.set("some", "old", ex=60)
    group.promote()
    with group.raw() as primary:
        primary.set("some", "new", ex=60)
    wait_until(lambda: first.get("some") == "new", seconds=ROLE_SECONDS + 1)
    assert second.get("some") == "new"


def test_clients_go_on_soon_after_the_naming_of_a_new_primary(group: Guarded) -> None:
    group.wait_until_ready_to_fail_over()
    records = new_records(group.address)
    task = new_task()
    records.create(task)
    old = group.kill_primary()
    named_at = group.wait_until_named(old)

    def creates() -> bool:
        try:
            records.create(new_task())
        except BrokerUnavailable:
            return False
        return True

    wait_until(creates, seconds=BACK_SECONDS)
    assert monotonic() - named_at < BACK_SECONDS
    group.revive(old)
    records.close()


def test_the_first_sentinel_may_be_lost(group: Guarded) -> None:
    """As Celery does not bear (celery#6348, celery#9901): then the failover comes."""
    first = group.sentinels[0]
    records = new_records(with_hosts(group, *places(group)))
    records.create(new_task())
    group.wait_until_ready_to_fail_over()
    group.kill(first)
    group.promote()
    records.create(new_task())
    fresh = new_records(with_hosts(group, *places(group), "127.0.0.1:1"))
    fresh.create(new_task())
    group.start_server(first)
    records.close()
    fresh.close()


def test_a_sentinel_that_hangs_costs_one_time_out(group: Guarded) -> None:
    address = with_hosts(group, *places(group), "127.0.0.1:2")
    sentinels, process = Sentinels(address), group.processes[group.sentinels[0]]
    place = ("127.0.0.1", group.named())
    os.kill(process.pid, signal.SIGSTOP)
    try:
        began = monotonic()
        assert next(sentinels.candidates()) == place
        assert monotonic() - began >= SENTINEL_SECONDS
        began = monotonic()
        assert next(sentinels.candidates()) == place
        assert monotonic() - began < SENTINEL_SECONDS
    finally:
        os.kill(process.pid, signal.SIGCONT)


def test_the_sentinel_that_answered_is_asked_next(group: Guarded) -> None:
    sentinels = Sentinels(with_hosts(group, "127.0.0.1:1", places(group)[1], "127.0.0.1:2"))
    list(sentinels.candidates())
    assert sentinels._order[0] == ("127.0.0.1", group.sentinels[1])


def test_a_sentinel_that_names_a_replica_is_not_believed(group: Guarded, tmp_path: Path) -> None:
    """It was cut off from the others, say, when they agreed on another primary."""
    group.wait_until_ready_to_fail_over()
    (replica,) = set(group.ports) - {group.named()}
    with group.lone_sentinel(tmp_path, names=replica) as lone:
        address = with_hosts(group, f"127.0.0.1:{lone}", *places(group))
        records = new_records(address)
        records.create(new_task())
        records.close()

        async def status() -> State:
            watch = Watch(address, NAMES, timeout_seconds=2)
            try:
                return (await watch.status(str(uuid4()))).state
            finally:
                await watch.close()

        assert asyncio.run(status()) is State.UNKNOWN


def test_a_waiter_goes_on(group: Guarded) -> None:
    records, task = new_records(group.address), new_task()
    records.create(task)

    async def wait_through_a_failover() -> State:
        watch = Watch(group.address, NAMES, timeout_seconds=2)
        waiting = asyncio.create_task(watch.wait(task.id, 30))
        await asyncio.to_thread(group.promote)
        await asyncio.to_thread(records.cancel, task.id)
        status = await waiting
        await watch.close()
        return status.state

    assert asyncio.run(wait_through_a_failover()) is State.REVOKED
    records.close()


def test_no_sentinel_answers(group: Guarded) -> None:
    records = new_records(with_hosts(group, "127.0.0.1:1", "[::1]:1"))
    with pytest.raises(BrokerUnavailable) as caught:
        records.ping()
    said = str(caught.value)
    assert "no sentinel names the primary orders.primary (127.0.0.1:1: " in said
    assert "start the sentinels, or correct the hosts and the name in broker.url" in said
    assert group.password not in said


def test_no_sentinel_knows_the_name(group: Guarded) -> None:
    records = new_records(with_hosts(group, *places(group), name="other"))
    with pytest.raises(BrokerUnavailable, match="knows no primary named other"):
        records.ping()


def test_the_sentinels_want_another_password(group: Guarded) -> None:
    records = new_records(replace(group.address, sentinel_password="s3cr3t"))
    with pytest.raises(BrokerUnavailable, match="no sentinel names") as caught:
        records.ping()
    assert "s3cr3t" not in str(caught.value)
    assert "set broker.sentinel_password" in str(caught.value)


def test_a_sentinel_that_is_taken_for_a_redis_is_named_by_the_check(group: Guarded) -> None:
    url = f"redis://:{group.sentinel_password}@127.0.0.1:{group.sentinels[0]}/0"
    (finding,) = check_broker(load_settings(broker={"url": url}))
    assert finding.level is Level.FAIL
    assert finding.text.startswith("this is a Sentinel, and no Redis")


def test_a_server_is_no_sentinel(group: Guarded) -> None:
    address = with_hosts(group, f"127.0.0.1:{group.ports[0]}")
    records = new_records(replace(address, sentinel_password=group.password))
    with pytest.raises(BrokerUnavailable, match="unknown command"):
        records.ping()


def test_what_replicas_confirm_outlives_a_failover_with_the_old_primary_alive(
    group: Guarded,
) -> None:
    """That one takes what it is given for some ten seconds more, but nobody follows it."""
    group.wait_until_ready_to_fail_over()
    old = group.named()
    replicas = Replicas(num=1, timeout_seconds=0.4)
    records = Records(
        connect(group.address, timeout_seconds=2), NAMES, ttl_seconds=600, replicas=replicas
    )
    accepted, num_refused = [], 0

    def is_demoted() -> bool:
        nonlocal num_refused
        task = new_task()
        try:
            records.create(task)
            accepted.append(task)
        except NotReplicated:
            num_refused += 1
        with group.raw(old) as one:
            return bool(one.info("replication")["role"] == "slave")

    records.create(new_task())
    group.promote()
    wait_until(is_demoted, seconds=30)
    wait_until(lambda: is_demoted() and bool(accepted), seconds=30)
    records.close()
    assert num_refused > 0
    with group.raw() as primary:
        assert all(primary.exists(NAMES.record(task.id)) for task in accepted)
