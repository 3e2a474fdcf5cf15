"""Tasks that nobody holds: each ends, or is put into the queue again, and none twice.

Time is moved by hand: a task's score in `open` says when it is looked at.
"""

from __future__ import annotations

import base64
import json
import math
import socket
from collections.abc import Iterator
from time import time
from typing import Any

import pytest
import redis

from tests.support.scripted import ScriptedEngine
from tests.worker.workbench import Workbench, workbench
from visionq.broker import Publisher
from visionq.contract import Failure, Lane, State, Task, dump
from visionq.local import LocalUrls
from visionq.names import Names
from visionq.objects import ObjectStore
from visionq.records import LOOK_SECONDS, Due, Records
from visionq_worker.reconciler import MAX_DUE, Reconciler


def free_port() -> int:
    """Nobody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Office:
    """A reconciler that takes its turns when it is told to."""

    def __init__(
        self, bench: Workbench, raw: redis.Redis, names: Names, publisher: Publisher
    ) -> None:
        self.bench = bench
        self.raw = raw
        self.names = names
        self.publisher = publisher
        self.reconciler = Reconciler(
            records=bench.records,
            publisher=publisher,
            executor=bench.executor,
            store=bench.store,
            store_gate=bench.store_gate,
            retry_seconds=0.05,
        )

    def task(self, **fields: Any) -> Task:
        """A new one with its record, but without a message."""
        return self.bench.task(**fields)

    def look(self) -> None:
        """It is time to look at all tasks."""
        for task_id in self.raw.zrange(self.names.open(), 0, -1):
            self.raw.zadd(self.names.open(), {str(task_id): 1})
        self.reconciler._turn()

    def queued(self, lane: Lane = Lane.INTERACTIVE) -> list[str]:
        """Ids of the messages in a lane's queue, oldest first."""
        texts = self.raw.lrange(self.names.queue(lane), 0, -1)
        return [json.loads(text)["headers"]["id"] for text in reversed(texts)]

    def is_looked_at(self, task: Task) -> bool:
        return self.raw.zscore(self.names.open(), task.id) is not None

    def seconds_to_look(self, task: Task) -> float:
        at = self.raw.zscore(self.names.open(), task.id)
        assert at is not None
        return float(at) - time()

    def make_older(self, task: Task, seconds: float) -> None:
        record = self.names.record(task.id)
        at = float(str(self.raw.hget(record, "at"))) - seconds
        self.raw.hset(record, "at", at)
        self.raw.zadd(f"{self.names.lane(task.lane)}:line", {task.id: at})

    def start(self, task: Task) -> int:
        return self.bench.records.start(task, owner="lost", max_new_tokens=9).fence

    def hold(self, task: Task) -> None:
        """A worker has claimed its message."""
        claim = f"{task.id}#1"
        self.raw.hset(self.names.record(task.id), "claim", claim)
        self.raw.zadd(self.names.unacked_index(), {claim: time()})
        self.raw.expire(self.names.unacked_index(), 60)


@pytest.fixture
def office(
    records: Records, bucket: ObjectStore, raw: redis.Redis, names: Names, urls: LocalUrls
) -> Iterator[Office]:
    publisher = Publisher(urls.broker_url, names, timeout_seconds=2)
    yield Office(workbench(ScriptedEngine(), records, bucket), raw, names, publisher)
    publisher.close()


def test_task_whose_message_was_never_sent_is_sent(office: Office) -> None:
    task = office.task(lane=Lane.BULK)
    office.look()
    assert office.queued(Lane.BULK) == [task.id]
    assert office.bench.state(task) is State.PENDING
    assert office.is_looked_at(task), "until it has ended"


def test_task_that_waits_in_its_queue_is_left_alone(office: Office) -> None:
    tasks = [office.task() for _ in range(3)]
    for task in tasks:
        office.publisher.publish(task)
    office.look()
    assert office.queued() == [task.id for task in tasks]


def test_task_that_younger_ones_have_overtaken_is_sent_again(office: Office) -> None:
    lost, started, waiting = (office.task() for _ in range(3))
    office.make_older(lost, 2 * LOOK_SECONDS)
    office.publisher.publish(waiting)
    office.start(started)
    office.hold(started)
    office.look()
    assert office.queued() == [waiting.id, lost.id]
    office.look()
    assert office.queued() == [waiting.id, lost.id], "it has a new place in the queue"


def test_flushed_queue_is_filled_again(office: Office) -> None:
    tasks = [office.task() for _ in range(3)]
    office.look()
    assert sorted(office.queued()) == sorted(task.id for task in tasks)


def test_tasks_behind_a_long_queue_are_looked_at_when_they_are_due(office: Office) -> None:
    """Many wait, none of them is overtaken, and one further back is to be ended."""
    tasks = [office.task() for _ in range(3 * MAX_DUE)]
    for task in tasks:
        office.publisher.publish(task)
    late = office.task(deadline=time() - 1)
    office.reconciler._turn()
    assert office.bench.state(late) is State.EXPIRED
    assert all(office.seconds_to_look(task) > LOOK_SECONDS for task in tasks), "left alone"
    assert len(office.queued()) == len(tasks)


