"""A task that is not to be started yet: recorded at once, in the queue when its time has come."""

from __future__ import annotations

from time import time
from uuid import uuid4

import pytest
import redis

from tests.client.hand_worker import HandWorker
from visionq import Client, InvalidTask, State, Submission
from visionq.contract import Task
from visionq.names import Names
from visionq.records import Key, Records


def test_delayed_task_waits_outside_of_the_queue(
    client: Client, key: str, worker: HandWorker, records: Records, raw: redis.Redis, names: Names
) -> None:
    handle = client.ocr(key, start_in_seconds=100)
    assert worker.message_ids() == []
    status = handle.status()
    assert (status.state, status.position) == (State.PENDING, None)
    score = raw.zscore(names.open(), handle.id)
    assert score == pytest.approx(time() + 100, abs=5)
    assert records.due(10).tasks == []


def test_delayed_task_is_due_when_its_time_has_come(
    client: Client, key: str, records: Records, raw: redis.Redis, names: Names
) -> None:
    handle = client.ocr(key, start_in_seconds=100)
    raw.hset(names.record(handle.id), "due", time() - 1)
    raw.zadd(names.open(), {handle.id: 1})
    (due,) = records.due(10).tasks
    assert (due.task_id, due.verdict) == (handle.id, "publish")
    assert handle.status().position is not None


def test_only_the_delayed_ones_of_many_wait_outside(
    client: Client, key: str, worker: HandWorker
) -> None:
    late, soon = client.submit_many(
        [Submission("ocr", key, options={"start_in_seconds": 100}), Submission("ocr", key)]
    )
    assert worker.message_ids() == [soon.id]
    assert late.status().state is State.PENDING


def test_delay_may_be_longer_than_records_are_kept(raw: redis.Redis, names: Names) -> None:
    """It is looked at while it waits, and none of that shortens its life, or its key's."""
    short = Records(raw, names, ttl_seconds=60)
    first, newest = (Task(id=str(uuid4()), kind="ocr", images=()) for _ in range(2))
    key = Key(first_id=first.id, fingerprint="print")
    assert short.create(first, key=key) is None
    assert short.cancel(first.id) is State.REVOKED
    raw.zrem(names.open(), first.id)
    assert short.create(newest, delay_seconds=3600, key=key) is None
    for _ in range(2):
        assert raw.zscore(names.open(), newest.id) == pytest.approx(time() + 30, abs=5)
        assert int(str(raw.ttl(names.record(newest.id)))) > 3600
        assert int(str(raw.ttl(names.record(first.id)))) > 3600
        assert int(str(raw.ttl(names.open()))) > 3600
        raw.zadd(names.open(), {newest.id: 1})
        assert short.due(10).tasks == []
        assert short.create(Task(id=str(uuid4()), kind="ocr", images=())) is None


def test_submitting_a_delayed_task_again_does_not_send_it(
    client: Client, key: str, worker: HandWorker
) -> None:
    for _ in range(2):
        client.ocr(key, start_in_seconds=100, idempotency_key="same")
    assert worker.message_ids() == []


def test_delayed_task_can_be_cancelled(client: Client, key: str) -> None:
    handle = client.ocr(key, start_in_seconds=100)
    assert handle.cancel() is State.REVOKED


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"start_in_seconds": 0}, "must be a number above 0"),
        ({"start_in_seconds": "soon"}, "must be a number above 0"),
        ({"start_in_seconds": 90_000}, "must be 86400 at most"),
        ({"start_in_seconds": 10, "expires_in_seconds": 10}, "less than expires_in_seconds"),
    ],
)
def test_delay_that_cannot_be_kept_is_refused(
    client: Client, key: str, worker: HandWorker, options: dict[str, object], complaint: str
) -> None:
    with pytest.raises(InvalidTask, match=complaint):
        client.ocr(key, **options)  # type: ignore[arg-type]
    assert worker.keys() == []
