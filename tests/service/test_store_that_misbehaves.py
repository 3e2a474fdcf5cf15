"""A whole worker behind a store that misbehaves."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from tests.faults.gate import Gate
from tests.faults.store_faults import StoreFault
from tests.support.foreign import foreign_app
from tests.support.waiting import wait_until
from tests.support.workers import environment, running_worker
from visionq.local import LocalUrls
from visionq.names import Names
from visionq.objects import ObjectStore

SECONDS = 60.0


@pytest.fixture
def gate(urls: LocalUrls) -> Iterator[Gate]:
    port = urlsplit(urls.s3_endpoint).port
    assert port is not None
    with Gate(port, seed=1) as gate:
        yield gate


@pytest.fixture
def _worker(urls: LocalUrls, gate: Gate, namespace: str, tmp_path: Path) -> Iterator[None]:
    behind = replace(urls, s3_endpoint=f"http://127.0.0.1:{gate.port}")
    settings = {"VISIONQ_STORAGE__TIMEOUT_SECONDS": "2"}
    with running_worker(environment(behind, namespace, **settings), tmp_path / "log"):
        yield


@pytest.mark.usefixtures("_worker")
def test_who_waits_by_celery_is_told_of_a_task_that_was_done_before_though_the_store_is_away(
    urls: LocalUrls, gate: Gate, namespace: str, raw: redis.Redis, store: ObjectStore
) -> None:
    """The message comes again: the worker that answered may have ended before it told Celery."""
    names, task_id = Names(namespace), str(uuid.uuid4())
    key = store.put_input(b"\x89PNG no image")
    app: Any = foreign_app(urls, namespace)

    def send() -> Any:
        task = {"kind": "ocr", "images": [{"ref": key}]}
        queue = names.queue("interactive")
        return app.send_task("visionq.run", kwargs={"task": task}, task_id=task_id, queue=queue)

    wait_until(send().ready, seconds=SECONDS)
    raw.delete(names.celery_result(task_id))
    gate.misbehave(StoreFault(kind="cut", methods=frozenset({"GET"}), prefix="results/"))
    result = send()
    wait_until(lambda: ("GET", f"results/{task_id}.json") in gate.requests, seconds=SECONDS)
    assert not result.ready()
    gate.passing()
    wait_until(result.ready, seconds=SECONDS)
    assert result.state == "FAILURE"
