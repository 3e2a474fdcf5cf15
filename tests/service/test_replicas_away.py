"""A worker process while no replica confirms: it starts, works, keeps its messages, and can end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from tests.faults.replicated import Replicated
from tests.support.addresses import store_address
from tests.support.waiting import wait_until
from tests.support.workers import environment, running_worker
from tests.worker.picture_bytes import DOT
from visionq import Client, State
from visionq.local import LocalUrls
from visionq.names import Names

SECONDS = 60.0
NAMES = Names("away")
SETTINGS = {
    "VISIONQ_BROKER__REPLICAS_TO_CONFIRM": "1",
    "VISIONQ_BROKER__TIMEOUT_SECONDS": "0.8",
    "VISIONQ_WORKER__GRACE_SECONDS": "1",
    "VISIONQ_WORKER__CONCURRENCY": "2",
}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Replicated]:
    with Replicated(tmp_path / "pair") as running:
        yield running


def test_worker_keeps_messages_of_ended_tasks_and_hands_them_on_at_its_end(
    pair: Replicated, urls: LocalUrls, tmp_path: Path
) -> None:
    ours = replace(urls, broker_url=pair.url)
    env = environment(ours, NAMES.namespace, **SETTINGS)
    with (
        Client(pair.url, store_address(urls), namespace=NAMES.namespace) as careless,
        redis.Redis.from_url(pair.url, decode_responses=True) as raw,
    ):
        tasks = [careless.ask(DOT, "What is this?", max_new_tokens=3) for _ in range(2)]
        pair.stop_replica()
        log = tmp_path / "first.log"
        with running_worker(env, log) as process:
            for task in tasks:
                assert task.result(SECONDS).text is not None
            assert raw.hlen(NAMES.unacked()) == len(tasks)
            assert not raw.exists(*(NAMES.celery_result(task.id) for task in tasks))
            wait_until(lambda: "keep their messages" in log.read_text(), what="the log")
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0
        text = log.read_text()
        assert "broker.replicas: 0 of 1 replicas" in text
        assert "no task can be accepted, and none ends" in text
        assert text.count("keep their messages") == 1
        assert raw.llen(NAMES.queue("interactive")) == len(tasks), "for the next worker"
        pair.start_replica()
        with running_worker(env, tmp_path / "second.log"):
            wait_until(
                lambda: raw.exists(*(NAMES.celery_result(task.id) for task in tasks)) == len(tasks),
                seconds=SECONDS,
                what="Celery's results",
            )
            wait_until(lambda: not raw.hlen(NAMES.unacked()), what="the acks")
        statuses = careless.status_many([task.id for task in tasks])
        assert [(each.state, each.attempt) for each in statuses] == [(State.SUCCESS, 1)] * 2
