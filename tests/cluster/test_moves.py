"""Clients stay with the slot, wherever it goes: to a replica, to another primary, and back."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import redis
from kombu.exceptions import OperationalError

from tests.client.hand_worker import HandWorker
from tests.support.cluster import Cluster
from tests.support.foreign import opened_foreign_app
from tests.support.waiting import wait_until
from visionq import AsyncClient, Client, State, StoreAddress
from visionq.broker_urls import BrokerAddress
from visionq.connections import connect
from visionq.errors import BrokerUnavailable
from visionq.local import LocalUrls
from visionq.names import Names
from visionq.objects import ObjectStore
from visionq.reconciling import Finding, StoreComparison
from visionq.records import Records

SECONDS = 30.0
REF = "inputs/moved.png"
BACK_SECONDS = 10.0
Move = Callable[[Cluster, str], None]


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of this file's own."""
    with Cluster(tmp_path_factory.mktemp("moved") / "nodes", num_replicas=1) as running:
        yield running


@pytest.fixture
def tag(moved: Cluster) -> str:
    moved.start_dead()
    return f"m{uuid.uuid4().hex[:12]}"


@pytest.fixture
def broker(moved: Cluster, tag: str) -> BrokerAddress:
    """By a node that does not have the slot."""
    return BrokerAddress(moved.url(moved.other_primary(tag)), hash_tag=True)


@pytest.fixture
def names(tag: str) -> Names:
    return Names(tag, hash_tag=True)


@pytest.fixture
def client(broker: BrokerAddress, address: StoreAddress, tag: str) -> Iterator[Client]:
    with Client(broker, address, namespace=tag) as opened:
        yield opened


@pytest.fixture
def worker(broker: BrokerAddress, names: Names, store: ObjectStore) -> Iterator[HandWorker]:
    connection = connect(broker.for_namespace(names.namespace), timeout_seconds=2)
    yield HandWorker(connection, names, Records(connection, names, ttl_seconds=600), store)
    connection.close()


def owner_killed(cluster: Cluster, tag: str) -> None:
    cluster.kill(cluster.owner(tag))


def failed_over(cluster: Cluster, tag: str) -> None:
    cluster.fail_over(tag)


def moved_by_hand(cluster: Cluster, tag: str) -> None:
    with cluster.moving(tag, cluster.other_primary(tag)) as moving:
        moving.move(1)


def moved_at_once(cluster: Cluster, tag: str) -> None:
    cluster.migrate_at_once(tag, cluster.other_primary(tag))


MOVES: list[Move] = [owner_killed, failed_over, moved_by_hand, moved_at_once]


def accepted(client: Client, key: str) -> str:
    """The id of a task that is submitted until it is accepted."""

    def tried() -> str | None:
        try:
            return client.ocr(REF, idempotency_key=key).id
        except BrokerUnavailable:
            return None

    found = wait_until(tried, seconds=BACK_SECONDS, what="a submit to be accepted")
    assert found is not None
    return found


@pytest.mark.parametrize("move", MOVES)
def test_a_client_goes_with_the_slot(
    moved: Cluster, client: Client, worker: HandWorker, tag: str, move: Move
) -> None:
    before = client.ocr(REF)
    moved.wait_until_replicated(tag)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(before.wait, SECONDS)
        wait_until(lambda: is_watched(moved, before.id), what="the waiter to subscribe")
        move(moved, tag)
        after = accepted(client, "after")
        assert client.status(before.id).state is State.PENDING
        assert sorted(worker.message_ids()) == sorted([before.id, after])
        worker.succeed(before.id)
        assert waiting.result().state is State.SUCCESS
    assert {status.id for status in client.recent()} == {before.id, after}
    assert moved.num_keys()[moved.owner(tag)] >= moved.num_keys_in_slot(tag) > 0


def is_watched(cluster: Cluster, task_id: str) -> bool:
    """Whether anybody subscribes to the task's channel; each node knows its own subscribers."""
    return any(cluster.node(port).pubsub_channels(f"*{task_id}") for port in cluster.ports)


@pytest.mark.parametrize("move", MOVES)
def test_an_asyncio_client_goes_with_the_slot(
    moved: Cluster,
    broker: BrokerAddress,
    address: StoreAddress,
    worker: HandWorker,
    tag: str,
    move: Move,
) -> None:
    async def play() -> State:
        async with AsyncClient(broker, address, namespace=tag) as client:
            handle = await client.ocr(REF)
            waiting = asyncio.create_task(handle.wait(SECONDS))
            moved.wait_until_replicated(tag)
            while not is_watched(moved, handle.id):
                await asyncio.sleep(0.01)
            await asyncio.to_thread(move, moved, tag)
            await asyncio.to_thread(until_it_works, lambda: worker.succeed(handle.id))
            assert (await waiting).state is State.SUCCESS
            return (await client.status(handle.id)).state

    assert asyncio.run(play()) is State.SUCCESS


def until_it_works(command: Callable[[], None]) -> None:
    def tried() -> bool:
        try:
            command()
        except (BrokerUnavailable, redis.RedisError):
            return False
        return True

    wait_until(tried, seconds=BACK_SECONDS, what="a command to work")


