"""The record: who may write what, and when; a final state is final."""

import uuid
from typing import Any

import pytest
import redis

from tests.client.hand_worker import HandWorker
from visionq import Client, ImageRef, Lane, State, Task
from visionq.names import Names
from visionq.records import Records

FINAL = [State.SUCCESS, State.FAILURE, State.REVOKED, State.EXPIRED]


def new_task(**fields: Any) -> Task:
    return Task(id=str(uuid.uuid4()), kind="ocr", images=(ImageRef(ref="inputs/a"),), **fields)


def start(records: Records, task: Task, owner: str = "first") -> int:
    return records.start(task, owner=owner, max_new_tokens=100).fence


def test_a_task_goes_from_pending_over_started_and_progress_to_success(records: Records) -> None:
    task = new_task()
    assert records.create(task) is None
    waiting = records.status(task.id)
    attempt = records.start(task, owner="host-1", max_new_tokens=100)
    started = records.status(task.id)
    assert records.progress(task.id, fence=attempt.fence, generated_tokens=7) == "run"
    running = records.status(task.id)
    assert records.move(task.id, State.SUCCESS, fence=attempt.fence, tokens="9", store="0.125")
    done = records.status(task.id)

    assert (waiting.state, waiting.attempt, waiting.started_at) == (State.PENDING, 0, None)
    assert (started.state, started.attempt, started.max_new_tokens) == (State.STARTED, 1, 100)
    assert (running.state, running.generated_tokens) == (State.PROGRESS, 7)
    assert (done.state, done.generated_tokens, done.store_seconds) == (State.SUCCESS, 9, 0.125)
    assert done.submitted_at is not None
    assert done.started_at is not None
    assert done.finished_at is not None
    assert done.submitted_at <= done.started_at <= done.finished_at
    assert (attempt.number, attempt.submitted_at, attempt.now) == (
        1,
        done.submitted_at,
        done.started_at,
    )


def test_a_second_start_has_a_higher_fence_and_the_first_may_write_no_more(
    records: Records,
) -> None:
    task = new_task()
    records.create(task)
    stale = start(records, task, "first")
    fresh = start(records, task, "second")
    assert fresh > stale
    assert records.status(task.id).attempt == 2
    assert records.progress(task.id, fence=stale, generated_tokens=1) == "lost"
    assert not records.move(task.id, State.SUCCESS, fence=stale)
    assert records.status(task.id).state is State.STARTED
    assert records.move(task.id, State.SUCCESS, fence=fresh)


def test_a_fence_nobody_was_given_writes_nothing(records: Records) -> None:
    task = new_task()
    records.create(task)
    assert not records.move(task.id, State.SUCCESS, fence=0)
    assert not records.move(task.id, State.SUCCESS, fence=1)
    assert records.status(task.id).state is State.PENDING


@pytest.mark.parametrize("final", FINAL)
@pytest.mark.parametrize("other", [*FINAL, State.RETRY])
def test_a_final_state_never_changes(records: Records, final: State, other: State) -> None:
    task = new_task()
    records.create(task)
    fence = start(records, task)
    assert records.move(task.id, final, fence=fence)
    finished_at = records.status(task.id).finished_at
    assert not records.move(task.id, other, fence=fence)
    assert records.progress(task.id, fence=fence, generated_tokens=5) == "lost"
    assert records.cancel(task.id) is final
    after = records.status(task.id)
    assert (after.state, after.finished_at, after.generated_tokens) == (final, finished_at, 0)
    assert not after.is_cancel_requested


@pytest.mark.parametrize("final", FINAL)
def test_the_start_of_a_finished_task_does_nothing(
    records: Records, names: Names, raw: redis.Redis, final: State
) -> None:
    task = new_task()
    records.create(task)
    assert records.move(task.id, final, fence=start(records, task))
    before = raw.hgetall(names.record(task.id))
    attempt = records.start(task, owner="second", max_new_tokens=5)
    assert (attempt.state, attempt.fence, attempt.number) == (final, 0, 0)
    assert raw.hgetall(names.record(task.id)) == before


def test_a_task_of_another_sender_gets_its_record_at_the_start(
    records: Records, names: Names, raw: redis.Redis
) -> None:
    task = new_task(lane=Lane.BULK)
    attempt = records.start(task, owner="host-1", max_new_tokens=100)
    assert (attempt.state, attempt.number) == (State.STARTED, 1)
    assert attempt.submitted_at == attempt.now
    status = records.status(task.id)
    assert (status.kind, status.lane, status.state) == ("ocr", Lane.BULK, State.STARTED)
    ttl: Any = raw.ttl(names.record(task.id))
    assert 590 < ttl <= 600
    assert records.move(task.id, State.SUCCESS, fence=attempt.fence)


