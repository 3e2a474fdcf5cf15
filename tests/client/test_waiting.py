"""Waiting: it returns when the task ends, says why when it cannot, and polls nobody."""

import gc
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import redis
from pydantic import BaseModel

from tests.client.hand_worker import HandWorker
from tests.support.waiting import wait_until
from visionq import (
    Client,
    ClientClosed,
    ResultGone,
    ResultUnreadable,
    State,
    StorageError,
    StoreAddress,
    TaskExpired,
    TaskFailed,
    TaskHandle,
    TaskNotDone,
    TaskRevoked,
    TaskUnknown,
    WaitTimeout,
)
from visionq.local import LocalUrls
from visionq.names import result_key

BOUND_SECONDS = 20.0


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(60) as pool:
        yield pool


def num_subscribed(raw: redis.Redis, worker: HandWorker, task_id: str) -> int:
    [(_, number)] = raw.pubsub_numsub(worker.names.events(task_id))
    return int(number)


def channels(raw: redis.Redis, worker: HandWorker) -> list[Any]:
    return list(raw.pubsub_channels(f"{worker.names.namespace}:*"))


def waiting_in(threads: ThreadPoolExecutor, handle: TaskHandle, worker: HandWorker) -> Future[Any]:
    """A thread that waits for the task, and has subscribed."""
    future = threads.submit(handle.wait, BOUND_SECONDS)
    wait_until(
        lambda: num_subscribed(worker.raw, worker, handle.id) or future.done(),
        what="the waiter to subscribe",
    )
    assert not future.done(), future.exception()
    return future


@pytest.mark.parametrize("final", [State.SUCCESS, State.FAILURE, State.REVOKED, State.EXPIRED])
def test_waiting_ends_when_the_task_does(
    client: Client, key: str, worker: HandWorker, threads: ThreadPoolExecutor, final: State
) -> None:
    handle = client.ocr(key)
    future = waiting_in(threads, handle, worker)
    attempt = worker.start(handle.id)
    worker.records.progress(handle.id, fence=attempt.fence, generated_tokens=3)
    assert not future.done()
    worker.records.move(handle.id, final, fence=attempt.fence)
    assert future.result(BOUND_SECONDS).state is final


def test_waiting_ends_when_somebody_cancels_the_waiting_task(
    client: Client, key: str, worker: HandWorker, threads: ThreadPoolExecutor
) -> None:
    handle = client.ocr(key)
    future = waiting_in(threads, handle, worker)
    client.cancel(handle.id)
    assert future.result(BOUND_SECONDS).state is State.REVOKED


def test_a_task_that_is_done_needs_no_waiting(client: Client, key: str, worker: HandWorker) -> None:
    handle = client.ocr(key)
    worker.end(handle.id, State.SUCCESS)
    assert handle.wait(BOUND_SECONDS).state is State.SUCCESS
    assert handle.wait(0).state is State.SUCCESS


def test_a_second_wait_for_the_same_task_returns_too(
    client: Client, key: str, worker: HandWorker, threads: ThreadPoolExecutor
) -> None:
    handle = client.ocr(key)
    first = waiting_in(threads, handle, worker)
    with pytest.raises(WaitTimeout):
        handle.wait(0.05)
    assert num_subscribed(worker.raw, worker, handle.id) == 1, "the other waiter was cut off"
    worker.end(handle.id, State.SUCCESS)
    assert first.result(BOUND_SECONDS).state is State.SUCCESS
    assert handle.wait(BOUND_SECONDS).state is State.SUCCESS


@pytest.mark.parametrize("timeout", [0, 0.001, 0.2])
def test_waiting_ends_when_the_time_is_up_and_says_where_the_task_is(
    client: Client, key: str, timeout: float
) -> None:
    handle = client.ocr(key)
    with pytest.raises(WaitTimeout, match=f"task {handle.id} is PENDING after {timeout} s"):
        handle.wait(timeout)
    assert handle.status().state is State.PENDING


def test_nobody_waits_for_a_task_that_was_never_submitted(client: Client) -> None:
    never = str(uuid.uuid4())
    for ask in (client.wait, client.result):
        with pytest.raises(TaskUnknown, match=f"no task {never}"):
            ask(never)


def test_waiting_asks_redis_no_more_often_the_longer_it_lasts(
    own_client: Client, own_raw: redis.Redis
) -> None:
    """The wait lasts thrice as long as a reply may take; reading every 0.5 s would be 3 reads."""
    handle = own_client.ocr("inputs/a")
    with pytest.raises(WaitTimeout):
        handle.wait(0.05)
    own_raw.config_resetstat()
    with pytest.raises(WaitTimeout):
        handle.wait(1.6)
    stats: Any = own_raw.info("commandstats")
    assert stats["cmdstat_hgetall"]["calls"] <= 2
    assert stats["cmdstat_subscribe"]["calls"] == 1


