"""A Redis Cluster of three primaries with a replica each, and one worker on it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.addresses import store_address
from tests.support.cluster import Cluster
from tests.support.workers import environment, running_worker
from visionq import Client, StoreAddress
from visionq.broker_urls import BrokerAddress
from visionq.local import LocalUrls
from visionq.names import Names

NAMESPACE = "clustered"
NAMES = Names(NAMESPACE, hash_tag=True)
THEIRS = f"{NAMES.prefix}.theirs"
"""A queue of other applications, for callbacks."""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster") / "nodes", num_replicas=1) as running:
        yield running


@pytest.fixture(scope="session")
def cluster_urls(cluster: Cluster, urls: LocalUrls) -> LocalUrls:
    """The address names the two primaries that do not have the slot."""
    owner = cluster.owner(NAMESPACE)
    others = [port for port in cluster.primaries if port != owner]
    return replace(urls, broker_url=cluster.url(*others))


@pytest.fixture(scope="session")
def owner_urls(cluster: Cluster, urls: LocalUrls) -> LocalUrls:
    """For whoever cannot follow a cluster: the address of the node that has the slot."""
    return replace(urls, broker_url=cluster.url(cluster.owner(NAMESPACE)))


@pytest.fixture(scope="session")
def broker(cluster_urls: LocalUrls) -> BrokerAddress:
    return BrokerAddress(cluster_urls.broker_url, hash_tag=True)


@pytest.fixture(scope="session")
def env(cluster_urls: LocalUrls) -> dict[str, str]:
    more = {
        "VISIONQ_BROKER__HASH_TAG": "true",
        "VISIONQ_WORKER__CANVAS_QUEUES": json.dumps([THEIRS]),
    }
    return environment(cluster_urls, NAMESPACE, **more)


@pytest.fixture(scope="session")
def _clustered_worker(
    env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    with running_worker(env, tmp_path_factory.mktemp("worker") / "log"):
        yield


@pytest.fixture
def clustered(broker: BrokerAddress, urls: LocalUrls, _clustered_worker: None) -> Iterator[Client]:
    """A client of a worker that is there."""
    with Client(broker, store_address(urls), namespace=NAMESPACE) as opened:
        yield opened


@pytest.fixture
def cluster_address(urls: LocalUrls) -> StoreAddress:
    return store_address(urls)


@pytest.fixture
def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
    return port