def test_a_failure_keeps_code_sentence_and_whether_to_retry(records: Records) -> None:
    task = new_task()
    records.create(task)
    fence = start(records, task)
    fields = {"code": "storage_unavailable", "message": "the store was away", "retryable": "1"}
    assert records.move(task.id, State.FAILURE, fence=fence, **fields)
    failure = records.status(task.id).failure
    assert failure is not None
    assert (failure.code, failure.message, failure.retryable) == (
        "storage_unavailable",
        "the store was away",
        True,
    )


def test_a_task_that_waits_for_its_retry_starts_without_the_old_failure(records: Records) -> None:
    task = new_task()
    records.create(task)
    fence = start(records, task)
    records.progress(task.id, fence=fence, generated_tokens=7)
    assert records.move(task.id, State.RETRY, fence=fence, code="internal", message="oops")
    waiting = records.status(task.id)
    assert (waiting.state, waiting.position, waiting.is_done) == (State.RETRY, 0, False)
    start(records, task)
    again = records.status(task.id)
    assert (again.state, again.attempt, again.failure) == (State.STARTED, 2, None)
    assert again.generated_tokens == 0


def test_progress_says_run_then_cancel_then_lost(records: Records) -> None:
    task = new_task()
    records.create(task)
    fence = start(records, task)
    assert records.progress(task.id, fence=fence, generated_tokens=1) == "run"
    assert records.cancel(task.id) is State.PROGRESS
    assert records.progress(task.id, fence=fence, generated_tokens=2) == "cancel"
    assert records.move(task.id, State.REVOKED, fence=fence)
    assert records.progress(task.id, fence=fence, generated_tokens=3) == "lost"
    assert records.status(task.id).generated_tokens == 2


def test_progress_of_a_task_without_a_record_is_lost_and_makes_none(
    records: Records, names: Names, raw: redis.Redis
) -> None:
    task_id = str(uuid.uuid4())
    assert records.progress(task_id, fence=1, generated_tokens=1) == "lost"
    assert not records.move(task_id, State.SUCCESS, fence=1)
    assert raw.exists(names.record(task_id)) == 0


@pytest.mark.parametrize("step", ["start", "progress", "move"])
def test_every_change_by_a_worker_renews_the_record_s_time(
    records: Records, names: Names, raw: redis.Redis, step: str
) -> None:
    task = new_task()
    records.create(task)
    fence = start(records, task) if step != "start" else 0
    raw.expire(names.record(task.id), 5)
    if step == "start":
        start(records, task)
    elif step == "progress":
        records.progress(task.id, fence=fence, generated_tokens=1)
    else:
        records.move(task.id, State.SUCCESS, fence=fence)
    ttl: Any = raw.ttl(names.record(task.id))
    assert 590 < ttl <= 600


def test_noting_that_a_message_is_out_makes_no_record_that_never_goes(
    records: Records, names: Names, raw: redis.Redis
) -> None:
    task_id = str(uuid.uuid4())
    records.mark_sent([task_id])
    assert raw.exists(names.record(task_id)) == 0
    assert records.status(task_id).state is State.UNKNOWN


# Cancelling, as the client does it.


def test_a_waiting_task_is_revoked_at_once_and_never_starts(
    client: Client, key: str, worker: HandWorker
) -> None:
    handle = client.ocr(key)
    assert handle.cancel() is State.REVOKED
    status = handle.status()
    assert (status.state, status.is_done, status.started_at) == (State.REVOKED, True, None)
    assert status.finished_at is not None
    attempt = worker.start(handle.id)
    assert (attempt.state, attempt.fence) == (State.REVOKED, 0)


def test_a_running_task_is_asked_to_end_and_goes_on_until_its_worker_agrees(
    client: Client, key: str, worker: HandWorker
) -> None:
    handle = client.ocr(key)
    attempt = worker.start(handle.id)
    assert handle.cancel() is State.STARTED
    status = handle.status()
    assert (status.state, status.is_cancel_requested) == (State.STARTED, True)
    assert worker.records.progress(handle.id, fence=attempt.fence, generated_tokens=1) == "cancel"


def test_cancelling_a_finished_task_changes_nothing(
    client: Client, key: str, worker: HandWorker
) -> None:
    handle = client.ocr(key)
    worker.end(handle.id, State.SUCCESS)
    assert handle.cancel() is State.SUCCESS
    assert handle.status().state is State.SUCCESS


def test_cancelling_a_task_that_was_never_submitted_makes_none(
    client: Client, worker: HandWorker
) -> None:
    assert client.cancel(str(uuid.uuid4())) is State.UNKNOWN
    assert worker.keys() == [worker.names.cancelled()]


def test_cancelling_twice_is_cancelling_once(client: Client, key: str) -> None:
    handle = client.ocr(key)
    assert [handle.cancel(), handle.cancel()] == [State.REVOKED, State.REVOKED]
