"""A key's task that has ended without an answer is tried again; the key then means the new one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.client.hand_worker import HandWorker
from visionq import (
    Client,
    IdempotencyConflict,
    QueueFull,
    QueueLimits,
    State,
    StoreAddress,
    Submission,
    TaskHandle,
)
from visionq.dead import DeadLetters, Outcome
from visionq.local import LocalUrls

ENDS = [State.FAILURE, State.REVOKED, State.EXPIRED]


def order(client: Client, key: str, **options: Any) -> TaskHandle:
    return client.ocr(key, "Title?", idempotency_key="order-17", **options)


@pytest.mark.parametrize("end", ENDS)
def test_after_an_end_without_an_answer_a_new_task_follows(
    client: Client, key: str, worker: HandWorker, end: State
) -> None:
    first = order(client, key)
    worker.end(first.id, end)
    second = order(client, key, labels={"try": "2"})
    assert second.id != first.id
    status = second.status()
    assert (status.state, status.retry_of) == (State.PENDING, first.id)
    assert (first.status().state, first.status().retry_of) == (end, None)
    assert worker.message_ids() == [first.id, second.id]
    assert worker.task(second.id).labels == {"try": "2"}
    assert worker.task(second.id).id == second.id


def test_the_key_means_the_newest_task(client: Client, key: str, worker: HandWorker) -> None:
    handles = [order(client, key)]
    for _ in range(3):
        worker.end(handles[-1].id, State.FAILURE)
        handles.append(order(client, key))
        assert order(client, key).id == handles[-1].id
    assert len({handle.id for handle in handles}) == 4
    assert [one.status().retry_of for one in handles[1:]] == [one.id for one in handles[:-1]]
    assert worker.message_ids() == [handle.id for handle in handles]
    worker.succeed(handles[-1].id)
    assert order(client, key).result(0).task_id == handles[-1].id


def test_a_task_that_was_cancelled_while_it_waits_is_followed(client: Client, key: str) -> None:
    first = order(client, key)
    assert first.cancel() is State.REVOKED
    assert order(client, key).status().retry_of == first.id


def test_a_task_that_runs_or_waits_for_a_retry_is_not_followed(
    client: Client, key: str, worker: HandWorker
) -> None:
    first = order(client, key)
    attempt = worker.start(first.id)
    assert order(client, key).id == first.id
    first.cancel()  # asked for, not yet done
    assert order(client, key).id == first.id
    assert worker.records.move(first.id, State.RETRY, fence=attempt.fence)
    assert order(client, key).id == first.id


def test_other_content_is_a_conflict_with_the_newest(
    client: Client, key: str, worker: HandWorker
) -> None:
    worker.end(order(client, key).id, State.FAILURE)
    second = order(client, key)
    with pytest.raises(IdempotencyConflict) as caught:
        client.ocr(key, "Author?", idempotency_key="order-17")
    assert caught.value.task_id == second.id


def test_producers_that_race_make_one_retry(client: Client, key: str, worker: HandWorker) -> None:
    first = order(client, key)
    for number in range(5):
        newest = order(client, key)
        worker.end(newest.id, State.FAILURE)
        with ThreadPoolExecutor(8) as threads:
            futures = [threads.submit(order, client, key) for _ in range(24)]
            ids = {future.result().id for future in futures}
        assert len(ids) == 1, number
        assert order(client, key).status().retry_of == newest.id
    retries = [one for one in client.recent() if one.retry_of is not None]
    assert len(retries) == 5
    assert first.status().state is State.FAILURE


def test_a_retry_whose_message_was_lost_is_made_good_by_the_next_submit(
    client: Client, key: str, worker: HandWorker
) -> None:
    first = order(client, key)
    worker.end(first.id, State.FAILURE)
    second = order(client, key)
    worker.raw.delete(worker.names.queue("interactive"))
    worker.raw.hdel(worker.names.record(second.id), "sent")
    assert order(client, key, lane="bulk", labels={"by": "another"}).id == second.id
    assert worker.message_ids() == [second.id]
    assert worker.messages("bulk") == []


def test_a_lost_message_of_a_newer_client_s_task_is_left_to_the_workers(
    client: Client, key: str, worker: HandWorker
) -> None:
    first = order(client, key)
    worker.raw.delete(worker.names.queue("interactive"))
    worker.raw.hdel(worker.names.record(first.id), "sent")
    worker.raw.hset(worker.names.record(first.id), "task", '{"version": 2, "mood": "cheerful"}')
    assert order(client, key).id == first.id
    again = Submission("ocr", key, "Title?", {"idempotency_key": "order-17"})
    assert [handle.id for handle in client.submit_many([again])] == [first.id]
    assert worker.messages() == []


def test_in_a_bulk_ended_tasks_are_followed_and_a_key_twice_is_one_task(
    client: Client, key: str, worker: HandWorker
) -> None:
    first = order(client, key)
    worker.end(first.id, State.FAILURE)
    again = Submission("ocr", key, "Title?", {"idempotency_key": "order-17"})
    new = Submission("ocr", key, options={"idempotency_key": "order-18"})
    one, two, three = client.submit_many([again, new, again])
    assert one.id == three.id != first.id
    assert one.status().retry_of == first.id
    assert sorted(worker.message_ids()) == sorted([first.id, one.id, two.id])
    assert order(client, key).id == one.id


@pytest.mark.parametrize("num_ended", [1, 2, 3])
def test_a_bulk_that_is_refused_leaves_the_key_as_it_was(
    urls: LocalUrls,
    address: StoreAddress,
    namespace: str,
    key: str,
    worker: HandWorker,
    num_ended: int,
) -> None:
    limits = QueueLimits(max_waiting=2)
    again = Submission("ocr", key, "Title?", {"idempotency_key": "order-17"})
    with Client(urls.broker_url, address, namespace=namespace, limits=limits) as client:
        for _ in range(num_ended):
            newest = order(client, key)
            worker.end(newest.id, State.FAILURE)
        before = _records(worker)
        with pytest.raises(QueueFull):
            client.submit_many([again, *[Submission("ocr", key)] * 2])
        assert _records(worker) == before
        assert order(client, key).status().retry_of == newest.id


def _records(worker: HandWorker) -> dict[str, Any]:
    names = [name for name in worker.keys() if ":task:" in name]  # noqa: SIM118
    return {name: worker.raw.hgetall(name) for name in names}


def test_a_retry_counts_for_a_full_queue(
    urls: LocalUrls, address: StoreAddress, namespace: str, key: str, worker: HandWorker
) -> None:
    limits = QueueLimits(max_waiting=1)
    with Client(urls.broker_url, address, namespace=namespace, limits=limits) as client:
        first = order(client, key)
        worker.end(first.id, State.FAILURE)
        client.ocr(key)
        with pytest.raises(QueueFull):
            order(client, key)
        assert len(client.recent()) == 2


def test_a_delayed_retry_sends_no_message(client: Client, key: str, worker: HandWorker) -> None:
    first = order(client, key)
    worker.end(first.id, State.FAILURE)
    second = order(client, key, start_in_seconds=60)
    assert worker.message_ids() == [first.id]
    assert order(client, key).id == second.id
    assert worker.message_ids() == [first.id]


def test_the_key_outlasts_the_retry_and_is_free_after_it(
    client: Client, key: str, worker: HandWorker
) -> None:
    first = order(client, key)
    worker.end(first.id, State.FAILURE)
    second = order(client, key)
    ttls: list[Any] = [worker.raw.ttl(worker.names.record(one.id)) for one in (first, second)]
    assert ttls[0] > ttls[1] + 3600
    worker.raw.delete(worker.names.record(second.id))  # its time is up
    third = client.ocr(key, "Author?", idempotency_key="order-17")
    assert third.status().state is State.PENDING
    assert third.id not in (first.id, second.id)
    with pytest.raises(IdempotencyConflict):
        order(client, key)


def test_a_dead_letter_of_a_task_that_was_followed_is_not_replayed(
    client: Client, key: str, worker: HandWorker, urls: LocalUrls
) -> None:
    """Else one key would have two tasks that run."""
    first = order(client, key)
    message = str(worker.raw.rpop(worker.names.queue("interactive")))
    queue = worker.names.queue("interactive")
    entry = f'{{"id": "{first.id}", "at": 1.0, "reason": "lost", "queue": "{queue}"}}'
    for name, value in (("dead", entry), ("dead-messages", message)):
        worker.raw.hset(f"{worker.names.namespace}:{name}", first.id, value)
        worker.raw.expire(f"{worker.names.namespace}:{name}", 60)
    worker.raw.hset(worker.names.record(first.id), "dead", "lost")
    worker.end(first.id, State.FAILURE)
    second = order(client, key)
    letters = DeadLetters(worker.records._redis, worker.names, ttl_seconds=600)
    replayed = letters.replay([first.id])[0]
    assert replayed.outcome is Outcome.FOLLOWED
    assert replayed.is_refused
    assert "submitted again" in replayed.message
    assert first.status().state is State.FAILURE
    assert worker.message_ids() == [second.id]
