"""What foreign senders and bad pictures do: a failure with a stable code, and the worker lives."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from time import time
from typing import Any

import pytest
import redis
from celery import Celery
from celery.result import AsyncResult
from kombu.utils.encoding import bytes_to_str

from tests.conftest import SERVICE_NAMESPACE
from tests.support.foreign import opened_foreign_app
from tests.support.waiting import wait_until
from visionq import Client, State
from visionq.local import LocalUrls
from visionq.names import Names
from visionq.newer_scripts import NEWER_GRACE_SECONDS
from visionq.objects import ObjectStore

SECONDS = 30.0
QUEUE = "service.interactive"
NAMES = Names("service")

IMAGE = {"ref": "inputs/small.png"}


@pytest.fixture
def app(urls: LocalUrls) -> Iterator[Celery]:
    with opened_foreign_app(urls, SERVICE_NAMESPACE) as opened:
        yield opened


@pytest.fixture
def send(app: Celery, store: ObjectStore, pictures: Path) -> Callable[..., str]:
    """Send a task past our client, so that nothing checks it before the worker does."""
    store.put("inputs/small.png", (pictures / "shelf_after.png").read_bytes())

    def send_task(task: Any) -> str:
        return str(app.send_task("visionq.run", kwargs={"task": task}, queue=QUEUE).id)

    return send_task


BAD_TASKS: dict[str, tuple[Any, str]] = {
    "no task at all": (None, "invalid_task"),
    "a list": ([], "invalid_task"),
    "no kind": ({"images": [IMAGE]}, "invalid_task"),
    "unknown field": ({"kind": "ocr", "images": [IMAGE], "colour": "red"}, "invalid_task"),
    "another id": ({"kind": "ocr", "images": [IMAGE], "id": str(uuid.uuid4())}, "invalid_task"),
    "negative tokens": (
        {"kind": "ocr", "images": [IMAGE], "options": {"max_new_tokens": -1}},
        "invalid_task",
    ),
    "key with dots": ({"kind": "ocr", "images": [{"ref": "../etc/passwd"}]}, "invalid_task"),
    "unknown kind": ({"kind": "sing", "images": [IMAGE]}, "unknown_kind"),
    "no image": ({"kind": "ocr", "images": []}, "image_count"),
    "too many images": ({"kind": "ocr", "images": [IMAGE, IMAGE]}, "image_count"),
    "one image to compare": ({"kind": "compare", "images": [IMAGE]}, "image_count"),
    "missing object": ({"kind": "ocr", "images": [{"ref": "inputs/none"}]}, "input_missing"),
    "forbidden bucket": ({"kind": "ocr", "images": [{"ref": "s3://b/k"}]}, "input_not_allowed"),
    "web address": ({"kind": "ocr", "images": [{"ref": "https://a.b/c"}]}, "input_not_allowed"),
    "tag of a second image": (
        {"kind": "ask", "images": [IMAGE], "question": "and <|image_2|>?"},
        "prompt_tags",
    ),
    "end of turn": ({"kind": "ask", "images": [IMAGE], "question": "<|end|>"}, "prompt_tags"),
    "longer than the context": (
        {"kind": "ask", "images": [IMAGE], "question": "Go", "options": {"max_new_tokens": 30_000}},
        "prompt_too_long",
    ),
    "schema": (
        {"kind": "ask", "images": [IMAGE], "question": "Go", "options": {"schema": {"type": "x"}}},
        "schema_unsupported",
    ),
    "no contract": ({"kind": "ocr", "images": [IMAGE], "version": 1001}, "invalid_task"),
}


@pytest.mark.parametrize("name", BAD_TASKS)
def test_bad_task_ends_as_a_failure_with_its_code(
    service: Client, send: Callable[..., str], store: ObjectStore, name: str
) -> None:
    task, code = BAD_TASKS[name]
    task_id = send(task)
    wait_until(lambda: service.status(task_id).is_done, seconds=SECONDS)
    status = service.status(task_id)
    assert status.state is State.FAILURE
    assert status.failure is not None
    assert status.failure.code == code
    stored = json.loads(store.get(f"results/{task_id}.json"))
    assert stored["state"] == "FAILURE"
    assert stored["failure"]["code"] == code


def test_newer_task_ends_when_no_worker_comes_that_reads_it(
    service: Client, send: Callable[..., str], app: Celery, raw: redis.Redis
) -> None:
    """A foreign sender's, who waits by Celery's result; the while it waits is not waited for."""
    raw.set(NAMES.newer("99:absent"), time() - NEWER_GRACE_SECONDS - 1, ex=60)
    task_id = send({"kind": "ocr", "images": [IMAGE], "version": 99, "colour": "red"})
    wait_until(lambda: service.status(task_id).is_done, seconds=SECONDS)
    failure = service.status(task_id).failure
    assert failure is not None
    assert failure.code == "unsupported_version"
    assert "upgrade the workers" in failure.message
    with pytest.raises(Exception, match="upgrade the workers"):
        AsyncResult(task_id, app=app).get(timeout=SECONDS)
    assert raw.zcard(NAMES.newer(f"99:{QUEUE}")) == 0


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"BM is plain text", "not_an_image"),
        (b"GIF89a" + bytes(40), "not_an_image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "not_an_image"),
        ("truncated", "image_truncated"),
    ],
)
def test_bad_picture_ends_as_a_failure_with_its_code(
    service: Client, pictures: Path, content: bytes | str, code: str
) -> None:
    if isinstance(content, str):
        content = (pictures / "shelf_after.png").read_bytes()[:-4000]
    status = service.ocr(content).wait(SECONDS)
    assert status.failure is not None
    assert status.failure.code == code


def _celery_message(body: str, **changes: Any) -> dict[str, Any]:
    message: dict[str, Any] = {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": "visionq.run", "id": str(uuid.uuid4())},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
        },
    }
    return message | changes


UNREADABLE: dict[str, str] = {
    "empty": "",
    "no JSON": "hello",
    "half a JSON object": '{"body": "',
    "a JSON array": "[1, 2]",
    "a JSON number": "7",
    "null": "null",
    "no properties": json.dumps({"body": "e30="}),
    "no headers": json.dumps(_celery_message("W1tdLHt9LHt9XQ==", headers={})),
    "id is a number": json.dumps(
        _celery_message("W1tdLHt9LHt9XQ==", headers={"task": "visionq.run", "id": 7})
    ),
    "task of somebody else": json.dumps(
        _celery_message("W1tdLHt9LHt9XQ==", headers={"task": "their.task", "id": "x"})
    ),
    "not UTF-8": "\udcff\udcfe",
}
"""No sender can be told of them: they have no id, or none that a key may be made of."""


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_message_is_kept_in_the_dead_list(
    service: Client, urls: LocalUrls, pictures: Path, name: str
) -> None:
    raw = redis.Redis.from_url(urls.broker_url)
    element = UNREADABLE[name].encode("utf-8", "surrogateescape")
    before = raw.hlen(NAMES.dead())
    raw.lpush(QUEUE, element)
    wait_until(lambda: raw.hlen(NAMES.dead()) == before + 1, seconds=SECONDS)
    (newest,) = raw.zrange(NAMES.dead_index(), -1, -1)
    assert isinstance(newest, bytes)
    described, message = raw.hget(NAMES.dead(), newest), raw.hget(NAMES.dead_messages(), newest)
    raw.close()
    entry = json.loads(bytes_to_str(described))
    assert entry["queue"] == QUEUE
    assert entry["reason"]
    assert message == element
    answered = service.ask(pictures / "shelf_after.png", "Still there?", max_new_tokens=1)
    assert answered.wait(SECONDS).state is State.SUCCESS


MALFORMED: dict[str, dict[str, Any]] = {
    "no delivery tag": _celery_message("e30=", properties={"body_encoding": "base64"}),
    "body is no base64": _celery_message("%%%"),
    "body is no JSON": _celery_message("aGVsbG8="),
    "arguments are no list": _celery_message("W3t9LHt9LHt9XQ=="),
    "keyword arguments are no object": _celery_message("W1tdLFtdLHt9XQ=="),
    "embedded is no object": _celery_message("W1tdLHt9LFsieCJdXQ=="),
    "properties are a list": _celery_message("e30=", properties=[]),
    "root id is a list": _celery_message(
        "W1tdLHt9LHt9XQ==", headers={"task": "visionq.run", "id": str(uuid.uuid4()), "root_id": []}
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_message_of_a_task_ends_it_as_a_failure(
    service: Client, app: Celery, raw: redis.Redis, name: str
) -> None:
    task_id = MALFORMED[name]["headers"]["id"]
    raw.lpush(QUEUE, json.dumps(MALFORMED[name]))
    wait_until(app.AsyncResult(task_id).ready, seconds=SECONDS)
    failure = service.status(task_id).failure
    assert failure is not None
    assert failure.code == "invalid_task"