def test_all_that_is_due_is_done_in_one_turn(office: Office) -> None:
    tasks = [office.task(deadline=time() - 1) for _ in range(2 * MAX_DUE + 1)]
    office.reconciler._turn()
    assert {office.bench.state(task) for task in tasks} == {State.EXPIRED}


def test_message_may_follow_its_record_after_a_while(office: Office) -> None:
    """As in `submit_many`: younger tasks of another client are in the queue, and started, first."""
    slow, quick = office.task(), office.task()
    office.publisher.publish(quick)
    office.look()
    assert office.queued() == [quick.id]
    office.publisher.publish(slow)
    office.look()
    assert office.queued() == [quick.id, slow.id]


def test_record_of_a_task_that_waits_is_kept(office: Office) -> None:
    task = office.task()
    office.publisher.publish(task)
    for key in (office.names.record(task.id), office.names.open()):
        office.raw.expire(key, 5)
    office.look()
    for key in (office.names.record(task.id), office.names.open()):
        assert office.raw.ttl(key) > 500


def test_task_in_a_workers_hands_is_left_alone(office: Office) -> None:
    waiting, running = office.task(), office.task()
    office.start(running)
    office.hold(waiting)
    office.hold(running)
    office.look()
    assert office.queued() == []
    assert office.bench.state(running) is State.STARTED


def test_running_task_that_nobody_holds_is_sent_again(office: Office) -> None:
    task = office.task()
    office.start(task)
    office.look()
    assert office.queued() == [task.id]
    assert office.bench.state(task) is State.RETRY


def test_postponed_task_is_sent_when_its_pause_is_over(office: Office) -> None:
    task = office.task()
    fence = office.start(task)
    reason = Failure(code="storage_unavailable", message="waiting", retryable=True)
    assert office.bench.records.postpone(
        task.id, reason, fence=fence, first_seconds=100, longest_seconds=1000
    )
    assert office.bench.state(task) is State.RETRY
    office.look()
    assert office.queued() == []
    office.raw.hset(office.names.record(task.id), "due", time() - 1)
    office.look()
    assert office.queued() == [task.id]


def test_pauses_double_up_to_the_longest(office: Office) -> None:
    task = office.task()
    reason = Failure(code="storage_unavailable", message="waiting", retryable=True)
    pauses = []
    for _ in range(4):
        fence = office.start(task)
        office.bench.records.postpone(
            task.id, reason, fence=fence, first_seconds=100, longest_seconds=300
        )
        due = office.raw.hget(office.names.record(task.id), "due")
        assert isinstance(due, str)
        pauses.append(float(due) - time())
    assert pauses == pytest.approx([100, 200, 300, 300], abs=5)


def test_foreign_task_is_sent_again_with_what_its_message_said(office: Office) -> None:
    """Its callbacks and its place in a chain, too."""
    task = office.task(is_submitted=False)
    step = {"task": "their.task", "options": {"queue": "theirs"}}
    said = {"callbacks": [step], "chain": [step], "group": "g", "group_index": 0, "root_id": "r"}
    office.bench.records.keep_options(task.id, json.dumps(said))
    office.start(task)
    office.look()
    (text,) = office.raw.lrange(office.names.queue(Lane.INTERACTIVE), 0, -1)
    sent = json.loads(text)
    _, _, embedded = json.loads(base64.b64decode(sent["body"]))
    assert (embedded["callbacks"], embedded["chain"]) == ([step], [step])
    assert {name: sent["headers"][name] for name in ("id", "group", "group_index", "root_id")} == {
        "id": task.id,
        "group": "g",
        "group_index": 0,
        "root_id": "r",
    }


def test_task_that_was_put_aside_fails_with_a_result(office: Office) -> None:
    task = office.task()
    office.start(task)
    office.raw.hset(office.names.record(task.id), "dead", "5 workers were lost")
    office.look()
    stored = office.bench.stored(task)
    assert stored is not None
    assert stored.failure is not None
    assert (stored.state, stored.failure.code) == (State.FAILURE, "worker_lost")
    status = office.bench.status(task)
    assert status.state is State.FAILURE
    assert status.failure == stored.failure
    assert not office.is_looked_at(task)


def test_task_that_was_put_aside_before_it_was_ever_started_fails_too(office: Office) -> None:
    task = office.bench.task(is_submitted=False)
    office.raw.hset(office.names.record(task.id), "dead", "5 workers were lost")
    office.raw.zadd(office.names.open(), {task.id: 1})
    office.look()
    assert office.bench.state(task) is State.FAILURE
    assert office.bench.stored(task) is not None


