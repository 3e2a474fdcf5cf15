"""What a worker holds open goes on with a demoted primary's successor."""

from __future__ import annotations

import json
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from celery.states import SUCCESS

from tests.support.replicated import Pair, replicated
from tests.support.waiting import wait_until
from visionq.connections import connect
from visionq.dead import DeadLetters
from visionq.fleet import Fleets, WorkerReport
from visionq.names import Names
from visionq.settings import load_settings
from visionq_worker.app import build_app
from visionq_worker.control import ControlChannel
from visionq_worker.leases import Leases
from visionq_worker.waker import Waker

NAMES = Names("worker-doors")
QUEUE = "worker-doors.interactive"
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:kombu"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:celery"),
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with replicated(tmp_path_factory.mktemp("pair")) as both:
        yield both


def message() -> str:
    properties = {"delivery_tag": str(uuid4()), "delivery_info": {"routing_key": QUEUE}}
    return json.dumps({"body": "W10=", "headers": {"id": str(uuid4())}, "properties": properties})


def test_leases_are_held_and_settled(pair: Pair) -> None:
    client = connect(pair.url, timeout_seconds=2)
    leases = Leases(
        client, NAMES, owner="a:1", lease_seconds=60, max_attempts=3, record_ttl_seconds=600
    )

    def claim() -> str:
        with pair.raw() as primary:
            primary.rpush(QUEUE, message())
            leases.load_claim()
            taken: Any = primary.execute_command(*leases.claim_command([QUEUE]))  # type: ignore[no-untyped-call]
        leases.took(taken[2])
        return str(taken[2])

    first, second = claim(), claim()
    pair.swap()
    assert leases.renew() == []
    leases.ack(first)
    pair.swap()
    leases.put_aside(second, "why not")
    pair.swap()
    leases.sweep()
    assert leases.held == []
    with pair.raw() as primary:
        assert primary.hlen(NAMES.unacked()) == 0
        assert primary.hlen(NAMES.dead()) == 1
    client.close()


def test_dead_letters_are_listed_and_purged(pair: Pair) -> None:
    client = connect(pair.url, timeout_seconds=2)
    letters = DeadLetters(client, NAMES, ttl_seconds=600)
    assert len(list(letters.list())) == 1
    pair.swap()
    (letter,) = letters.list()
    pair.swap()
    assert letters.purge([letter.id]) == (letter.id,)
    letters.close()


def test_workers_are_reported(pair: Pair) -> None:
    fleets = Fleets(connect(pair.url, timeout_seconds=2), NAMES)
    report = WorkerReport(model="m", model_revision=None, max_context_tokens=1, concurrency=1)
    fleets.tell("a:1", report)
    pair.swap()
    fleets.tell("a:2", report)
    assert len(fleets.look().workers) == 2


def test_the_waker_wakes(pair: Pair) -> None:
    client = connect(pair.url, timeout_seconds=5)
    waker = Waker(client, [QUEUE])
    waker.start()
    waker.arm()
    with pair.raw() as primary:
        wait_until(lambda: primary.info("clients")["blocked_clients"] == 1)
    pair.swap()
    with pair.raw() as successor:
        wait_until(lambda: successor.info("clients")["blocked_clients"] == 1)
        successor.rpush(QUEUE, message())
        assert select.select([waker.fileno()], [], [], 5)[0]
        successor.delete(QUEUE)
    waker.stop()
    client.close()


def test_control_commands_are_heard(pair: Pair) -> None:
    """Also when the old primary follows nobody, and so hears nothing that is published."""
    client = connect(pair.url, timeout_seconds=2, gives_text=False)
    heard: list[object] = []
    channel = ControlChannel(
        client, NAMES, node="a@b", answers={"ping": lambda _: heard.append("ping")}
    )
    channel.start()
    topic = NAMES.control_topic(0)
    _wait_until_subscribed(pair, topic)
    pair.swap()
    with pair.raw(pair.other) as old:
        old.replicaof("127.0.0.1", "1")
    with connect(pair.url, timeout_seconds=2) as other:
        other.set("any", "", ex=60)  # as the leases do, all the while
    _wait_until_subscribed(pair, topic)
    channel.stop()
    pair.demote_other()


def _wait_until_subscribed(pair: Pair, topic: str) -> None:
    with pair.raw() as primary:
        wait_until(lambda: primary.pubsub_numsub(topic)[0][1] == 1, what="the subscription")


def test_celery_s_results_are_stored(pair: Pair) -> None:
    app = build_app(load_settings(broker={"url": pair.url, "namespace": "worker-doors"}))
    for _ in range(3):
        task_id = str(uuid4())
        app.backend.store_result(task_id, {"text": "x"}, SUCCESS)
        with pair.raw() as primary:
            assert primary.exists(f"worker-doors:celery-task-meta-{task_id}")
        pair.swap()
    app.close()


def test_a_transport_s_channel_goes_on(pair: Pair) -> None:
    """Its connections for single commands, which kombu pools."""
    app = build_app(load_settings(broker={"url": pair.url, "namespace": "worker-doors"}))
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        channel.client.ping()
        pair.swap()
        # Whoever of the process writes first finds out.
        with connect(pair.url, timeout_seconds=2) as other:
            other.set("any", "", ex=60)
        channel._put(QUEUE, {"body": ""})
        with pair.raw() as primary:
            assert primary.llen(QUEUE) == 1
            primary.delete(QUEUE)
    app.close()


SLOWLY_LOADED = (
    "appendonly no\nrdbcompression no\n"
    "key-load-delay 500\n"  # microseconds
    "loading-process-events-interval-bytes 1024\n"
)


def test_a_server_that_loads_its_data_is_waited_for(tmp_path: Path) -> None:
    with replicated(tmp_path, SLOWLY_LOADED) as pair:
        client = connect(pair.url, timeout_seconds=2)
        with pair.raw() as primary:
            with primary.pipeline(transaction=False) as pipe:
                for number in range(4000):
                    pipe.set(f"key-{number}", "x" * 1000, ex=600)
                pipe.execute()
            primary.save()
        client.set("any", "", ex=60)
        pair.restart_primary()
        wait_until(lambda: "loading its data set" in _complaint(client), what="LOADING")
        wait_until(lambda: not _complaint(client), what="the data to be loaded")
        client.close()


def _complaint(client: Any) -> str:
    try:
        client.set("any", "", ex=60)
    except redis.RedisError as error:
        return str(error)
    return ""


def test_a_primary_without_replicas_and_one_without_its_primary(tmp_path: Path) -> None:
    """NOREPLICAS is what a primary says that was cut off; MASTERDOWN what a replica says."""
    with replicated(tmp_path, "replica-serve-stale-data no\n") as pair:
        client = connect(pair.url, timeout_seconds=2)
        client.set("some", "old", ex=60)
        with pair.raw() as primary:
            primary.config_set("min-replicas-to-write", 1)
        wait_until(lambda: not _complaint(client))
        pair.promote()
        with pair.raw(pair.other) as old:
            wait_until(lambda: "NOREPLICAS" in _complaint(old), what="the old one to refuse")
        client.set("some", "new", ex=60)
        with pair.raw() as successor:
            assert successor.get("some") == "new"
        pair.demote_other()
        pair.promote()
        with pair.raw(pair.other) as old:
            old.replicaof("127.0.0.1", "1")
        assert client.get("some") == "new"
        client.close()
