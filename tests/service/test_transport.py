"""How messages leave a worker's hands: settled over a connection of their own."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator

import pytest
import redis

from tests.support.killing import kill_valkey
from visionq.broker import tls_conf
from visionq.local import LocalServers
from visionq.names import Names
from visionq.records import connect
from visionq.settings import load_settings
from visionq_worker import transport
from visionq_worker.app import build_app
from visionq_worker.transport import InteractiveFirst, Settler, check_kombu

TAG = "tag-1"
MESSAGE = {"body": "e30=", "properties": {"delivery_tag": TAG}}


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServers]:
    with LocalServers(tmp_path_factory.mktemp("settler")) as servers:
        yield servers


@pytest.fixture
def settler(own_servers: LocalServers) -> Iterator[Settler]:
    client = connect(own_servers.urls.broker_url, timeout_seconds=1)
    names = Names()
    yield Settler(client, unacked_key=names.unacked(), index_key=names.unacked_index())
    client.close()


@pytest.fixture
def own_raw(own_servers: LocalServers) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(own_servers.urls.broker_url, decode_responses=True)
    client.flushdb()
    client.hset("visionq:unacked", TAG, json.dumps([MESSAGE, "", "q"]))
    client.zadd("visionq:unacked-index", {TAG: 1.0})
    yield client
    client.close()


def _is_taken(raw: redis.Redis) -> bool:
    in_hash = raw.hexists("visionq:unacked", TAG)
    in_index = raw.zscore("visionq:unacked-index", TAG) is not None
    assert in_hash == in_index
    return bool(in_hash)


def test_acked_message_is_gone(settler: Settler, own_raw: redis.Redis) -> None:
    settler.ack(TAG)
    assert not _is_taken(own_raw)
    assert own_raw.llen("q") == 0


def test_requeued_message_is_the_next_one_taken(settler: Settler, own_raw: redis.Redis) -> None:
    own_raw.lpush("q", "older", "newer")
    settler.requeue(TAG)
    assert not _is_taken(own_raw)
    taken = own_raw.rpop("q")
    assert isinstance(taken, str)
    assert json.loads(taken) == MESSAGE


def test_requeue_of_a_message_that_was_settled_adds_nothing(
    settler: Settler, own_raw: redis.Redis
) -> None:
    settler.ack(TAG)
    settler.requeue(TAG)
    assert own_raw.llen("q") == 0


@pytest.mark.parametrize("how", ["ack", "requeue"])
def test_what_redis_did_not_hear_is_said_again(
    own_servers: LocalServers, settler: Settler, own_raw: redis.Redis, how: str
) -> None:
    kill_valkey(own_servers)
    getattr(settler, how)(TAG)
    settler.retry()
    own_servers.restart("valkey")
    assert _is_taken(own_raw)
    settler.retry()
    assert not _is_taken(own_raw)
    assert own_raw.llen("q") == (1 if how == "requeue" else 0)


def test_this_kombu_has_the_private_names_we_lean_on(monkeypatch: pytest.MonkeyPatch) -> None:
    check_kombu()
    monkeypatch.setattr(transport, "PRIVATE_NAMES", ("_brpop_read", "_no_such_name"))
    with pytest.raises(RuntimeError, match="_no_such_name"):
        check_kombu()


def test_queues_are_looked_at_in_the_order_of_their_lanes() -> None:
    order = InteractiveFirst()
    order.update({"photos.bulk", "photos.interactive", "zoo"})
    assert order.consume(3) == ["photos.interactive", "photos.bulk", "zoo"]
    order.rotate("photos.interactive")
    assert order.consume(2) == ["photos.interactive", "photos.bulk"]


def test_tls_to_redis_checks_the_certificate() -> None:
    settings = load_settings(broker={"url": "rediss://:secret@redis.example:6379/0"})
    conf = build_app(settings).conf
    assert conf.broker_use_ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    assert conf.redis_backend_use_ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    assert tls_conf("redis://redis.example") == {}
