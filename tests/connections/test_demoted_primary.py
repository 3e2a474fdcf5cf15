"""A primary that has become a replica and lives on: every door goes on with its successor."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from tests.support.replicated import Pair, replicated
from tests.support.waiting import wait_until
from visionq.broker import Publisher
from visionq.connections import WrongServer, connect
from visionq.contract import ImageRef, Lane, State, Task
from visionq.errors import BrokerUnavailable
from visionq.names import Names
from visionq.primaries import ROLE_SECONDS
from visionq.records import Records
from visionq.watch import Watch

NAMES = Names("demoted")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with replicated(tmp_path) as both:
        yield both


@pytest.fixture
def records(pair: Pair) -> Iterator[Records]:
    client = connect(pair.url, timeout_seconds=2)
    yield Records(client, NAMES, ttl_seconds=600)
    client.close()


def new_task() -> Task:
    image = ImageRef(ref="inputs/" + "0" * 64)
    return Task(id=str(uuid4()), kind="describe", images=(image,), lane=Lane.INTERACTIVE)


def test_the_next_write_goes_to_the_successor(pair: Pair, records: Records) -> None:
    records.create(new_task())
    for _ in range(3):
        pair.swap()
        task = new_task()
        assert records.create(task) is None
        with pair.raw() as successor:
            assert successor.exists(NAMES.record(task.id))


def test_pipelines_go_to_the_successor(pair: Pair, records: Records) -> None:
    records.create(new_task())
    pair.swap()
    records.mark_sent([new_task().id])
    task = new_task()
    pair.swap()
    with connect(pair.url, timeout_seconds=2).pipeline(transaction=False) as pipe:
        pipe.set(NAMES.record(task.id), "x", ex=60)
        assert pipe.execute(raise_on_error=False) == [True]


def test_idle_connections_to_the_old_one_are_dropped_with_the_first(pair: Pair) -> None:
    client, other = (connect(pair.url, timeout_seconds=2) for _ in range(2))
    for one in (client, other):
        one.set("some", "old", ex=60)
    pair.swap()
    with pair.raw() as successor:
        wait_until(lambda: successor.get("some") == "old")
        successor.set("some", "new", ex=60)
    client.set("any", "", ex=60)
    with pair.raw(pair.other) as old:
        old.replicaof("NO", "ONE")  # so it would not even refuse
        old.set("some", "old", ex=60)
    assert other.get("some") == "new"


def test_reads_come_from_the_successor_soon(pair: Pair) -> None:
    """A replica answers them, with what it knew."""
    client = connect(pair.url, timeout_seconds=2)
    client.set("some", "old", ex=60)
    pair.promote()
    with pair.raw() as successor, pair.raw(pair.other) as old:
        old.replicaof("127.0.0.1", "1")  # it has no link to the successor
        successor.set("some", "new", ex=60)
        wait_until(lambda: client.get("some") == "new", seconds=ROLE_SECONDS + 1)


def test_what_a_new_connection_finds_holds_for_those_there_are(pair: Pair) -> None:
    """Else a status could go back: from the successor's to the old primary's, which knows less."""
    client, other = (connect(pair.url, timeout_seconds=2) for _ in range(2))
    client.set("some", "old", ex=60)
    pair.promote()  # the old one does not know it yet
    with pair.raw() as successor:
        successor.set("some", "new", ex=60)
    assert other.get("some") == "new"
    assert client.get("some") == "new"


def test_a_replica_that_nobody_succeeds_is_named_in_one_sentence(
    pair: Pair, records: Records
) -> None:
    records.create(new_task())
    pair.proxy.point_to(pair.other)
    pair.proxy.reset()
    with pytest.raises(
        BrokerUnavailable, match=r"takes no commands: it is a replica now"
    ) as caught:
        records.create(new_task())
    assert isinstance(caught.value.__cause__, WrongServer)
    pair.proxy.point_to(pair.primary)
    records.create(new_task())


def test_the_publisher_goes_on(pair: Pair) -> None:
    publisher = Publisher(pair.url, NAMES, timeout_seconds=2)
    publisher.publish(new_task())
    pair.swap()
    publisher.publish(new_task())
    pair.swap()
    publisher.publish_many([new_task(), new_task()])
    with pair.raw() as successor:
        assert successor.llen(NAMES.queue(Lane.INTERACTIVE)) == 4
    publisher.close()


def test_a_blocking_command_is_given_up_by_the_old_one(pair: Pair) -> None:
    client = connect(pair.url, timeout_seconds=20)
    found: list[object] = []
    waiting = threading.Thread(
        target=lambda: found.append(client.blmove("a", "a", 15, "RIGHT", "RIGHT"))
    )
    waiting.start()
    with pair.raw() as primary:
        wait_until(lambda: primary.info("clients")["blocked_clients"] == 1)
    pair.swap()
    with pair.raw() as successor:
        wait_until(lambda: successor.info("clients")["blocked_clients"] == 1)
        successor.rpush("a", "x")
    waiting.join(5)
    assert found == ["x"]


def test_a_waiter_goes_on(pair: Pair, records: Records) -> None:
    task = new_task()
    records.create(task)

    async def wait_through_a_failover() -> State:
        watch = Watch(pair.url, NAMES, timeout_seconds=2)
        waiting = asyncio.create_task(watch.wait(task.id, 20))
        await asyncio.sleep(0)
        while not await asyncio.to_thread(_num_subscribed, pair, task):
            await asyncio.sleep(0.01)
        await asyncio.to_thread(pair.swap)
        # It neither reads the old one's record nor hears what the old one is told of.
        await asyncio.to_thread(_cut_off, pair)
        await asyncio.to_thread(records.cancel, task.id)
        status = await waiting
        await watch.close()
        return status.state

    assert asyncio.run(wait_through_a_failover()) is State.REVOKED


def _num_subscribed(pair: Pair, task: Task) -> int:
    with pair.raw() as primary:
        ((_, count),) = primary.pubsub_numsub(NAMES.events(task.id))
    return int(count)


def _cut_off(pair: Pair) -> None:
    with pair.raw(pair.other) as old:
        old.replicaof("127.0.0.1", "1")


def test_status_of_an_idle_asyncio_client(pair: Pair, records: Records) -> None:
    task = new_task()
    records.create(task)

    async def look() -> None:
        watch = Watch(pair.url, NAMES, timeout_seconds=2)
        assert (await watch.status(task.id)).state is State.PENDING
        await asyncio.to_thread(pair.promote)
        await asyncio.to_thread(_cut_off, pair)
        await asyncio.to_thread(records.cancel, task.id)
        while (await watch.status(task.id)).state is State.PENDING:
            await asyncio.sleep(0.01)
        await watch.close()

    asyncio.run(asyncio.wait_for(look(), ROLE_SECONDS + 2))


@pytest.mark.parametrize(
    "reply",
    [
        "READONLY You can't write against a read only replica.",
        "READONLY You can't write against a read only replica. script: f, on @user_script:1.",
        "ERR Error running script (call to f_1): @user_script:1: @user_script: 1: "
        "-READONLY You can't write against a read only replica.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "UNBLOCKED force unblock from blocking operation, instance state changed",
        "LOADING Redis is loading the dataset in memory",
        "NOREPLICAS Not enough good replicas to write.",
    ],
)
def test_replies_that_mean_another_server(pair: Pair, reply: str) -> None:
    client = connect(pair.url, timeout_seconds=2)
    script = "return redis.error_reply(ARGV[1])"
    with pytest.raises(WrongServer):
        client.eval(script, 0, reply)
    with client.pipeline(transaction=True) as pipe:
        pipe.eval(script, 0, reply)
        with pytest.raises(WrongServer):
            pipe.execute(raise_on_error=False)
    assert client.ping()


@pytest.mark.parametrize(
    "reply",
    [
        "BUSY Redis is busy running a script.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "MISCONF Redis is configured to save RDB snapshots.",
        "ERR what a user has written: -READONLY ",
        "ERR READONLY",
    ],
)
def test_replies_that_are_about_one_command(pair: Pair, reply: str) -> None:
    client = connect(pair.url, timeout_seconds=2)
    with pytest.raises(redis.ResponseError):
        client.eval("return redis.error_reply(ARGV[1])", 0, reply)
