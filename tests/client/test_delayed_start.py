"""A task that is not to be started yet: recorded at once, in the queue when its time has come."""

from __future__ import annotations

from time import time

import pytest
import redis

from tests.client.hand_worker import HandWorker
from visionq import Client, InvalidTask, State, Submission
from visionq.names import Names
from visionq.records import Records


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