def test_50_threads_wait_over_one_subscription_and_leave_none(
    own_client: Client,
    own_raw: redis.Redis,
    own_worker: HandWorker,
    threads: ThreadPoolExecutor,
) -> None:
    handles = [own_client.ocr("inputs/a") for _ in range(50)]
    futures = [threads.submit(handle.wait, BOUND_SECONDS) for handle in handles]
    wait_until(lambda: len(channels(own_raw, own_worker)) == 50, what="50 subscriptions")
    assert len(own_raw.client_list(_type="pubsub")) == 1
    # Beside it: the test's; the client's for records, for publishing (two), for reading.
    assert len(own_raw.client_list(_type="normal")) <= 5
    for handle in handles:
        own_worker.end(handle.id, State.SUCCESS)
    assert {future.result(BOUND_SECONDS).state for future in futures} == {State.SUCCESS}
    wait_until(lambda: channels(own_raw, own_worker) == [], what="no subscription")


def test_50_threads_wait_for_the_same_task_over_one_channel(
    own_client: Client,
    own_raw: redis.Redis,
    own_worker: HandWorker,
    threads: ThreadPoolExecutor,
) -> None:
    handle = own_client.ocr("inputs/a")
    futures = [threads.submit(handle.wait, BOUND_SECONDS) for _ in range(50)]
    wait_until(lambda: num_subscribed(own_raw, own_worker, handle.id) == 1)
    own_worker.end(handle.id, State.SUCCESS)
    assert {future.result(BOUND_SECONDS).state for future in futures} == {State.SUCCESS}
    wait_until(lambda: channels(own_raw, own_worker) == [], what="no subscription")


def test_2000_submits_leave_no_subscription(
    own_client: Client, own_raw: redis.Redis, own_worker: HandWorker
) -> None:
    for _ in range(2000):
        own_client.ocr("inputs/a")
    assert own_raw.pubsub_channels() == []
    assert own_raw.client_list(_type="pubsub") == []
    # The test's; the client's for records and for publishing (kombu takes two).
    assert len(own_raw.client_list()) <= 4


def test_a_waiter_that_gives_up_leaves_no_subscription(
    client: Client, key: str, raw: redis.Redis, worker: HandWorker
) -> None:
    handle = client.ocr(key)
    with pytest.raises(WaitTimeout):
        handle.wait(0.2)
    wait_until(lambda: channels(raw, worker) == [], what="no subscription")


# Results.


def test_the_answer_is_what_lies_in_the_store(client: Client, key: str, worker: HandWorker) -> None:
    handle = client.ocr(key)
    worker.succeed(handle.id, "the title is Ütopia")
    result = handle.result(BOUND_SECONDS)
    assert (result.task_id, result.state) == (handle.id, State.SUCCESS)
    assert result.text == "the title is Ütopia"


def test_the_answer_is_waited_for(
    client: Client, key: str, worker: HandWorker, threads: ThreadPoolExecutor
) -> None:
    handle = client.ocr(key)
    future = threads.submit(handle.result, BOUND_SECONDS)
    wait_until(lambda: num_subscribed(worker.raw, worker, handle.id))
    worker.succeed(handle.id, "at last")
    assert future.result(BOUND_SECONDS).text == "at last"


def test_a_failure_is_raised_with_its_code(client: Client, key: str, worker: HandWorker) -> None:
    handle = client.ocr(key)
    worker.end(
        handle.id, State.FAILURE, code="not_an_image", message="input 1 is no image", retryable="1"
    )
    with pytest.raises(TaskFailed, match="input 1 is no image") as caught:
        handle.result(BOUND_SECONDS)
    assert (caught.value.code, caught.value.retryable) == ("not_an_image", True)


@pytest.mark.parametrize(
    ("final", "error"), [(State.REVOKED, TaskRevoked), (State.EXPIRED, TaskExpired)]
)
def test_a_task_that_was_cancelled_or_came_too_late_has_no_answer(
    client: Client, key: str, worker: HandWorker, final: State, error: type[TaskNotDone]
) -> None:
    handle = client.ocr(key)
    worker.end(handle.id, final)
    with pytest.raises(error, match=handle.id):
        handle.result(BOUND_SECONDS)


def test_an_answer_that_is_gone_from_the_store_is_said_to_be_gone(
    client: Client, key: str, worker: HandWorker
) -> None:
    handle = client.ocr(key)
    worker.succeed(handle.id)
    worker.store.delete(handle.result_key)
    with pytest.raises(ResultGone, match=handle.result_key) as caught:
        handle.result(BOUND_SECONDS)
    assert not isinstance(caught.value, StorageError)
    with pytest.raises(ResultGone):
        client.parsed(handle.id, BaseModel, 0)


