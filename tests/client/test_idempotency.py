"""The same idempotency key of the same tenant is the same task, with one message."""

from concurrent.futures import ThreadPoolExecutor

from tests.client.hand_worker import HandWorker
from visionq import Client, ImageRef, State, Submission, Task

# uuid5 of the namespace 6f3c1b0e-6d0a-5c8e-9a55-0e4f7d1c2b3a and tenant, NUL, key
ORDER_17_OF_DEFAULT = "bc4d76aa-49ee-5cce-ae98-c8f6f4772a4f"
ORDER_17_OF_ACME = "b05fae0b-ce10-5b8f-a6af-c8a172c3a7ea"


def test_the_id_follows_from_tenant_and_key_for_ever(client: Client, key: str) -> None:
    assert client.ocr(key, idempotency_key="order-17").id == ORDER_17_OF_DEFAULT
    assert client.ocr(key, idempotency_key="order-17", tenant="acme").id == ORDER_17_OF_ACME


def test_the_same_key_sends_one_message(client: Client, key: str, worker: HandWorker) -> None:
    handles = [client.ocr(key, idempotency_key="order-17") for _ in range(3)]
    assert {handle.id for handle in handles} == {ORDER_17_OF_DEFAULT}
    assert worker.message_ids() == [ORDER_17_OF_DEFAULT]


def test_another_tenant_s_equal_key_is_another_task(
    client: Client, key: str, worker: HandWorker
) -> None:
    client.ocr(key, idempotency_key="order-17")
    client.ocr(key, idempotency_key="order-17", tenant="acme")
    assert worker.message_ids() == [ORDER_17_OF_DEFAULT, ORDER_17_OF_ACME]


def test_without_a_key_equal_submits_are_two_tasks(
    client: Client, key: str, worker: HandWorker
) -> None:
    first, second = client.ocr(key), client.ocr(key)
    assert first.id != second.id
    assert worker.message_ids() == [first.id, second.id]


def test_the_first_submit_decides_how_the_task_is_carried_out(
    client: Client, key: str, worker: HandWorker
) -> None:
    client.ocr(key, idempotency_key="order-17", labels={"try": "1"})
    client.ocr(
        key,
        idempotency_key="order-17",
        lane="bulk",
        labels={"try": "2"},
        expires_in_seconds=60,
        start_in_seconds=30,
    )
    assert worker.task(ORDER_17_OF_DEFAULT).labels == {"try": "1"}
    assert worker.task(ORDER_17_OF_DEFAULT).deadline is None
    assert worker.messages("bulk") == []


def test_a_submit_whose_message_was_lost_is_made_good_by_the_next(
    client: Client, key: str, worker: HandWorker
) -> None:
    task = Task(id=ORDER_17_OF_DEFAULT, kind="ocr", images=(ImageRef(ref=key),))
    worker.records.create(task)
    assert worker.messages() == []
    client.ocr(key, idempotency_key="order-17")
    assert worker.message_ids() == [ORDER_17_OF_DEFAULT]
    client.ocr(key, idempotency_key="order-17")
    assert worker.message_ids() == [ORDER_17_OF_DEFAULT]


def test_a_submit_whose_message_was_lost_is_made_good_by_submit_many(
    client: Client, key: str, worker: HandWorker
) -> None:
    task = Task(id=ORDER_17_OF_DEFAULT, kind="ocr", images=(ImageRef(ref=key),))
    worker.records.create(task)
    again = Submission("ocr", key, options={"idempotency_key": "order-17"})
    assert [handle.id for handle in client.submit_many([again])] == [ORDER_17_OF_DEFAULT]
    client.submit_many([again])
    assert worker.message_ids() == [ORDER_17_OF_DEFAULT]


def test_a_key_already_submitted_is_not_sent_again_by_submit_many(
    client: Client, key: str, worker: HandWorker
) -> None:
    client.ocr(key, idempotency_key="order-17")
    [same, new] = client.submit_many(
        [
            Submission("ocr", key, options={"idempotency_key": "order-17"}),
            Submission("ocr", key, options={"idempotency_key": "order-18"}),
        ]
    )
    assert same.id == ORDER_17_OF_DEFAULT
    assert worker.message_ids() == [ORDER_17_OF_DEFAULT, new.id]


def test_a_key_twice_in_one_submit_many_is_one_message(
    client: Client, key: str, worker: HandWorker
) -> None:
    twice = [Submission("ocr", key, options={"idempotency_key": "order-17"})] * 2
    handles = client.submit_many(twice)
    assert [handle.id for handle in handles] == [ORDER_17_OF_DEFAULT] * 2
    assert worker.message_ids() == [ORDER_17_OF_DEFAULT]


def test_a_key_whose_task_is_done_starts_nothing_new(
    client: Client, key: str, worker: HandWorker
) -> None:
    handle = client.ocr(key, idempotency_key="order-17")
    worker.end(handle.id, State.SUCCESS)
    again = client.ocr(key, idempotency_key="order-17")
    assert again.status().state is State.SUCCESS
    assert worker.message_ids() == [ORDER_17_OF_DEFAULT]


def test_a_key_submitted_from_many_threads_is_one_task(
    client: Client, key: str, worker: HandWorker
) -> None:
    """A message more than one is allowed: two submits may overtake each other's note of sending."""
    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(client.ocr, key, idempotency_key="order-17") for _ in range(40)]
        assert {future.result().id for future in futures} == {ORDER_17_OF_DEFAULT}
    assert 1 <= len(worker.messages()) <= 8
    assert set(worker.message_ids()) == {ORDER_17_OF_DEFAULT}
