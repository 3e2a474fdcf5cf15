"""Where store and records differ: each difference is found, and nothing else is."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from tests.client.hand_worker import HandWorker
from tests.faults.gate import Gate
from tests.faults.store_faults import StoreFault
from tests.support.addresses import store_address
from tests.support.redis_users import EVERYTHING, redis_user
from visionq import Client, Result, State, StorageError, StoreAddress, TaskFailed, reconciling
from visionq.connections import connect
from visionq.contract import Failure, dump_result
from visionq.errors import BucketMissing, StorageDenied, StorageUnavailable, WrongClock
from visionq.local import LocalUrls
from visionq.names import Names, result_key
from visionq.objects import Listed, ObjectStore
from visionq.reconciling import Difference, Finding, StoreComparison
from visionq_worker.leases import Leases

TTL_SECONDS = 600
LISTINGS = [
    (StoreFault(kind="portal"), StorageUnavailable),
    (StoreFault(kind="cut"), StorageUnavailable),
    (StoreFault(kind="stalled"), StorageUnavailable),
    (StoreFault(kind="chunked_cut"), StorageUnavailable),
    (StoreFault(kind="status", status=403, code="AccessDenied"), StorageDenied),
    (StoreFault(kind="status", status=403, code="RequestTimeTooSkewed"), WrongClock),
    (StoreFault(kind="status", status=404, code="NoSuchBucket"), BucketMissing),
    (StoreFault(kind="status", status=404, code=""), StorageUnavailable),
]


@pytest.fixture
def compared(
    own_urls: LocalUrls, own_raw: redis.Redis, own_worker: HandWorker
) -> Iterator[StoreComparison]:
    """On servers of the tests' own: what others have stored would be reported, too."""
    for page in own_worker.store.pages("results/"):
        for listed in page:
            own_worker.store.delete(listed.key)
    client = connect(own_urls.broker_url, timeout_seconds=2)
    yield StoreComparison(client, Names(), own_worker.store, ttl_seconds=TTL_SECONDS)
    client.close()


@pytest.fixture
def answered(own_client: Client, own_worker: HandWorker) -> Callable[[], str]:
    """A task that was answered; returns its id."""

    def answer() -> str:
        task_id = own_client.ocr("inputs/a").id
        own_worker.succeed(task_id)
        delete_messages(own_worker)
        return task_id

    return answer


def delete_messages(worker: HandWorker) -> None:
    """The hand-made worker leaves them in the queue."""
    worker.raw.delete(worker.names.queue("interactive"))


def since_long(worker: HandWorker, task_id: str) -> None:
    """As if it were submitted an hour ago."""
    record = worker.names.record(task_id)
    worker.raw.hset(record, "at", float(str(worker.raw.hget(record, "at"))) - 3600)


def put(worker: HandWorker, task_id: str, **changes: Any) -> Result:
    given: dict[str, Any] = {"kind": "ocr", "state": State.SUCCESS, "finished_at": 1.5}
    result = Result(task_id=task_id, **given | changes)
    worker.store.put(result_key(task_id), dump_result(result))
    return result


def everything(compared: StoreComparison) -> dict[str, Finding]:
    return {one.id: one.finding for one in compared.differences()}


def test_what_agrees_is_no_difference(
    compared: StoreComparison,
    answered: Callable[[], str],
    own_client: Client,
    own_worker: HandWorker,
) -> None:
    answered()
    own_client.cancel(own_client.ocr("inputs/a").id)  # owes its object
    delete_messages(own_worker)
    failed = own_client.ocr("inputs/a").id
    own_worker.end(failed, State.FAILURE, code="internal", message="no")
    delete_messages(own_worker)
    since_long(own_worker, own_client.ocr("inputs/a").id)
    since_long(own_worker, own_client.ocr("inputs/a", lane="bulk").id)
    delayed = own_client.ocr("inputs/a", start_in_seconds=600).id
    since_long(own_worker, delayed)
    own_worker.store.put("results/notes.txt", b"nobody's")
    own_worker.store.put(f"results/{uuid.uuid4()}.json.bak", b"nobody's")
    assert everything(compared) == {}
    assert (compared.counts.num_objects, compared.counts.num_records) == (1, 6)


def test_a_record_that_is_gone_is_found_and_left_alone(
    compared: StoreComparison, answered: Callable[[], str], own_worker: HandWorker
) -> None:
    gone, _kept = answered(), answered()
    own_worker.raw.delete(own_worker.names.record(gone))
    expected = Difference(id=gone, finding=Finding.RECORD_GONE, state=State.UNKNOWN)
    assert list(compared.differences()) == [expected]
    assert not own_worker.raw.exists(own_worker.names.record(gone))


