"""A task whose record is gone: its result object says what became of it, in all faces alike."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import redis

from tests.client.hand_worker import HandWorker
from tests.support.waiting import wait_until
from visionq import (
    AsyncClient,
    BucketMissing,
    Client,
    Result,
    ResultGone,
    ResultUnreadable,
    State,
    Status,
    StorageDenied,
    StorageUnavailable,
    StoreAddress,
    TaskExpired,
    TaskFailed,
    TaskRevoked,
    TaskUnknown,
    stored_results,
)
from visionq.contract import Failure, Provenance, Usage, dump_result
from visionq.local import LocalUrls
from visionq.names import Names, result_key
from visionq.objects import ObjectStore

BOUND_SECONDS = 20.0
FAILURE = Failure(code="not_an_image", message="it is none")
ENDS: dict[State, type[Exception]] = {
    State.FAILURE: TaskFailed,
    State.REVOKED: TaskRevoked,
    State.EXPIRED: TaskExpired,
}


def result_of(task_id: str, **changes: Any) -> Result:
    given: dict[str, Any] = {"kind": "ocr", "state": State.SUCCESS, "finished_at": 1.5}
    return Result(task_id=task_id, **given | changes)


@pytest.fixture
def put(bucket: ObjectStore) -> Callable[..., Result]:
    """Store a result object under a task's id; there is no record."""

    def store(task_id: str, **changes: Any) -> Result:
        result = result_of(task_id, **changes)
        bucket.put(result_key(task_id), dump_result(result))
        return result

    return store