def test_task_that_was_replayed_meanwhile_is_not_ended(office: Office) -> None:
    task = office.task()
    office.reconciler._settle(Due(task.id, "bury", dump(task)))
    assert office.bench.state(task) is State.PENDING


def test_task_that_waits_past_its_deadline_expires_with_a_result(office: Office) -> None:
    task = office.task(deadline=time() - 1)
    office.publisher.publish(task)
    office.look()
    assert office.bench.state(task) is State.EXPIRED
    stored = office.bench.stored(task)
    assert stored is not None
    assert stored.state is State.EXPIRED
    assert not office.is_looked_at(task)


def test_cancelled_task_gets_its_result_object(office: Office) -> None:
    task = office.task()
    assert office.bench.records.cancel(task.id) is State.REVOKED
    office.look()
    stored = office.bench.stored(task)
    assert stored is not None
    assert stored.state is State.REVOKED
    assert not office.is_looked_at(task)
    office.look()
    assert office.bench.stored(task) == stored


def test_ended_task_is_looked_at_no_more(office: Office) -> None:
    task = office.task()
    office.bench.records.move(task.id, State.SUCCESS, fence=office.start(task))
    assert not office.is_looked_at(task)


def test_task_whose_record_is_gone_is_forgotten(office: Office) -> None:
    task = office.task()
    office.raw.delete(office.names.record(task.id))
    office.look()
    assert not office.is_looked_at(task)
    assert office.queued() == []


def test_spoilt_record_does_not_keep_the_others_from_being_looked_at(office: Office) -> None:
    spoilt, lost = office.task(), office.task()
    office.raw.hset(office.names.record(spoilt.id), "task", "not JSON")
    office.look()
    assert office.queued() == [lost.id]


def test_due_task_is_given_to_one_worker_only(office: Office) -> None:
    task = office.task()
    office.raw.zadd(office.names.open(), {task.id: 1})
    assert [due.task_id for due in office.bench.records.due(10).tasks] == [task.id]
    assert office.bench.records.due(10).tasks == []


def postponed_foreign_task(office: Office, **fields: Any) -> Task:
    """Its message is gone, and the record knows no options of it."""
    task = office.task(is_submitted=False, **fields)
    reason = Failure(code="storage_unavailable", message="waiting", retryable=True)
    assert office.bench.records.postpone(
        task.id, reason, fence=office.start(task), first_seconds=100, longest_seconds=100
    )
    return task


def test_who_waits_by_celery_is_told_of_a_deadline_when_the_message_is_gone(
    office: Office,
) -> None:
    task = postponed_foreign_task(office, deadline=time() - 1)
    office.look()
    assert office.bench.state(task) is State.EXPIRED
    assert office.queued() == [task.id]


def test_who_waits_by_celery_is_told_of_a_cancel_when_the_message_is_gone(
    office: Office,
) -> None:
    task = postponed_foreign_task(office)
    assert office.bench.records.cancel(task.id) is State.REVOKED
    office.look()
    office.look()
    assert office.queued() == [task.id]
    assert office.bench.stored(task) is not None


def test_who_waits_by_celery_is_told_of_a_task_that_was_put_aside(office: Office) -> None:
    task = office.task(is_submitted=False)
    office.start(task)
    office.raw.hset(office.names.record(task.id), "dead", "5 workers were lost")
    office.look()
    assert office.bench.state(task) is State.FAILURE
    assert office.queued() == [task.id]


def test_end_that_cannot_be_told_is_told_at_the_next_look_and_others_are_done(
    office: Office, urls: LocalUrls
) -> None:
    tasks = [postponed_foreign_task(office) for _ in range(2)]
    for task in tasks:
        office.bench.records.cancel(task.id)
    closed = f"redis://127.0.0.1:{free_port()}/0"
    well = office.reconciler._publisher
    office.reconciler._publisher = Publisher(closed, office.names, timeout_seconds=1)
    office.look()
    office.reconciler._publisher.close()
    assert all(office.bench.stored(task) is not None for task in tasks)
    office.reconciler._publisher = well
    office.look()
    assert sorted(office.queued()) == sorted(task.id for task in tasks)


def test_nothing_is_ended_or_told_while_the_store_is_away(office: Office) -> None:
    task = postponed_foreign_task(office, deadline=time() - 1)
    office.bench.store_gate.shut()
    office.reconciler._probes_at = math.inf
    office.look()
    assert office.queued() == []
    assert office.bench.state(task) is State.RETRY


def test_gate_opens_when_the_store_is_back(office: Office) -> None:
    office.bench.store_gate.shut()
    office.reconciler._turn()
    assert office.bench.store_gate.is_open


def test_spoilt_record_that_lacks_its_result_object_does_not_end_the_look(office: Office) -> None:
    spoilt, lost = office.task(), office.task()
    assert office.bench.records.cancel(spoilt.id) is State.REVOKED
    office.raw.hset(office.names.record(spoilt.id), "task", "not JSON")
    office.look()
    assert office.queued() == [lost.id]
