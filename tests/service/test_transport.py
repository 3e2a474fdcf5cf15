"""How messages leave a worker's hands: settled over a connection of their own."""

from __future__ import annotations

import ssl

import pytest

from visionq.broker import tls_conf
from visionq.settings import load_settings
from visionq_worker import transport
from visionq_worker.app import build_app
from visionq_worker.transport import LaneOrder, check_kombu


def test_this_kombu_has_the_private_names_we_lean_on(monkeypatch: pytest.MonkeyPatch) -> None:
    check_kombu()
    monkeypatch.setattr(transport, "PRIVATE_NAMES", ("_brpop_read", "_no_such_name"))
    with pytest.raises(RuntimeError, match="_no_such_name"):
        check_kombu()


def test_queues_are_looked_at_in_the_order_of_their_lanes() -> None:
    order = LaneOrder()
    order.update({"photos.bulk", "photos.interactive", "zoo"})
    assert order.consume(3) == ["photos.interactive", "photos.bulk", "zoo"]
    order.rotate("photos.interactive")
    assert order.consume(2) == ["photos.interactive", "photos.bulk"]


def test_bulk_has_its_share_of_the_looks() -> None:
    order = LaneOrder(["photos.interactive", "photos.bulk"], bulk_share=0.25)
    first = []
    for _ in range(12):
        first.append(order.consume(2)[0])
        order.rotate(first[-1])
    assert (
        first
        == (["photos.interactive"] * 4 + ["photos.bulk"] + ["photos.interactive"] * 3) * (1)
        + ["photos.bulk"]
        + ["photos.interactive"] * 3
    )


def test_tls_to_redis_checks_the_certificate() -> None:
    settings = load_settings(broker={"url": "rediss://:secret@redis.example:6379/0"})
    conf = build_app(settings).conf
    assert conf.broker_use_ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    assert conf.redis_backend_use_ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    assert tls_conf("redis://redis.example") == {}
