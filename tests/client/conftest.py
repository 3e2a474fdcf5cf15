"""What the client's tests share: a worker played by hand, and servers that a test may break."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from tests.client.hand_worker import HandWorker
from tests.support.addresses import store_address
from visionq import Client, StoreAddress
from visionq.connections import connect
from visionq.local import LocalServers, LocalUrls
from visionq.names import Names
from visionq.objects import ObjectStore
from visionq.records import Records


@pytest.fixture(scope="session")
def bucket(address: StoreAddress) -> Iterator[ObjectStore]:
    """The bucket, through one connection for all tests: making a boto3 client takes long."""
    opened = ObjectStore(address)
    yield opened
    opened.close()


@pytest.fixture
def worker(raw: redis.Redis, names: Names, records: Records, bucket: ObjectStore) -> HandWorker:
    """The worker of `client`'s tasks."""
    return HandWorker(raw, names, records, bucket)


@pytest.fixture
def key() -> str:
    """The key of an image. Nobody looks whether it is there before a worker does."""
    return "inputs/2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


@pytest.fixture(scope="session")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServers]:
    """A second pair of servers, to kill, to count and to cut connections on."""
    with LocalServers(tmp_path_factory.mktemp("own-servers")) as running:
        yield running


@pytest.fixture
def own_urls(own_servers: LocalServers) -> LocalUrls:
    return own_servers.urls


@pytest.fixture
def own_raw(own_urls: LocalUrls) -> Iterator[redis.Redis]:
    """A plain connection to the second Valkey, which is empty again."""
    with redis.Redis.from_url(own_urls.broker_url, decode_responses=True) as opened:
        opened.flushall()
        yield opened


@pytest.fixture
def num_reads(own_raw: redis.Redis) -> Callable[[Callable[[], Any]], int]:
    """How often the second Valkey reads from a connection while something is done."""

    def total() -> int:
        stats: Any = own_raw.info("stats")
        return int(stats["total_reads_processed"])

    def count(action: Callable[[], Any]) -> int:
        before = total()
        action()
        # The question itself is read, too.
        return total() - before - 1

    return count


@pytest.fixture
def own_address(own_urls: LocalUrls) -> StoreAddress:
    return store_address(own_urls)


@pytest.fixture
def own_client(
    own_urls: LocalUrls, own_address: StoreAddress, own_raw: redis.Redis
) -> Iterator[Client]:
    """A client of the second servers; `own_raw` sees nobody but this client."""
    with Client(own_urls.broker_url, own_address, timeout_seconds=0.5) as opened:
        yield opened


@pytest.fixture
def own_worker(
    own_urls: LocalUrls, own_address: StoreAddress, own_raw: redis.Redis
) -> Iterator[HandWorker]:
    """The worker of `own_client`'s tasks."""
    opened = connect(own_urls.broker_url, timeout_seconds=2)
    store = ObjectStore(own_address)
    names = Names()
    yield HandWorker(own_raw, names, Records(opened, names, ttl_seconds=600), store)
    store.close()
    opened.close()


@pytest.fixture
def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
    return port


@pytest.fixture
def mute_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]