@pytest.fixture
def num_gets(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each object was asked for. The store behind is the real one."""
    counted: Counter[str] = Counter()
    get = ObjectStore.get

    def counting(store: ObjectStore, key: str, **more: Any) -> bytes:
        counted[key] += 1
        return get(store, key, **more)

    monkeypatch.setattr(ObjectStore, "get", counting)
    return counted


@pytest.fixture
def without_store(
    urls: LocalUrls, address: StoreAddress, namespace: str, closed_port: int
) -> Iterator[Client]:
    """A client whose store is away."""
    away = replace(address, endpoint_url=f"http://127.0.0.1:{closed_port}")
    with Client(urls.broker_url, away, namespace=namespace, store_timeout_seconds=1) as opened:
        yield opened


def asked(client: Client, names: Names, task_id: str) -> list[Status]:
    """The status by every way there is to ask for it."""

    async def by_asyncio() -> list[Status]:
        parts = client._parts
        async with AsyncClient(parts.broker, parts.store, namespace=names.namespace) as other:
            handle = other.task(task_id)
            [many] = await other.status_many([task_id], look_in_store=True)
            waited = await handle.wait(0)
            return [await other.status(task_id), many, await handle.status(), waited]

    handle = client.task(task_id)
    [many] = client.status_many([task_id], look_in_store=True)
    here = [client.status(task_id), many, handle.status(), client.wait(task_id, 0), handle.wait()]
    return here + asyncio.run(by_asyncio())


def answered(client: Client, names: Names, task_id: str) -> list[Result]:
    async def by_asyncio() -> list[Result]:
        parts = client._parts
        async with AsyncClient(parts.broker, parts.store, namespace=names.namespace) as other:
            return [await other.result(task_id, 0), await other.task(task_id).result()]

    return [client.result(task_id), client.task(task_id).result(0), *asyncio.run(by_asyncio())]


def test_an_answered_task_is_known_from_its_object(
    client: Client, names: Names, raw: redis.Redis, put: Callable[..., Result], key: str
) -> None:
    task_id = client.ocr(key).id
    usage = Usage(prompt_tokens=9, image_tokens=4, completion_tokens=7)
    given = {"text": "an answer", "usage": usage, "provenance": Provenance(attempt=2)}
    result = put(task_id, tenant="acme", **given)
    raw.delete(names.record(task_id))
    expected = Status(
        id=task_id,
        state=State.SUCCESS,
        kind="ocr",
        tenant="acme",
        attempt=2,
        generated_tokens=7,
        finished_at=1.5,
        result_key=result_key(task_id),
        source="store",
    )
    assert asked(client, names, task_id) == [expected] * 9
    assert answered(client, names, task_id) == [result] * 4


@pytest.mark.parametrize("state", ENDS)
def test_an_end_without_an_answer_is_known_from_its_object(
    client: Client, names: Names, put: Callable[..., Result], state: State
) -> None:
    task_id = str(uuid.uuid4())
    put(task_id, state=state, failure=FAILURE)
    found = asked(client, names, task_id)
    assert {(one.state, one.failure, one.source) for one in found} == {(state, FAILURE, "store")}
    with pytest.raises(ENDS[state]):
        client.result(task_id)
    with pytest.raises(ENDS[state]):
        asyncio.run(_result(client, names, task_id))


async def _result(client: Client, names: Names, task_id: str) -> Result:
    parts = client._parts
    async with AsyncClient(parts.broker, parts.store, namespace=names.namespace) as other:
        return await other.result(task_id)


def test_without_record_and_object_a_task_is_unknown(client: Client, names: Names) -> None:
    task_id = str(uuid.uuid4())
    assert client.status(task_id) == Status(id=task_id, state=State.UNKNOWN)
    with pytest.raises(TaskUnknown, match=f"no task {task_id}"):
        client.wait(task_id)
    with pytest.raises(TaskUnknown, match=f"no task {task_id}"):
        asyncio.run(_result(client, names, task_id))


def test_a_record_comes_before_the_object(
    client: Client, put: Callable[..., Result], key: str, num_gets: Counter[str]
) -> None:
    """Of an earlier task with the same idempotency key, say."""
    handle = client.ocr(key, idempotency_key="again", tenant="acme")
    put(handle.id)
    status = handle.status()
    assert (status.state, status.source, status.tenant) == (State.PENDING, "record", "acme")
    assert client.status_many([handle.id], look_in_store=True)[0].state is State.PENDING
    assert num_gets.total() == 0


def test_a_record_that_appears_counts_at_once(client: Client, worker: HandWorker, key: str) -> None:
    task_id = client.ocr(key).id
    task = worker.task(task_id)
    worker.raw.delete(worker.names.record(task_id))
    assert client.status(task_id).state is State.UNKNOWN
    worker.records.start(task, owner="hand", max_new_tokens=10)
    assert client.status(task_id).state is State.STARTED


def test_a_record_that_was_seen_ends_the_memory_of_a_miss(
    client: Client, worker: HandWorker, put: Callable[..., Result], key: str
) -> None:
    """Its object may have been stored since then, and its record may go."""
    raw, names = worker.raw, worker.names
    task = worker.task(client.ocr(key).id)
    raw.delete(names.record(task.id))

    async def by_asyncio() -> list[State]:
        parts = client._parts
        async with AsyncClient(parts.broker, parts.store, namespace=names.namespace) as other:
            states = [(await other.status(task.id)).state]
            worker.records.create(task)
            states.append((await other.status(task.id)).state)
            put(task.id)
            raw.delete(names.record(task.id))
            return [*states, (await other.status(task.id)).state]

    def one() -> Status:
        return client.status(task.id)

    def many() -> Status:
        return client.status_many([task.id], look_in_store=True)[0]

    def by(ask: Callable[[], Status]) -> list[State]:
        states = [ask().state]
        worker.records.create(task)
        states.append(ask().state)
        put(task.id)
        raw.delete(names.record(task.id))
        return [*states, ask().state]

    expected = [State.UNKNOWN, State.PENDING, State.SUCCESS]
    assert asyncio.run(by_asyncio()) == expected
    for ask in (one, many):
        worker.store.delete(task.result_key)
        assert by(ask) == expected


def test_a_record_that_cannot_be_read_does_not_hide_the_object(
    client: Client, raw: redis.Redis, names: Names, put: Callable[..., Result], key: str
) -> None:
    task_id = client.ocr(key).id
    raw.hset(names.record(task_id), "state", "")
    assert client.status(task_id).failure is not None
    put(other := client.ocr(key).id, text="an answer")
    raw.hset(names.record(other), "state", "")
    assert {one.state for one in asked(client, names, other)} == {State.SUCCESS}
    assert client.result(other).text == "an answer"


def test_who_waits_while_the_record_goes_is_told_the_end(
    client: Client, worker: HandWorker, key: str
) -> None:
    handle = client.ocr(key)
    channel = worker.names.events(handle.id)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(handle.result, BOUND_SECONDS)
        wait_until(lambda: worker.raw.pubsub_numsub(channel)[0][1], what="a subscription")
        worker.store.put(handle.result_key, dump_result(result_of(handle.id, text="late")))
        worker.raw.delete(worker.names.record(handle.id))
        worker.raw.publish(channel, "SUCCESS")
        assert waiting.result(BOUND_SECONDS).text == "late"


# What it costs.


def test_a_missing_object_is_not_asked_for_again_for_a_while(
    client: Client, monkeypatch: pytest.MonkeyPatch, num_gets: Counter[str]
) -> None:
    task_id = str(uuid.uuid4())
    for _ in range(3):
        assert client.status(task_id).state is State.UNKNOWN
        with pytest.raises(TaskUnknown):
            client.wait(task_id)
        with pytest.raises(TaskUnknown):
            client.result(task_id)
        client.status_many([task_id, task_id], look_in_store=True)
    assert num_gets == {result_key(task_id): 1}
    monkeypatch.setattr(stored_results, "MISS_SECONDS", 0.0)
    client.status(task_id)
    assert num_gets == {result_key(task_id): 2}
    assert stored_results.MAX_MISSES == 10_000


def test_an_object_that_appears_is_found_when_the_miss_is_forgotten(
    client: Client, put: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_results, "MISS_SECONDS", 0.3)
    task_id = str(uuid.uuid4())
    assert client.status(task_id).state is State.UNKNOWN
    put(task_id)
    wait_until(lambda: client.status(task_id).state is State.SUCCESS)


def test_only_the_latest_misses_are_remembered(
    client: Client, monkeypatch: pytest.MonkeyPatch, num_gets: Counter[str]
) -> None:
    monkeypatch.setattr(stored_results, "MAX_MISSES", 3)
    ids = [str(uuid.uuid4()) for _ in range(4)]
    for task_id in [*ids, *ids[1:], ids[0]]:
        client.status(task_id)
    assert num_gets == {result_key(task_id): 1 for task_id in ids} | {result_key(ids[0]): 2}


def test_a_result_of_a_task_without_a_record_is_one_request(
    client: Client, put: Callable[..., Result], num_gets: Counter[str]
) -> None:
    put(task_id := str(uuid.uuid4()))
    client.result(task_id)
    assert num_gets == {result_key(task_id): 1}


def test_many_statuses_ask_the_store_when_they_are_to(
    client: Client, put: Callable[..., Result], key: str, num_gets: Counter[str]
) -> None:
    waiting, never = client.ocr(key).id, str(uuid.uuid4())
    gone = [str(uuid.uuid4()) for _ in range(2 * stored_results.MAX_AT_ONCE)]
    for task_id in gone:
        put(task_id)
    ids = [gone[0], waiting, *gone, never]
    unasked = client.status_many(ids)
    assert {one.state for one in unasked} == {State.UNKNOWN, State.PENDING}
    assert num_gets.total() == 0
    found = client.status_many(ids, look_in_store=True)
    assert [one.id for one in found] == ids
    assert [one.source for one in found] == ["store", "record", *["store"] * len(gone), None]
    assert num_gets.total() == len(gone) + 1


def test_many_statuses_stay_one_round_trip(
    own_client: Client, num_reads: Callable[[Callable[[], Any]], int]
) -> None:
    ids = [str(uuid.uuid4()) for _ in range(20)]
    own_client.status_many(ids)
    assert num_reads(lambda: own_client.status_many(ids, look_in_store=True)) == 1


def test_a_known_task_asks_the_store_nothing(without_store: Client, key: str) -> None:
    handle = without_store.ocr(key)
    assert handle.status().state is State.PENDING
    assert without_store.status_many([handle.id], look_in_store=True)[0].state is State.PENDING


# What stands in the way.


def test_without_record_and_store_nobody_says_unknown(
    without_store: Client, names: Names, key: str
) -> None:
    task_id, known = str(uuid.uuid4()), without_store.ocr(key).id
    calls: list[Callable[[], Any]] = [
        lambda: without_store.status(task_id),
        lambda: without_store.wait(task_id),
        lambda: without_store.result(task_id),
        lambda: without_store.status_many([known, task_id], look_in_store=True),
        lambda: asyncio.run(_result(without_store, names, task_id)),
    ]
    for call in calls:
        with pytest.raises(StorageUnavailable):
            call()
    for unasked in (
        without_store.status(task_id, look_in_store=False),
        without_store.status_many([task_id])[0],
    ):
        assert unasked.state is State.UNKNOWN


def test_a_store_that_was_away_is_asked_again_at_once(
    urls: LocalUrls,
    address: StoreAddress,
    namespace: str,
    put: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(task_id := str(uuid.uuid4()))
    with Client(urls.broker_url, address, namespace=namespace) as client:
        with monkeypatch.context() as patched:

            def refuse(*_: object, **__: object) -> bytes:
                raise StorageUnavailable

            patched.setattr(ObjectStore, "get", refuse)
            with pytest.raises(StorageUnavailable):
                client.status(task_id)
        assert client.status(task_id).state is State.SUCCESS


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"bucket": "no-such-bucket"}, BucketMissing), ({"secret_key": "wrong"}, StorageDenied)],
)
def test_a_store_that_cannot_be_read_is_named(
    urls: LocalUrls,
    address: StoreAddress,
    namespace: str,
    changes: dict[str, str],
    error: type[Exception],
) -> None:
    store = replace(address, **changes)
    with Client(urls.broker_url, store, namespace=namespace) as client, pytest.raises(error):
        client.status(str(uuid.uuid4()))


@pytest.mark.parametrize(
    "content",
    [
        b"half of a doc",
        dump_result(result_of(str(uuid.uuid4()))),
        b'{"version": 2, "answer": "of a newer contract"}',
    ],
    ids=["damaged", "another task's", "newer"],
)
def test_an_object_that_cannot_be_read_is_said_to_be_so(
    client: Client, bucket: ObjectStore, put: Callable[..., Result], content: bytes
) -> None:
    """It spoils no status of another task."""
    task_id, other = str(uuid.uuid4()), str(uuid.uuid4())
    bucket.put(result_key(task_id), content)
    put(other)
    statuses = client.status_many([task_id, other], look_in_store=True)
    assert [one.state for one in statuses] == [State.UNKNOWN, State.SUCCESS]
    assert client.status(task_id) == statuses[0]
    failure = statuses[0].failure
    assert failure is not None
    assert result_key(task_id) in failure.message
    for ask in (client.wait, client.result):
        with pytest.raises(ResultUnreadable, match=result_key(task_id)):
            ask(task_id)


def test_an_answer_of_another_tenant_s_task_is_not_shown(
    client: Client, worker: HandWorker, put: Callable[..., Result], key: str
) -> None:
    """The record says whose the task is; an object under its id may be somebody else's."""
    mine = client.ocr(key, tenant="acme")
    put(mine.id, text="a secret", tenant="other")
    worker.end(mine.id, State.SUCCESS)
    with pytest.raises(ResultGone, match="another tenant's"):
        mine.result()
    put(mine.id, text="my own", tenant="acme")
    assert mine.result().text == "my own"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_looks_for_itself(client: Client, put: Callable[..., Result]) -> None:
    """Also where another thread held the lock of the misses at the fork."""
    task_id = str(uuid.uuid4())
    assert client.status(task_id).state is State.UNKNOWN
    put(task_id)
    misses = client._submitter.stored._misses.get()
    with ThreadPoolExecutor(1) as threads:
        threads.submit(misses._lock.acquire).result()
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # ends one that waits for the lock
            state = client.status(task_id).state
            os._exit(0 if state is State.SUCCESS else 1)
        _, code = os.waitpid(child, 0)
        threads.submit(misses._lock.release).result()
    assert os.waitstatus_to_exitcode(code) == 0


def test_the_end_of_a_task_is_known_from_a_newer_result(
    client: Client, names: Names, bucket: ObjectStore
) -> None:
    """What else it says cannot be read here."""
    result = result_of(str(uuid.uuid4()), tenant="acme")
    newer = json.loads(dump_result(result)) | {"version": 2, "usage": "of another shape"}
    bucket.put(result_key(result.task_id), json.dumps(newer).encode())
    found = asked(client, names, result.task_id)
    assert {(status.state, status.tenant, status.source) for status in found} == {
        (State.SUCCESS, "acme", "store")
    }
    with pytest.raises(ResultUnreadable):
        client.result(result.task_id, 0)
