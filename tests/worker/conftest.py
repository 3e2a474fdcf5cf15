"""What the worker's tests share: an executor on real servers, and servers that may be broken."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.support.addresses import store_address
from tests.support.scripted import ScriptedEngine
from tests.worker.workbench import Workbench, workbench
from visionq import StoreAddress
from visionq.connections import connect
from visionq.local import LocalServers
from visionq.names import Names
from visionq.objects import ObjectStore
from visionq.records import Records


@pytest.fixture(scope="session")
def bucket(address: StoreAddress) -> Iterator[ObjectStore]:
    """The bucket, through one client for all tests: making a boto3 client takes long."""
    opened = ObjectStore(address)
    yield opened
    opened.close()


@pytest.fixture
def bench_with(records: Records, bucket: ObjectStore) -> Callable[[ScriptedEngine], Workbench]:
    """A workbench around the engine given."""
    return lambda engine: workbench(engine, records, bucket)


@pytest.fixture
def bench(bench_with: Callable[[ScriptedEngine], Workbench]) -> Workbench:
    """A workbench whose engine answers at once: "a scripted answer"."""
    return bench_with(ScriptedEngine())


@pytest.fixture(scope="session")
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServers]:
    """Servers of this folder's own, for the tests that stop one (`workbench.down`)."""
    with LocalServers(tmp_path_factory.mktemp("breakable")) as running:
        yield running


@pytest.fixture(scope="session")
def breakable_bucket(breakable: LocalServers) -> Iterator[ObjectStore]:
    urls = breakable.urls
    opened = ObjectStore(store_address(urls))
    yield opened
    opened.close()


@pytest.fixture
def breakable_bench(
    breakable: LocalServers, breakable_bucket: ObjectStore
) -> Iterator[Callable[[ScriptedEngine], Workbench]]:
    """As `bench_with`, on the servers that may be stopped."""
    client = connect(breakable.urls.broker_url, timeout_seconds=1)
    records = Records(client, Names(), ttl_seconds=600)
    yield lambda engine: workbench(engine, records, breakable_bucket)
    client.close()


@pytest.fixture
def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
    return port
