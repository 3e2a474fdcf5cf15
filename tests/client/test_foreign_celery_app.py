"""Somebody else's Celery app on the same Redis: its tools work with our ids."""

import base64
import json
from collections.abc import Iterator

import pytest
from celery import Celery
from celery.result import AsyncResult

from tests.client.hand_worker import HandWorker
from visionq import Client
from visionq.local import LocalUrls


@pytest.fixture
def other(urls: LocalUrls) -> Iterator[Celery]:
    app = Celery("other", broker=urls.broker_url, backend=urls.broker_url, set_as_current=False)
    yield app
    app.backend.client.close()
    app.close()


def test_an_async_result_of_a_submitted_id_is_pending_without_an_error(
    client: Client, key: str, other: Celery
) -> None:
    handle = client.ocr(key)
    result = other.AsyncResult(handle.id)
    assert (result.state, result.ready(), result.successful()) == ("PENDING", False, False)
    assert AsyncResult(handle.id, app=other).state == "PENDING"


def test_a_foreign_worker_finds_the_message_it_would_have_sent_itself(
    client: Client, key: str, other: Celery, worker: HandWorker
) -> None:
    """`send_task` with the same Task: equal but for the id and who sent it."""
    handle = client.ocr(key)
    [ours] = worker.messages()
    _args, kwargs, _embedded = json.loads(base64.b64decode(ours["body"]))
    other.send_task("visionq.run", kwargs=kwargs, queue=worker.names.queue("bulk"))
    [theirs] = worker.messages("bulk")
    # ignore_result: False and None are the same to a worker.
    changing = {"id", "root_id", "origin", "argsrepr", "kwargsrepr", "ignore_result"}
    assert {name: value for name, value in ours["headers"].items() if name not in changing} == {
        name: value for name, value in theirs["headers"].items() if name not in changing
    }
    assert ours["headers"]["id"] == handle.id
    assert (ours["content-type"], ours["content-encoding"]) == (
        theirs["content-type"],
        theirs["content-encoding"],
    )
    assert set(ours["properties"]) >= {"correlation_id", "delivery_tag", "body_encoding"}
