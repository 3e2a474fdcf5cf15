"""Celery's own result of a task, in a Redis that refuses it."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery.result import AsyncResult

from tests.support.waiting import wait_until
from visionq.local import LocalUrls
from visionq.settings import load_settings
from visionq_worker import celery_parts
from visionq_worker.app import build_app

# Celery's call, not ours.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex")


@pytest.fixture
def user(raw: redis.Redis) -> Iterator[str]:
    """A user of Redis who may do all but store Celery's results."""
    name = f"u{uuid.uuid4().hex[:12]}"
    raw.acl_setuser(
        name, enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@all", "-setex"]
    )
    yield name
    raw.acl_deluser(name)


@pytest.fixture
def app(urls: LocalUrls, user: str) -> Any:
    url = urls.broker_url.replace("redis://", f"redis://{user}:any@")
    return build_app(load_settings(broker={"url": url}))


def test_result_that_redis_refuses_is_stored_when_it_does_so_no_longer(
    app: Any, user: str, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    task_id = str(uuid.uuid4())
    storing = threading.Thread(
        target=app.backend.store_result, args=(task_id, {"text": "a shelf"}, "SUCCESS")
    )
    storing.start()
    wait_until(lambda: "is not stored yet" in caplog.text)
    assert AsyncResult(task_id, app=app).state == "PENDING"
    raw.acl_setuser(user, enabled=True, commands=["+setex"])
    storing.join()
    assert AsyncResult(task_id, app=app).result == {"text": "a shelf"}


def test_worker_goes_on_without_a_result_that_is_refused_for_good(
    app: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(celery_parts, "REFUSED_PAUSES", (0.01, 0.01))
    task_id = str(uuid.uuid4())
    app.backend.store_result(task_id, {"text": "a shelf"}, "SUCCESS")
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2 + [logging.ERROR]
    assert AsyncResult(task_id, app=app).state == "PENDING"
