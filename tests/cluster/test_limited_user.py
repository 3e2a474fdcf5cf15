"""A user whose ACL allows what docs/cluster.md says, on each node, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.cluster.conftest import NAMES, NAMESPACE
from tests.support.cluster import Cluster
from visionq.broker_urls import BrokerAddress
from visionq.connections import connect
from visionq_worker.permissions import Forbidden, forbidden_keys

USER = "limited"
RULES = (
    "reset on >secret ~{visionq}* &{visionq}* ~_kombu.binding*.{visionq}* "
    "&/0.{visionq}:celery.pidbox ~*.reply.{visionq}:celery.pidbox &/0.{visionq}:celeryev/* "
    "+@all -cluster"
).replace("visionq", NAMESPACE)


@pytest.fixture
def limited(cluster: Cluster) -> Iterator[BrokerAddress]:
    for port in cluster.ports:
        set_user(cluster, port, RULES + " +cluster|info +cluster|slots")
    url = f"redis://{USER}:secret@127.0.0.1:{cluster.other_primary(NAMESPACE)}/0"
    yield BrokerAddress(url, hash_tag=True).for_namespace(NAMESPACE)
    for port in cluster.ports:
        set_user(cluster, port, "off")


def set_user(cluster: Cluster, port: int, rules: str) -> None:
    words = ("ACL", "SETUSER", USER, *rules.split())
    cluster.node(port).execute_command(*words)  # type: ignore[no-untyped-call]


def test_such_a_user_may_do_all_that_a_worker_does(limited: BrokerAddress) -> None:
    with connect(limited, timeout_seconds=2) as client:
        assert forbidden_keys(client, NAMES, ()) == Forbidden(own=(), results=(), control=())


def test_a_user_who_may_not_ask_for_slots_is_told(limited: BrokerAddress, cluster: Cluster) -> None:
    for port in cluster.ports:
        set_user(cluster, port, "-cluster")
    with (
        connect(limited, timeout_seconds=2) as client,
        pytest.raises(redis.ConnectionError, match=r"\+cluster\|slots"),
    ):
        client.ping()