def test_a_client_leaves_an_owner_that_says_nothing_more(
    moved: Cluster, client: Client, tag: str
) -> None:
    """Its connections stay open, and it takes new ones, as behind a network that drops all."""
    before = client.ocr(REF)
    moved.wait_until_replicated(tag)
    owner = moved.owner(tag)
    os.kill(moved.pid(owner), signal.SIGSTOP)
    try:
        after = accepted(client, "after")
        assert client.status(before.id).state is State.PENDING
    finally:
        os.kill(moved.pid(owner), signal.SIGCONT)
    moved.start_dead()
    assert {status.id for status in client.recent()} == {before.id, after}


@pytest.fixture
def nameless(moved: Cluster) -> Iterator[None]:
    """Nodes that announce no host, as behind a load balancer."""
    for port in moved.ports:
        moved.node(port).config_set("cluster-preferred-endpoint-type", "unknown-endpoint")
    yield
    for port in moved.ports:
        moved.node(port).config_set("cluster-preferred-endpoint-type", "ip")


@pytest.mark.usefixtures("nameless")
@pytest.mark.parametrize("move", [failed_over, moved_at_once])
def test_nodes_without_names_are_where_they_were_asked(
    moved: Cluster, client: Client, tag: str, move: Move
) -> None:
    before = client.ocr(REF)
    move(moved, tag)
    after = client.ocr(REF)
    assert {status.id for status in client.recent()} == {before.id, after.id}


def test_a_stock_application_does_not_follow(moved: Cluster, urls: LocalUrls, tag: str) -> None:
    """It is to be given the address of the new owner."""
    old = moved.owner(tag)
    queue = Names(tag, hash_tag=True).queue("bulk")
    with opened_foreign_app(replace(urls, broker_url=moved.url(old)), tag, hash_tag=True) as app:
        app.send_task("visionq.run", queue=queue)
        _, new = moved.fail_over(tag)
        with pytest.raises((OperationalError, redis.ResponseError), match=str(new)):
            app.send_task("visionq.run", queue=queue, retry=False)
    with opened_foreign_app(replace(urls, broker_url=moved.url(new)), tag, hash_tag=True) as app:
        app.send_task("visionq.run", queue=queue)
    assert moved.node(new).llen(queue) == 2


def test_recent_tasks_are_looked_for_where_the_slot_is(
    moved: Cluster, client: Client, tag: str
) -> None:
    """SCAN names no key, so the node that had the slot would answer it."""
    handle = client.ocr(REF)
    moved.migrate_at_once(tag, moved.other_primary(tag))
    assert [status.id for status in client.recent()] == [handle.id]


def test_results_are_compared_where_the_slot_is(
    moved: Cluster,
    client: Client,
    worker: HandWorker,
    broker: BrokerAddress,
    store: ObjectStore,
    tag: str,
) -> None:
    connection = connect(broker.for_namespace(tag), timeout_seconds=2)
    comparison = StoreComparison(connection, worker.names, store, ttl_seconds=600)
    handle = client.ocr(REF)
    worker.succeed(handle.id)
    store.delete(handle.result_key)
    moved.migrate_at_once(tag, moved.other_primary(tag))
    found = [one for one in comparison.differences() if one.id == handle.id]
    assert [one.finding for one in found] == [Finding.OBJECT_GONE]
    connection.close()


def test_the_last_seed_may_be_gone(
    moved: Cluster, client: Client, broker: BrokerAddress, tag: str
) -> None:
    """Nodes that were named once are asked when the one that was given is down."""
    client.ocr(REF)
    moved.wait_until_replicated(tag)
    seed = int(broker.url.rpartition(":")[2].partition("/")[0])
    moved.kill(seed)
    moved.fail_over(tag)
    assert accepted(client, "after")


def test_one_of_several_seeds_may_be_down_when_a_client_starts(
    moved: Cluster, address: StoreAddress, closed_port: int, tag: str
) -> None:
    url = moved.url(closed_port, moved.other_primary(tag))
    with Client(BrokerAddress(url, hash_tag=True), address, namespace=tag) as client:
        assert client.ocr(REF).status().state is State.PENDING


def test_while_a_slot_is_half_moved_a_submit_fails_as_in_an_outage(
    moved: Cluster, client: Client, tag: str
) -> None:
    client.ocr(REF)
    with moved.moving(tag, moved.other_primary(tag)) as moving:
        moving.move(1)
        with pytest.raises(BrokerUnavailable, match="keys are moving to another node"):
            client.ocr(REF)
    assert accepted(client, "after")


def test_a_redis_that_is_no_cluster_will_do(
    urls: LocalUrls, address: StoreAddress, raw: redis.Redis, tag: str
) -> None:
    """So that a deployment can have its new names before it has its cluster."""
    broker = BrokerAddress(urls.broker_url, hash_tag=True)
    with Client(broker, address, namespace=tag) as client:
        handle = client.ocr(REF)
        assert handle.status().state is State.PENDING
        assert raw.exists(f"{{{tag}}}:task:{handle.id}")
