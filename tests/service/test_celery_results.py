"""Celery's own result of a task, in a Redis that refuses it."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery.app.task import Context
from celery.result import AsyncResult

from tests.support.foreign import foreign_app
from tests.support.waiting import wait_until
from visionq.local import LocalUrls
from visionq.names import Names
from visionq.settings import load_settings
from visionq_worker import celery_parts
from visionq_worker.app import build_app

# Celery's call, not ours.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex")

CLAIM = "tag#1"
REQUESTS = {"with its message": Context(properties={"delivery_tag": CLAIM}), "alone": None}
"""How Celery hands over a success; the message is settled with it."""


@pytest.fixture
def user(raw: redis.Redis) -> Iterator[str]:
    """A user of Redis who may do all but store Celery's results."""
    name = f"u{uuid.uuid4().hex[:12]}"
    raw.acl_setuser(
        name,
        enabled=True,
        nopass=True,
        keys=["*"],
        channels=["*"],
        commands=["+@all", "-set", "-setex"],
    )
    yield name
    raw.acl_deluser(name)


@pytest.fixture
def app(urls: LocalUrls, user: str, namespace: str) -> Any:
    url = urls.broker_url.replace("redis://", f"redis://{user}:any@")
    app = build_app(load_settings(broker={"url": url, "namespace": namespace}))
    app.visionq_service.leases.took(CLAIM)
    return app


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_result_that_redis_refuses_is_stored_when_it_does_so_no_longer(
    app: Any,
    user: str,
    raw: redis.Redis,
    names: Names,
    caplog: pytest.LogCaptureFixture,
    request_: Any,
) -> None:
    task_id = str(uuid.uuid4())
    leases = app.visionq_service.leases
    storing = threading.Thread(
        target=app.backend.store_result,
        args=(task_id, {"text": "a shelf"}, "SUCCESS"),
        kwargs={"request": request_},
    )
    storing.start()
    wait_until(lambda: "is not stored yet" in caplog.text)
    assert AsyncResult(task_id, app=app).state == "PENDING"
    assert leases.held == [CLAIM]
    raw.acl_setuser(user, enabled=True, commands=["+set", "+setex"])
    storing.join()
    assert AsyncResult(task_id, app=app).result == {"text": "a shelf"}
    assert leases.held == ([CLAIM] if request_ is None else [])
    assert 0 < raw.ttl(names.celery_result(task_id)) <= app.conf.result_expires


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_worker_goes_on_without_a_result_that_is_refused_for_good(
    app: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, request_: Any
) -> None:
    monkeypatch.setattr(celery_parts, "REFUSED_PAUSES", (0.01, 0.01))
    task_id = str(uuid.uuid4())
    app.backend.store_result(task_id, {"text": "a shelf"}, "SUCCESS", request=request_)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2 + [logging.ERROR]
    assert AsyncResult(task_id, app=app).state == "PENDING"
    assert app.visionq_service.leases.held == [CLAIM]


def test_message_of_a_chord_is_not_settled_with_its_result(app: Any, raw: redis.Redis) -> None:
    """Celery still has to count it."""
    request = Context(properties={"delivery_tag": CLAIM}, chord={"any": "chord"})
    raw.acl_setuser(
        app.conf.broker_url.split("//")[1].split(":")[0], enabled=True, commands=["+set", "+setex"]
    )
    app.backend.store_result(str(uuid.uuid4()), {"text": "a shelf"}, "SUCCESS", request=request)
    assert app.visionq_service.leases.held == [CLAIM]


@pytest.mark.parametrize("first", ["visionq", "staging"])
def test_two_deployments_keep_their_results_of_one_id_apart(
    urls: LocalUrls, raw: redis.Redis, namespace: str, first: str
) -> None:
    """The same idempotency key of the same tenant is the same id in each of them."""
    task_id = str(uuid.uuid4())
    for name in (first, namespace):
        app = build_app(load_settings(broker={"url": urls.broker_url, "namespace": name}))
        app.backend.store_result(task_id, {"text": f"of {name}"}, "SUCCESS")
    for name in (first, namespace):
        theirs = foreign_app(urls, name)
        assert AsyncResult(task_id, app=theirs).result == {"text": f"of {name}"}
        assert raw.exists(Names(name).celery_result(task_id))


def test_every_key_of_celery_s_backend_has_the_namespace(urls: LocalUrls, namespace: str) -> None:
    settings = load_settings(broker={"url": urls.broker_url, "namespace": namespace})
    backend = build_app(settings).backend
    keys = (
        backend.get_key_for_task("t"),
        backend.get_key_for_group("g"),
        backend.get_key_for_chord("c"),
    )
    assert [str(key, "ascii") for key in keys] == [
        f"{namespace}:celery-task-meta-t",
        f"{namespace}:celery-taskset-meta-g",
        f"{namespace}:chord-unlock-c",
    ]
