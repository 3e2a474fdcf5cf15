"""Real servers for every test that talks to one: a Valkey and an S3 server, started once a run."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.addresses import store_address
from tests.support.workers import environment, running_worker
from visionq import Client, StoreAddress
from visionq.connections import connect
from visionq.local import LocalServers, LocalUrls
from visionq.names import Names
from visionq.objects import ObjectStore
from visionq.records import Records
from visionq_worker.cpu import set_up_cpu

# Before any test module imports torch; the worker processes that tests start inherit it.
set_up_cpu()

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session", autouse=True)
def _only_our_settings() -> None:
    """What the developer has set for a real service must not reach the tests."""
    for name in [name for name in os.environ if name.startswith("VISIONQ_")]:
        del os.environ[name]


@pytest.fixture(scope="session", autouse=True)
def _interrupts_are_heard() -> None:
    """A shell's background job starts with SIGINT ignored, and hands that on to every child."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServers]:
    with LocalServers(tmp_path_factory.mktemp("servers")) as running:
        yield running


@pytest.fixture(scope="session")
def urls(servers: LocalServers) -> LocalUrls:
    return servers.urls


@pytest.fixture(scope="session")
def address(urls: LocalUrls) -> StoreAddress:
    return store_address(urls)


@pytest.fixture
def raw(urls: LocalUrls) -> Iterator[redis.Redis]:
    """A plain connection, to look at what the code under test has done."""
    client = redis.Redis.from_url(urls.broker_url, decode_responses=True)
    yield client
    client.close()


@pytest.fixture
def namespace(raw: redis.Redis) -> Iterator[str]:
    """A namespace of the test's own; at its end no key but a waiting queue may lack a TTL."""
    name = f"t{uuid.uuid4().hex[:12]}"
    yield name
    eternal = [
        key
        for key in raw.scan_iter(match=f"{name}*", count=1000)
        if raw.ttl(key) == -1 and raw.type(key) != "list"
    ]
    assert eternal == [], "keys without a TTL"


@pytest.fixture
def names(namespace: str) -> Names:
    return Names(namespace)


@pytest.fixture
def records(urls: LocalUrls, names: Names) -> Iterator[Records]:
    client = connect(urls.broker_url, timeout_seconds=2)
    yield Records(client, names, ttl_seconds=600)
    client.close()


@pytest.fixture
def store(address: StoreAddress) -> Iterator[ObjectStore]:
    opened = ObjectStore(address)
    yield opened
    opened.close()


@pytest.fixture
def client(urls: LocalUrls, address: StoreAddress, namespace: str) -> Iterator[Client]:
    """A client whose tasks nobody consumes, unless the test starts a worker."""
    with Client(urls.broker_url, address, namespace=namespace) as opened:
        yield opened


SERVICE_NAMESPACE = "service"


@pytest.fixture(scope="session")
def _service_worker(urls: LocalUrls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    log = tmp_path_factory.mktemp("worker") / "log"
    with running_worker(environment(urls, SERVICE_NAMESPACE), log):
        yield


@pytest.fixture
def service(urls: LocalUrls, address: StoreAddress, _service_worker: None) -> Iterator[Client]:
    """A client of the whole service: one worker process with the tiny model, shared."""
    with Client(urls.broker_url, address, namespace=SERVICE_NAMESPACE) as opened:
        yield opened


POCKET_NAMESPACE = "pocket"


@pytest.fixture(scope="session")
def _pocket_worker(urls: LocalUrls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    log = tmp_path_factory.mktemp("pocket") / "log"
    model = {"VISIONQ_MODEL__SOURCE": "pocket"}
    with running_worker(environment(urls, POCKET_NAMESPACE, **model), log):
        yield


@pytest.fixture
def pocket(urls: LocalUrls, address: StoreAddress, _pocket_worker: None) -> Iterator[Client]:
    """A client of a worker with the pocket model, which reads; shared."""
    with Client(urls.broker_url, address, namespace=POCKET_NAMESPACE) as opened:
        yield opened


@pytest.fixture(scope="session")
def pictures() -> Path:
    return REPOSITORY / "examples" / "pictures"
