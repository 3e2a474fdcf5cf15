"""A queue that is full refuses at submit, says when to come back, and keeps what it has taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from tests.client.hand_worker import HandWorker
from visionq import Client, QueueFull, QueueLimits, State, StoreAddress, Submission
from visionq.local import LocalUrls
from visionq.names import Names

ClientWith = Callable[[QueueLimits], Client]


@pytest.fixture
def client_with(urls: LocalUrls, address: StoreAddress, namespace: str) -> Iterator[ClientWith]:
    made: list[Client] = []

    def make(limits: QueueLimits) -> Client:
        made.append(Client(urls.broker_url, address, namespace=namespace, limits=limits))
        return made[-1]

    yield make
    for client in made:
        client.close()


def test_task_too_many_is_refused_and_leaves_nothing(
    client_with: ClientWith, key: str, raw: redis.Redis, names: Names
) -> None:
    client = client_with(QueueLimits(max_waiting=2))
    for _ in range(2):
        client.ocr(key)
    with pytest.raises(QueueFull, match="2 tasks of the lane wait already; at most 2 may") as told:
        client.ocr(key)
    assert 1 <= told.value.retry_after_seconds <= 60
    assert raw.llen(names.queue("interactive")) == 2
    assert raw.zcard(names.open()) == 2


def test_lanes_fill_up_each_for_itself(client_with: ClientWith, key: str) -> None:
    client = client_with(QueueLimits(max_waiting=1))
    client.ocr(key)
    client.ocr(key, lane="bulk")
    with pytest.raises(QueueFull):
        client.ocr(key, lane="bulk")


def test_one_tenant_does_not_fill_the_queue_for_the_others(
    client_with: ClientWith, key: str
) -> None:
    client = client_with(QueueLimits(max_waiting_per_tenant=1))
    client.ocr(key, tenant="greedy")
    with pytest.raises(QueueFull, match="1 tasks of the tenant wait already"):
        client.ocr(key, tenant="greedy")
    assert client.ocr(key, tenant="modest").status().state is State.PENDING


def test_place_is_free_again_when_a_task_is_started(
    client_with: ClientWith, key: str, worker: HandWorker
) -> None:
    client = client_with(QueueLimits(max_waiting=1, max_waiting_per_tenant=1))
    for _ in range(3):
        handle = client.ocr(key)
        worker.start(handle.id)
        assert handle.status().state is State.STARTED


def test_place_is_free_again_when_a_task_is_cancelled(client_with: ClientWith, key: str) -> None:
    client = client_with(QueueLimits(max_waiting=1, max_waiting_per_tenant=1))
    for lane in ("interactive", "bulk"):
        assert client.ocr(key, lane=lane).cancel() is State.REVOKED
        assert client.ocr(key, lane=lane).status().state is State.PENDING


def test_task_that_was_accepted_before_is_no_new_one(client_with: ClientWith, key: str) -> None:
    client = client_with(QueueLimits(max_waiting=1))
    first = client.ocr(key, idempotency_key="same")
    assert client.ocr(key, idempotency_key="same").id == first.id


def test_of_many_all_are_accepted_or_none(
    client_with: ClientWith, key: str, raw: redis.Redis, names: Names
) -> None:
    client = client_with(QueueLimits(max_waiting=3))
    earlier = client.ocr(key)
    with pytest.raises(QueueFull):
        client.submit_many([Submission("ocr", key) for _ in range(3)])
    assert raw.llen(names.queue("interactive")) == 1
    assert raw.zrange(names.open(), 0, -1) == [earlier.id]
    assert len(list(raw.scan_iter(match=names.record("*")))) == 1
    assert len(client.submit_many([Submission("ocr", key) for _ in range(2)])) == 2