def test_a_record_is_made_anew_for_the_rest_of_its_life(
    compared: StoreComparison, own_worker: HandWorker, own_client: Client
) -> None:
    failure = Failure(code="not_an_image", message="it is none", retryable=True)
    answered, failed = str(uuid.uuid4()), str(uuid.uuid4())
    put(own_worker, answered, tenant="acme", labels={"a": "b"})
    put(own_worker, failed, state=State.FAILURE, failure=failure)
    found = {one.id: one for one in compared.differences(repairs=True)}
    assert {(one.finding, one.is_repaired) for one in found.values()} == {
        (Finding.RECORD_GONE, True)
    }
    assert found[failed].state is State.FAILURE
    status = own_client.status(answered)
    assert (status.source, status.state, status.kind) == ("record", State.SUCCESS, "ocr")
    assert (status.tenant, status.lane, status.finished_at) == ("acme", None, 1.5)
    assert own_client.status(failed).failure == failure
    ttl: Any = own_worker.raw.ttl(own_worker.names.record(answered))
    assert TTL_SECONDS - 30 < ttl <= TTL_SECONDS
    assert everything(compared) == {}


def test_a_result_older_than_a_record_s_life_is_no_difference(
    own_urls: LocalUrls, compared: StoreComparison, own_worker: HandWorker
) -> None:
    put(own_worker, task_id := str(uuid.uuid4()))
    client = connect(own_urls.broker_url, timeout_seconds=2)
    # Of a record that would live for no time at all.
    older = StoreComparison(client, Names(), own_worker.store, ttl_seconds=-5)
    assert list(older.differences(repairs=True)) == []
    assert older.counts.num_older == 1
    assert not own_worker.raw.exists(own_worker.names.record(task_id))
    client.close()


