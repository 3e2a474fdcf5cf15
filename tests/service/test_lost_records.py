"""A message that a real worker gets again, after Redis has lost the task's record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.conftest import SERVICE_NAMESPACE
from tests.support.foreign import opened_foreign_app
from tests.support.waiting import wait_until
from visionq import Client, State
from visionq.broker import Publisher
from visionq.contract import read_task
from visionq.local import LocalUrls
from visionq.names import TASK_NAME, Names
from visionq.objects import ObjectStore

NAMES = Names(SERVICE_NAMESPACE)


@pytest.fixture
def publisher(urls: LocalUrls) -> Iterator[Publisher]:
    opened = Publisher(urls.broker_url, NAMES, timeout_seconds=5)
    yield opened
    opened.close()


def test_answered_task_stays_as_it_was(
    service: Client, store: ObjectStore, raw: redis.Redis, publisher: Publisher, pictures: Path
) -> None:
    picture = pictures / "shelf_after.png"
    handle = service.describe(picture, max_new_tokens=3, reuse=False)
    answer = handle.result(60)
    content = store.get(handle.result_key)
    record = NAMES.record(handle.id)
    task = read_task(json.loads(str(raw.hget(record, "task"))))
    raw.delete(record)
    assert handle.status().source == "store"
    publisher.publish(task)
    status = wait_until(lambda: (one := handle.status()).source == "record" and one, seconds=30)
    assert status
    assert (status.state, status.attempt) == (State.SUCCESS, 1)
    assert store.get(handle.result_key) == content
    assert handle.result(0) == answer


def test_foreign_sender_is_told_the_answer_that_is_there(
    service: Client, urls: LocalUrls, store: ObjectStore, raw: redis.Redis, pictures: Path
) -> None:
    """Celery's result of the second message says what the first one's did."""
    key = store.put_input((pictures / "shelf_after.png").read_bytes())
    task = {
        "kind": "describe",
        "images": [{"ref": key}],
        "options": {"max_new_tokens": 3, "reuse": False},
    }
    with opened_foreign_app(urls, SERVICE_NAMESPACE) as app:
        queue = NAMES.queue("interactive")
        first = app.send_task(TASK_NAME, kwargs={"task": task}, queue=queue)
        told = first.get(timeout=60)
        content = store.get(told["result_key"])
        raw.delete(NAMES.record(first.id), NAMES.celery_result(first.id))
        again = app.send_task(TASK_NAME, kwargs={"task": task}, queue=queue, task_id=first.id)
        assert again.get(timeout=60) == told
    assert store.get(told["result_key"]) == content