def test_a_failure_is_reported_though_its_object_is_gone(
    client: Client, key: str, worker: HandWorker
) -> None:
    handle = client.ocr(key)
    worker.end(handle.id, State.FAILURE, code="not_an_image", message="it is none")
    with pytest.raises(TaskFailed, match="it is none"):
        handle.result(BOUND_SECONDS)


def test_a_store_or_a_bucket_that_is_away_does_not_make_an_answer_gone(
    client: Client,
    key: str,
    worker: HandWorker,
    urls: LocalUrls,
    address: StoreAddress,
    closed_port: int,
) -> None:
    handle = client.ocr(key)
    worker.succeed(handle.id)
    for elsewhere in (
        replace(address, endpoint_url=f"http://127.0.0.1:{closed_port}"),
        replace(address, bucket="nobody-made-this"),
        replace(address, secret_key="wrong"),
    ):
        with (
            Client(urls.broker_url, elsewhere, namespace=worker.names.namespace) as other,
            pytest.raises(StorageError),
        ):
            other.result(handle.id, 0)
    assert handle.result(0).text == "a hand-made answer"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'{"task_id": "cut o', "Invalid JSON"),
        (b"", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[]", "Result"),
        (b'{"version": 2, "outcome": {"text": "in another place"}}', "version 2"),
        (b'{"version": 2, "task_id": 5}', "version 2"),
    ],
)
def test_an_answer_that_cannot_be_read_is_a_typed_error(
    client: Client, key: str, worker: HandWorker, content: bytes, named: str
) -> None:
    handle = client.ocr(key)
    worker.store.put(result_key(handle.id), content)
    worker.end(handle.id, State.SUCCESS)
    with pytest.raises(ResultUnreadable, match=named) as caught:
        handle.result(BOUND_SECONDS)
    assert handle.result_key in str(caught.value)


# The end of the client.


@pytest.fixture
def leaves_no_thread() -> Iterator[None]:
    yield
    wait_until(
        lambda: not [item for item in threading.enumerate() if item.name == "visionq-watch"],
        what="the client's thread to end",
    )


@pytest.mark.usefixtures("leaves_no_thread")
def test_closing_the_client_ends_what_still_waits(
    client: Client, key: str, worker: HandWorker, threads: ThreadPoolExecutor
) -> None:
    future = waiting_in(threads, client.ocr(key), worker)
    client.close()
    with pytest.raises(ClientClosed, match="closed"):
        future.result(BOUND_SECONDS)


@pytest.mark.usefixtures("leaves_no_thread")
def test_a_client_may_be_closed_twice_and_without_having_waited(client: Client) -> None:
    client.close()
    client.close()


@pytest.mark.usefixtures("leaves_no_thread")
def test_closed_clients_leave_no_connection_open(
    own_raw: redis.Redis, own_client: Client, own_worker: HandWorker
) -> None:
    done = own_client.ocr("inputs/a").id
    waiting = own_client.ocr("inputs/a").id
    own_worker.end(done, State.SUCCESS)
    own_client.close()
    before = len(own_raw.client_list())
    for _ in range(20):
        with Client(own_client._parts.broker, own_client._parts.store) as short_lived:
            short_lived.ocr("inputs/a")
            assert short_lived.wait(done, 5).state is State.SUCCESS
            with pytest.raises(WaitTimeout):
                short_lived.wait(waiting, 0.01)
    gc.collect()
    wait_until(lambda: len(own_raw.client_list()) <= before, what="the connections to close")


def test_a_keyboard_interrupt_while_waiting_stops_the_wait(
    client: Client, key: str, worker: HandWorker, raw: redis.Redis
) -> None:
    """As Ctrl-C does: the main thread leaves `wait`, and nothing of the wait is left behind."""
    handle = client.ocr(key)

    def interrupt() -> None:
        wait_until(lambda: num_subscribed(raw, worker, handle.id))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        handle.wait(BOUND_SECONDS)
    assert time.monotonic() - began < BOUND_SECONDS / 2
    interrupter.join()
    wait_until(lambda: channels(raw, worker) == [], what="no subscription")


def test_waiting_takes_no_time_worth_mentioning_when_the_end_is_announced(
    client: Client, key: str, worker: HandWorker, threads: ThreadPoolExecutor
) -> None:
    """Far below the pauses of any poll: the bell, not the clock, wakes the waiter."""

    def seconds_of_one() -> float:
        handle = client.ocr(key)
        future = waiting_in(threads, handle, worker)
        attempt = worker.start(handle.id)
        began = time.monotonic()
        worker.records.move(handle.id, State.SUCCESS, fence=attempt.fence)
        future.result(BOUND_SECONDS)
        return time.monotonic() - began

    assert min(seconds_of_one() for _ in range(5)) < 0.25