def test_a_task_that_is_submitted_at_the_same_moment_stays_as_it_is(
    compared: StoreComparison,
    own_client: Client,
    own_worker: HandWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = own_client.ocr("inputs/a", idempotency_key="once").id
    own_worker.succeed(first)
    own_worker.raw.flushdb()
    read = StoreComparison._result

    def submit_and_read(comparison: StoreComparison, task_id: str) -> Result | None:
        own_client.ocr("inputs/a", idempotency_key="once")
        return read(comparison, task_id)

    monkeypatch.setattr(StoreComparison, "_result", submit_and_read)
    [one] = compared.differences(repairs=True)
    assert (one.id, one.is_repaired) == (first, False)
    assert own_client.status(first).state is State.PENDING


def test_a_task_that_a_worker_has_in_hand_stays_as_it_is(
    compared: StoreComparison, own_client: Client, own_worker: HandWorker
) -> None:
    """Its record is lost, and its worker has stored the result and not yet said so."""
    task_id = own_client.ocr("inputs/a").id
    claim(own_worker)
    put(own_worker, task_id)
    own_worker.raw.delete(own_worker.names.record(task_id))
    assert list(compared.differences(repairs=True)) == []
    let_go(own_worker)
    assert [one.is_repaired for one in compared.differences(repairs=True)] == [True]


def test_a_record_made_anew_keeps_its_idempotency_key(
    compared: StoreComparison, own_client: Client, own_worker: HandWorker
) -> None:
    first = own_client.ocr("inputs/a", idempotency_key="kept").id
    own_worker.succeed(first)
    own_worker.raw.flushdb()
    assert [one.is_repaired for one in compared.differences(repairs=True)] == [True]
    again = own_client.ocr("inputs/a", idempotency_key="kept")
    assert again.id == first
    assert again.status().state is State.SUCCESS
    assert own_worker.messages() == []


def test_a_dead_letter_s_record_is_not_made_anew(
    compared: StoreComparison, own_client: Client, own_worker: HandWorker
) -> None:
    """Without a record the letter can be replayed."""
    failure = Failure(code="worker_lost", message="too many", retryable=True)
    put(own_worker, task_id := str(uuid.uuid4()), state=State.FAILURE, failure=failure)
    [one] = compared.differences(repairs=True)
    assert (one.is_repaired, one.state) == (False, State.FAILURE)
    with pytest.raises(TaskFailed, match="too many"):
        own_client.result(task_id)


@pytest.mark.parametrize("content", [b"half of a doc", b""])
def test_a_result_that_cannot_be_read_makes_no_record(
    compared: StoreComparison, own_worker: HandWorker, content: bytes
) -> None:
    own_worker.store.put(result_key(task_id := str(uuid.uuid4())), content)
    [one] = compared.differences(repairs=True)
    assert (one.id, one.is_repaired, one.state) == (task_id, False, State.UNKNOWN)


def test_an_answer_whose_object_is_gone_is_found(
    compared: StoreComparison, answered: Callable[[], str], own_worker: HandWorker
) -> None:
    gone = answered()
    answered()
    own_worker.store.delete(result_key(gone))
    assert everything(compared) == {gone: Finding.OBJECT_GONE}


def test_a_lost_final_move_is_found_when_no_worker_has_the_task(
    compared: StoreComparison, own_client: Client, own_worker: HandWorker
) -> None:
    lost = own_client.ocr("inputs/a").id
    claim(own_worker)
    now = own_worker.start(lost).now
    put(own_worker, lost, finished_at=now)
    assert everything(compared) == {}, "a worker has it"
    let_go(own_worker)
    assert everything(compared) == {lost: Finding.NOT_ENDED}


def test_the_object_of_an_earlier_task_is_no_end_of_this_one(
    compared: StoreComparison, own_client: Client, own_worker: HandWorker
) -> None:
    """A key that is used again, and a dead letter that is replayed."""
    again = own_client.ocr("inputs/a", idempotency_key="again").id
    put(own_worker, again, finished_at=1.0)
    replayed = own_client.ocr("inputs/a").id
    failure = Failure(code="worker_lost", message="too many")
    put(own_worker, replayed, state=State.FAILURE, failure=failure, finished_at=1e12)
    assert everything(compared) == {}


def test_a_task_that_is_left_to_newer_workers_is_not_missed(
    compared: StoreComparison, own_client: Client, own_worker: HandWorker
) -> None:
    task_id = own_client.ocr("inputs/a").id
    since_long(own_worker, task_id)
    leases = claim(own_worker)
    [claimed] = own_worker.raw.hkeys(own_worker.names.leases())
    leases.defer(str(claimed), 2, '{"version":2}', "{}")
    assert own_worker.raw.hlen(own_worker.names.leases()) == 0
    assert everything(compared) == {}
    newer = own_worker.names.newer(f"2:{own_worker.names.queue('interactive')}:messages")
    assert own_worker.raw.hdel(newer, task_id) == 1
    assert everything(compared) == {task_id: Finding.MESSAGE_GONE}


def test_a_result_of_a_newer_version_is_one(
    compared: StoreComparison, own_worker: HandWorker, own_client: Client
) -> None:
    """Of what it cannot read, an older one reads how the task has ended."""
    content = dump_result(put(own_worker, task_id := str(uuid.uuid4()), text="an answer"))
    newer = json.loads(content) | {"version": 2, "usage": {"of": "another shape"}}
    own_worker.store.put(result_key(task_id), json.dumps(newer).encode())
    [one] = compared.differences(repairs=True)
    assert (one.is_repaired, one.state) == (True, State.SUCCESS)
    assert own_client.status(task_id).state is State.SUCCESS
    assert everything(compared) == {}


def test_a_record_is_made_anew_by_who_may_not_use_its_channel(
    own_urls: LocalUrls, own_worker: HandWorker, compared: StoreComparison
) -> None:
    put(own_worker, str(uuid.uuid4()))
    with redis_user(own_urls, *EVERYTHING, "resetchannels") as user:
        client = connect(user.urls.broker_url, timeout_seconds=2)
        limited = StoreComparison(client, Names(), own_worker.store, ttl_seconds=TTL_SECONDS)
        [one] = limited.differences(repairs=True)
        client.close()
    assert one.is_repaired
    assert everything(compared) == {}


def test_a_listing_that_is_none_is_a_typed_error(
    compared: StoreComparison, own_urls: LocalUrls
) -> None:
    address = store_address(own_urls)
    with Gate(urlsplit(address.endpoint_url or "").port or 0, seed=1) as gate:
        before = replace(address, endpoint_url=f"http://127.0.0.1:{gate.port}")
        compared._store = ObjectStore(before, timeout_seconds=1)
        for fault, error in LISTINGS:
            gate.misbehave(fault)
            with pytest.raises(error) as caught:
                everything(compared)
            assert type(caught.value) is error
            assert ("s3:ListBucket" in str(caught.value)) == (error is StorageDenied)
        compared._store.close()


@pytest.mark.parametrize("lane", ["interactive", "bulk"])
def test_a_waiting_task_without_a_message_is_found(
    compared: StoreComparison, own_client: Client, own_worker: HandWorker, lane: str
) -> None:
    """Also in the middle of a queue, where its workers miss it only when its turn has come."""
    ids = [own_client.ocr("inputs/a", lane=lane).id for _ in range(5)]
    for task_id in ids:
        since_long(own_worker, task_id)
    young = own_client.ocr("inputs/a", lane=lane).id
    queue = own_worker.names.queue(lane)
    for message in own_worker.raw.lrange(queue, 0, -1):
        if json.loads(message)["headers"]["id"] in (ids[2], young):
            own_worker.raw.lrem(queue, 1, str(message))
    assert everything(compared) == {ids[2]: Finding.MESSAGE_GONE}


def test_a_task_whose_worker_or_suspects_line_has_its_message_is_not_missed(
    compared: StoreComparison, own_client: Client, own_worker: HandWorker
) -> None:
    in_hand, suspect, by_priority = (own_client.ocr("inputs/a").id for _ in range(3))
    claim(own_worker)
    queue = own_worker.names.queue("interactive")
    message = str(own_worker.raw.rpop(queue))
    own_worker.raw.lpush(own_worker.names.suspects(), f"{queue}\n{message}")
    own_worker.raw.lmove(queue, f"{queue}\x06\x166")
    for task_id in (in_hand, suspect, by_priority):
        since_long(own_worker, task_id)
    assert everything(compared) == {}


def test_records_that_cannot_be_read_are_no_difference(
    compared: StoreComparison, answered: Callable[[], str], own_worker: HandWorker
) -> None:
    raw, names = own_worker.raw, own_worker.names
    raw.hset(names.record(answered()), "state", "PAUSED")
    other = answered()
    raw.delete(names.record(other))
    raw.set(names.record(other), "a string", ex=60)
    put(own_worker, unreadable := str(uuid.uuid4()))
    raw.hset(names.record(unreadable), mapping={"state": "PENDING", "at": "soon", "task": "?"})
    raw.expire(names.record(unreadable), 60)
    raw.lpush(names.queue("bulk"), "no message", "{}", '{"headers": []}')
    raw.set(names.record("no id"), "a string", ex=60)
    found = everything(compared)
    assert set(found) == {unreadable}


@pytest.mark.parametrize("per_range", [1, 7, 1000])
def test_many_objects_are_compared_range_by_range(
    compared: StoreComparison,
    own_client: Client,
    own_worker: HandWorker,
    monkeypatch: pytest.MonkeyPatch,
    per_range: int,
) -> None:
    """More than a page of the store's listing; ranges end with a page."""
    monkeypatch.setattr(reconciling, "IDS_PER_RANGE", per_range)
    monkeypatch.setattr(reconciling, "MESSAGES_PER_LOOK", 3)
    ids = [str(uuid.uuid4()) for _ in range(1200)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda each: put(own_worker, each), ids))
    assert len(list(compared.differences(repairs=True))) == 1200
    waiting = [own_client.ocr("inputs/a").id for _ in range(10)]
    for task_id in waiting:
        since_long(own_worker, task_id)
    own_worker.raw.rpop(own_worker.names.queue("interactive"))
    own_worker.raw.delete(*[own_worker.names.record(each) for each in ids[:5]])
    for each in ids[5:8]:
        own_worker.store.delete(result_key(each))
    expected = dict.fromkeys(ids[:5], Finding.RECORD_GONE)
    expected |= dict.fromkeys(ids[5:8], Finding.OBJECT_GONE)
    expected[waiting[0]] = Finding.MESSAGE_GONE
    assert everything(compared) == expected


