"""A cancel that comes before anybody knows the task: it is kept for a foreign sender's message."""

from __future__ import annotations

import uuid
from time import time
from typing import Any

import pytest
import redis

from visionq import Client, ImageRef, State, Task, TaskUnknown
from visionq.names import Names
from visionq.records import CANCELLED_SECONDS, MAX_CANCELLED, Due, Records


def foreign_task() -> Task:
    return Task(id=str(uuid.uuid4()), kind="ocr", images=(ImageRef(ref="inputs/a"),))


def start(records: Records, task: Task) -> Any:
    return records.start(task, owner="host:1", max_new_tokens=9)


def test_cancel_of_an_unknown_id_ends_its_task_when_the_message_comes(
    client: Client, records: Records, raw: redis.Redis, names: Names
) -> None:
    task = foreign_task()
    assert client.cancel(task.id) is State.UNKNOWN
    assert client.status(task.id).state is State.UNKNOWN
    attempt = start(records, task)
    assert (attempt.state, attempt.fence, attempt.number) == (State.REVOKED, 0, 0)
    status = client.status(task.id)
    assert (status.state, status.kind, status.started_at) == (State.REVOKED, "ocr", None)
    assert status.finished_at is not None
    assert start(records, task).state is State.REVOKED, "a second delivery finds the same"
    due = records.due(10).tasks
    assert [(one.task_id, one.verdict) for one in due] == [(task.id, "write")]
    assert isinstance(due[0], Due)
    assert raw.exists(names.cancelled()) == 0, "a cancel that was carried out is forgotten"


def test_whoever_waits_for_the_id_learns_of_its_end(client: Client, records: Records) -> None:
    task = foreign_task()
    client.cancel(task.id)
    start(records, task)
    assert client.wait(task.id, 5).state is State.REVOKED


def test_cancel_while_a_worker_has_the_message_and_has_not_begun_is_kept(
    client: Client, records: Records, raw: redis.Redis, names: Names
) -> None:
    task = foreign_task()
    raw.hset(names.record(task.id), "claim", "tag#1")
    raw.expire(names.record(task.id), 600)
    assert client.cancel(task.id) is State.UNKNOWN
    assert start(records, task).state is State.REVOKED


def test_other_tasks_are_not_concerned(client: Client, records: Records) -> None:
    client.cancel(str(uuid.uuid4()))
    assert start(records, foreign_task()).state is State.STARTED


def test_it_holds_for_an_hour_and_as_long_as_the_key(
    client: Client, records: Records, raw: redis.Redis, names: Names
) -> None:
    old, young = foreign_task(), foreign_task()
    for task, seconds in ((old, CANCELLED_SECONDS + 5), (young, CANCELLED_SECONDS - 60)):
        client.cancel(task.id)
        raw.zadd(names.cancelled(), {task.id: time() - seconds})
    assert start(records, old).state is State.STARTED
    assert start(records, young).state is State.REVOKED
    raw.zadd(names.cancelled(), {old.id: time() - CANCELLED_SECONDS - 5})
    client.cancel(str(uuid.uuid4()))
    assert raw.zscore(names.cancelled(), old.id) is None
    ttl: Any = raw.ttl(names.cancelled())
    assert 0 < ttl <= CANCELLED_SECONDS


def test_only_the_newest_ten_thousand_are_remembered(
    client: Client, raw: redis.Redis, names: Names
) -> None:
    began = time() - 1000
    raw.zadd(names.cancelled(), {str(uuid.uuid4()): began + n / 1000 for n in range(MAX_CANCELLED)})
    [oldest] = raw.zrange(names.cancelled(), 0, 0)
    task_id = str(uuid.uuid4())
    client.cancel(task_id)
    assert raw.zcard(names.cancelled()) == MAX_CANCELLED
    assert raw.zscore(names.cancelled(), str(oldest)) is None
    assert raw.zscore(names.cancelled(), task_id) is not None


def test_a_clock_that_was_set_back_leaves_no_cancel_that_holds_for_longer(
    client: Client, raw: redis.Redis, names: Names
) -> None:
    task_id = str(uuid.uuid4())
    client.cancel(task_id)
    raw.zadd(names.cancelled(), {task_id: time() + 3600})
    client.cancel(str(uuid.uuid4()))
    score = raw.zscore(names.cancelled(), task_id)
    assert score is not None
    assert float(str(score)) <= time() + 1


def test_record_of_a_foreign_task_that_starts_later_ends_at_once(
    client: Client, records: Records
) -> None:
    """Its start may be later than the cancel is remembered."""
    cancelled, other = foreign_task(), foreign_task()
    client.cancel(cancelled.id)
    for task in (cancelled, other):
        records.create(task, delay_seconds=7200)
        records.cancel_remembered(task.id)
    assert records.status(cancelled.id).state is State.REVOKED
    assert records.status(other.id).state is State.PENDING
    assert [due.verdict for due in records.due(10).tasks] == ["write"]
    assert records.cancel_remembered(str(uuid.uuid4())) is State.UNKNOWN


def test_a_submit_after_the_cancel_is_a_new_wish(
    client: Client, records: Records, raw: redis.Redis, names: Names, key: str
) -> None:
    """The id that an idempotency key leads to can be cancelled before; who submits wants it."""
    task_id = client.ocr(key, idempotency_key="order-1").id
    raw.delete(names.record(task_id))
    assert client.cancel(task_id) is State.UNKNOWN
    handle = client.ocr(key, idempotency_key="order-1")
    assert (handle.id, handle.status().state) == (task_id, State.PENDING)
    task = Task(id=task_id, kind="ocr", images=(ImageRef(ref=key),))
    assert start(records, task).state is State.STARTED


@pytest.mark.parametrize("task_id", ["", "no-uuid", "../../x", str(uuid.uuid4()).upper()])
def test_an_id_that_is_none_is_refused_and_not_remembered(
    client: Client, raw: redis.Redis, names: Names, task_id: str
) -> None:
    with pytest.raises(TaskUnknown):
        client.cancel(task_id)
    assert not raw.exists(names.cancelled())
