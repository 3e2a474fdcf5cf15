"""A Redis Cluster without a hash tag is refused by a sentence that names the setting."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import redis

from tests.cli.commands import visionq
from tests.cli.conftest import only_ours
from tests.faults.proxy import Proxy
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until
from tests.support.workers import environment
from tests.worker.picture_bytes import DOT
from visionq import AsyncClient, Client, StoreAddress
from visionq.broker import Publisher
from visionq.broker_urls import BrokerAddress
from visionq.connections import NoHashTag, WrongServer, connect
from visionq.contract import ImageRef, Task
from visionq.dead import DeadLetters
from visionq.errors import BrokerDenied, SettingsError
from visionq.fleet import Fleets, WorkerReport
from visionq.local import LocalUrls
from visionq.names import Names
from visionq_worker.health import Pulse
from visionq_worker.keeper import Keeper
from visionq_worker.leases import Leases

SENTENCE = r"is a node of a Redis Cluster.*broker\.hash_tag = true"
TASK_ID = str(uuid.uuid4())
KEY = "inputs/x.png"
Call = Callable[[Client], object]


@pytest.fixture
def client(owner_urls: LocalUrls, cluster_address: StoreAddress) -> Iterator[Client]:
    with Client(owner_urls.broker_url, cluster_address) as opened:
        yield opened


CALLS: dict[str, Call] = {
    "submit": lambda client: client.ocr(KEY),
    "submit with a key": lambda client: client.ocr(KEY, idempotency_key="k"),
    "status": lambda client: client.status(TASK_ID),
    "statuses": lambda client: client.status_many([TASK_ID, str(uuid.uuid4())]),
    "wait": lambda client: client.wait(TASK_ID, 5),
    "result": lambda client: client.result(TASK_ID, 5),
    "cancel": lambda client: client.cancel(TASK_ID),
    "estimate": lambda client: client.estimate("ocr", DOT),
    "recent": lambda client: client.recent(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_call_names_the_setting(client: Client, call: Call) -> None:
    with pytest.raises(SettingsError, match=SENTENCE) as caught:
        call(client)
    assert isinstance(caught.value, BrokerDenied), "a worker bears it as it bears access rules"


def test_the_asyncio_client_does_so_too(
    owner_urls: LocalUrls, cluster_address: StoreAddress
) -> None:
    async def play() -> None:
        async with AsyncClient(owner_urls.broker_url, cluster_address) as client:
            with pytest.raises(SettingsError, match=SENTENCE):
                await client.ocr(KEY)
            with pytest.raises(SettingsError, match=SENTENCE):
                await client.wait(TASK_ID, 5)

    asyncio.run(play())


def test_the_publisher_does_so_too(cluster: Cluster) -> None:
    names = Names("elsewhere")
    task = Task(id=TASK_ID, kind="ocr", images=(ImageRef(ref=KEY),))
    publisher = Publisher(
        stranger_to(cluster, names.queue("interactive")), names, timeout_seconds=2
    )
    for publish in (partial(publisher.publish, task), partial(publisher.publish_many, [task])):
        with pytest.raises(SettingsError, match=SENTENCE):
            publish()
    publisher.close()


def test_dead_letters_do_so_too(cluster: Cluster) -> None:
    names = Names("elsewhere")
    client = connect(stranger_to(cluster, names.dead_index()), timeout_seconds=2)
    letters = DeadLetters(client, names, ttl_seconds=60)
    with pytest.raises(SettingsError, match=SENTENCE):
        letters.list()
    letters.close()


def test_keeper_outlives_a_node_that_has_other_keys(cluster: Cluster) -> None:
    """As when a name in DNS leads to a wrong server for a while."""
    names, refused = Names("elsewhere"), threading.Event()
    right, wrong = (find(names.workers()) for find in (cluster.owner, cluster.other_primary))
    with Proxy(right) as proxy:
        url = cluster.url(right).replace(f":{right}/", f":{proxy.port}/")
        client = connect(url, timeout_seconds=1)
        leases = Leases(
            client, names, owner="one", lease_seconds=5, max_attempts=3, record_ttl_seconds=60
        )
        fleets = Fleets(client, names)
        report = WorkerReport(model="m", model_revision=None, max_context_tokens=1, concurrency=1)

        def tell() -> None:
            try:
                fleets.tell("one", report)
            except SettingsError:
                refused.set()
                raise

        def is_told() -> bool:
            return bool(cluster.node(right).hdel(names.workers(), "one"))

        keeper = Keeper(leases, Pulse(), lambda: True, lambda: None, tell)
        keeper.start()
        try:
            wait_until(is_told, seconds=10)
            proxy.point_to(wrong)
            proxy.reset()
            assert refused.wait(15)
            proxy.point_to(right)
            wait_until(is_told, seconds=20)
        finally:
            keeper.stop()
            client.close()


def stranger_to(cluster: Cluster, key: str) -> str:
    """The address of a primary that does not have the key."""
    return cluster.url(cluster.other_primary(key))


def test_commands_say_so_and_exit_as_for_any_bad_setting(
    owner_urls: LocalUrls,
) -> None:
    result = visionq(only_ours(environment(owner_urls, "visionq")), "submit", "ocr", KEY)
    assert result.exit_code != 0
    assert "broker.hash_tag = true" in result.stderr
    assert "Traceback" not in result.stderr


REPLIES = {
    "MOVED 3999 127.0.0.1:1": True,
    "ASK 3999 127.0.0.1:1": True,
    "TRYAGAIN Multiple keys request during rehashing of slot": True,
    "CLUSTERDOWN The cluster is down": True,
    "ERR Attempted to access a non local key in a cluster node": True,
    "CROSSSLOT Keys in request don't hash to the same slot": False,
}
"""What only a node of a cluster says, and whether it passes."""


@pytest.mark.parametrize(("reply", "passes"), REPLIES.items())
def test_replies_of_a_cluster(urls: LocalUrls, reply: str, passes: bool) -> None:
    script = "return redis.error_reply(ARGV[1])"
    for hash_tag in (False, True):
        client = connect(BrokerAddress(urls.broker_url, hash_tag=hash_tag), timeout_seconds=2)
        expected = (WrongServer if passes else redis.ResponseError) if hash_tag else NoHashTag
        with pytest.raises(expected):
            client.eval(script, 0, reply)
        with client.pipeline(transaction=True) as pipe:
            pipe.eval(script, 0, reply)
            with pytest.raises(expected):
                pipe.execute()
        assert client.ping()
        client.close()