def test_a_store_without_an_order_is_refused(
    compared: StoreComparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = sorted(str(uuid.uuid4()) for _ in range(2))

    def backwards(*_: object) -> Iterator[list[Listed]]:
        yield [Listed(key=result_key(each), stored_at=0.0) for each in reversed(ids)]

    monkeypatch.setattr(ObjectStore, "pages", backwards)
    with pytest.raises(StorageError, match="in no order"):
        list(compared.differences())


def test_a_bucket_that_is_missing_is_said_to_be_so(own_address: StoreAddress) -> None:
    store = ObjectStore(replace(own_address, bucket="no-such-bucket"))
    with pytest.raises(BucketMissing):
        next(store.pages("results/"))
    store.close()


def claim(worker: HandWorker) -> Leases:
    """A worker takes the next message."""
    leases = Leases(
        worker.raw,
        worker.names,
        owner="hand",
        lease_seconds=60,
        max_attempts=3,
        record_ttl_seconds=TTL_SECONDS,
    )
    leases.load_claim()
    command = leases.claim_command([worker.names.queue("interactive")])
    assert worker.raw.execute_command(*command)  # type: ignore[no-untyped-call]
    return leases


def let_go(worker: HandWorker) -> None:
    """The worker has settled what it had taken."""
    names = worker.names
    worker.raw.delete(names.leases(), names.unacked(), names.unacked_index())
