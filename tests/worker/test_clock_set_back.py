"""Redis's clock was an hour ahead and is right again: nothing waits for the hour to pass.

The stamps are written as that clock would have. Who lives goes on; who is dead is found as soon as
without the hour, and one lease later at most.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from time import time

import pytest
import redis

from tests.support.waiting import wait_until
from tests.worker.test_leases import LEASE_SECONDS, Desk, MakeLeases, desk, make_leases, message
from tests.worker.workbench import Workbench
from visionq.contract import Failure, Lane, State, Task
from visionq.dead import DeadLetters, Outcome
from visionq.fleet import REPORT_TTL_SECONDS, Fleets, WorkerReport
from visionq.names import Names
from visionq.records import LOOK_SECONDS, Records
from visionq_worker.leases import Swept

__all__ = ["desk", "make_leases"]  # fixtures of the leases' own tests

HOUR = 3600.0
REPORT = WorkerReport(model="m", model_revision=None, max_context_tokens=4096, concurrency=1)


def test_lease_of_a_dead_worker_ends_one_lease_later(desk: Desk, make_leases: MakeLeases) -> None:
    desk.push(message())
    desk.must_claim(make_leases("dead:1"))
    desk.let_time_pass(-HOUR)
    assert desk.leases.sweep() == Swept(0, ())
    desk.let_time_pass(LEASE_SECONDS + 1)
    assert desk.leases.sweep() == Swept(1, ())
    assert len(desk.queued()) == 1


def test_lease_of_a_worker_that_lives_is_renewed_meanwhile(
    desk: Desk, make_leases: MakeLeases
) -> None:
    alive = make_leases("alive:1")
    desk.push(message())
    _, claim = desk.must_claim(alive)
    desk.let_time_pass(-HOUR)
    desk.leases.sweep()
    desk.let_time_pass(LEASE_SECONDS - 1)
    assert alive.renew() == []
    desk.let_time_pass(2)
    assert desk.leases.sweep() == Swept(0, ())
    assert alive.held == [claim]


def test_a_redis_that_was_started_in_the_future_is_swept_after_one_lease(
    desk: Desk, make_leases: MakeLeases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new worker asks how long Redis has been up, and gives its own time to others' leases."""
    leases = make_leases("new:1", lease_seconds=1.0)
    leases._sweeps_from = None
    monkeypatch.setattr(leases, "_uptime", lambda: -HOUR)
    desk.push(message())
    desk.must_claim(make_leases("dead:1"))
    desk.let_time_pass(-HOUR)
    wait_until(lambda: leases.sweep() == Swept(1, ()), seconds=10)


def test_a_dead_worker_that_was_draining_keeps_the_suspects_from_nobody(desk: Desk) -> None:
    """Its name's TTL was counted by the clock that was ahead."""
    desk.raw.set(desk.names.draining(), "dead:1", ex=int(HOUR + LEASE_SECONDS))
    desk.leases.sweep()
    ttl = int(str(desk.raw.ttl(desk.names.draining())))
    assert 0 < ttl <= LEASE_SECONDS


def test_new_dead_letters_are_not_taken_for_the_oldest(desk: Desk) -> None:
    index = desk.names.dead_index()
    desk.raw.zadd(index, {"m-old": time() + HOUR})
    desk.raw.hset(desk.names.dead(), "m-old", "{}")
    desk.push("no message at all")
    assert desk.claim() is None
    oldest, newest = desk.raw.zrange(index, 0, -1, withscores=True)
    assert float(str(newest[1])) <= time() + 1
    desk.raw.delete(index, desk.names.dead(), desk.names.dead_messages())
    assert oldest


def test_a_dead_letter_can_be_replayed(
    records: Records, raw: redis.Redis, names: Names, bench: Workbench
) -> None:
    task = bench.task()
    raw.hset(names.record(task.id), "dead", "3 workers were lost while they had it")
    letter = {"id": task.id, "at": time() + HOUR, "reason": "any", "queue": names.queue("bulk")}
    raw.hset(names.dead(), task.id, json.dumps(letter))
    raw.hset(names.dead_messages(), task.id, message(task.id))
    raw.zadd(names.dead_index(), {task.id: time() + HOUR})
    raw.zadd(names.open(), {task.id: time() + HOUR})
    [replayed] = DeadLetters(raw, names, ttl_seconds=600).replay([task.id])
    assert replayed.outcome is Outcome.REPLAYED


def test_a_dead_worker_s_report_is_not_believed_for_the_hour(
    raw: redis.Redis, names: Names
) -> None:
    fleets = Fleets(raw, names)
    fleets.tell("dead:1", REPORT)
    _told_at(raw, names, "dead:1", time() + HOUR)
    assert fleets.look().workers == ()
    fleets.tell("alive:1", replace(REPORT, model="alive"))
    _told_at(raw, names, "dead:1", time() - REPORT_TTL_SECONDS - 1)
    assert [one.model for one in fleets.look().workers] == ["alive"]


def test_what_was_told_before_is_dropped_when_its_time_is_over(
    raw: redis.Redis, names: Names
) -> None:
    fleets = Fleets(raw, names)
    fleets.tell("dead:1", REPORT)
    _told_at(raw, names, "dead:1", time() + HOUR)
    fleets.tell("alive:1", REPORT)
    at, _ = str(raw.hget(names.workers(), "dead:1")).split(" ", 1)
    assert abs(float(at) - time()) <= 2


@pytest.mark.parametrize("told", ["", "no report", "{}"])
def test_a_report_that_somebody_has_spoilt_hides_no_other(
    raw: redis.Redis, names: Names, told: str
) -> None:
    fleets = Fleets(raw, names)
    fleets.tell("alive:1", REPORT)
    raw.hset(names.workers(), "spoilt:1", told)
    assert len(fleets.look().workers) == 1
    fleets.tell("alive:1", REPORT)
    assert not raw.hexists(names.workers(), "spoilt:1")


def _told_at(raw: redis.Redis, names: Names, owner: str, at: float) -> None:
    _, report = str(raw.hget(names.workers(), owner)).split(" ", 1)
    raw.hset(names.workers(), owner, f"{int(at)} {report}")


class Before:
    """What Redis holds, as it was written an hour ahead."""

    def __init__(self, raw: redis.Redis, names: Names, bench: Workbench) -> None:
        self.raw = raw
        self.names = names
        self.records = bench.records
        self.bench = bench

    def set_back(self) -> None:
        """All stamps there are become those of the clock that was ahead."""
        self.raw.set(self.names.clock(), f"{time() + HOUR} 0", ex=600)
        sets = [self.names.open(), *(f"{self.names.lane(lane)}:line" for lane in Lane)]
        for key in sets:
            for member in self.raw.zrange(key, 0, -1):
                self.raw.zincrby(key, HOUR, str(member))
        for key in self.raw.scan_iter(match=self.names.record("*")):
            for field in ("at", "since", "t0", "due"):
                if self.raw.hexists(key, field):
                    self.raw.hincrbyfloat(key, field, HOUR)

    def verdicts(self) -> dict[str, str]:
        return {due.task_id: due.verdict for due in self.records.due(100).tasks}

    def let_looks_come(self, seconds: float) -> None:
        for key in (self.names.open(), *(f"{self.names.lane(lane)}:line" for lane in Lane)):
            for member in self.raw.zrange(key, 0, -1):
                self.raw.zincrby(key, -seconds, str(member))

    def let_records_age(self, seconds: float) -> None:
        for key in self.raw.scan_iter(match=self.names.record("*")):
            for field in ("at", "since", "t0", "due"):
                if self.raw.hexists(key, field):
                    self.raw.hincrbyfloat(key, field, -seconds)


@pytest.fixture
def before(raw: redis.Redis, names: Names, bench: Workbench) -> Before:
    return Before(raw, names, bench)


def test_lost_task_of_a_dead_worker_is_sent_again(before: Before) -> None:
    """It was started, and its message went with a flushed queue."""
    task = before.bench.task()
    before.records.start(task, owner="dead:1", max_new_tokens=9)
    before.set_back()
    assert before.verdicts() == {}
    before.let_looks_come(LOOK_SECONDS + 1)
    assert before.verdicts() == {task.id: "publish"}


def test_lost_message_of_a_waiting_task_is_sent_again(before: Before) -> None:
    """The queue is empty: the look that finds it comes as soon as the line has been gone over."""
    task = before.bench.task()
    before.set_back()
    before.verdicts()
    found: dict[str, str] = {}
    for _ in range(6):
        before.let_looks_come(300)  # half the life of a record: a look at the latest
        before.let_records_age(300)
        found |= before.verdicts()
    assert found == {task.id: "publish"}


def test_pause_after_a_failure_is_as_long_as_without_it(before: Before) -> None:
    task = before.bench.task()
    fence = before.records.start(task, owner="alive:1", max_new_tokens=9).fence
    reason = Failure(code="storage_unavailable", message="away", retryable=True)
    assert before.records.postpone(
        task.id, reason, fence=fence, first_seconds=20.0, longest_seconds=60.0
    )
    before.set_back()
    assert before.verdicts() == {}
    before.let_looks_come(30)
    assert before.verdicts() == {}
    due = float(str(before.raw.hget(before.names.record(task.id), "due")))
    assert 0 < due - time() <= 21
    before.let_records_age(30)
    before.let_looks_come(30)
    assert before.verdicts() == {task.id: "publish"}


def test_delayed_start_is_as_late_as_was_wished(before: Before) -> None:
    task = Task(id=str(uuid.uuid4()), kind="ask", question="What?", images=())
    before.records.create(task, delay_seconds=100)
    before.set_back()
    before.verdicts()
    before.let_looks_come(101)
    before.verdicts()
    due = float(str(before.raw.hget(before.names.record(task.id), "due")))
    assert 90 < due - time() <= 101


def test_tasks_behind_one_from_before_are_not_taken_for_lost(before: Before) -> None:
    """Its place in the queue is older than its stamp says."""
    first = before.bench.task()
    before.raw.lpush(before.names.queue("interactive"), message(first.id))
    before.set_back()
    second = before.bench.task()
    before.raw.lpush(before.names.queue("interactive"), message(second.id))
    found = before.verdicts()
    before.let_looks_come(LOOK_SECONDS + 1)
    assert found | before.verdicts() == {}


@pytest.mark.parametrize("value", ["", "5", "no clock", "1 2 3"])
def test_a_clock_s_key_that_somebody_has_spoilt_keeps_no_task_waiting(
    before: Before, value: str
) -> None:
    task = before.bench.task()
    before.records.start(task, owner="dead:1", max_new_tokens=9)
    before.raw.set(before.names.clock(), value, ex=600)
    before.let_looks_come(LOOK_SECONDS + 1)
    assert before.verdicts() == {task.id: "publish"}


def test_rate_of_a_lane_is_measured_again(before: Before) -> None:
    lane = before.names.lane("interactive")
    task = before.bench.task()
    before.raw.hset(lane, mapping={"window": time() + HOUR, "starts": 7, "rate": "0.5"})
    before.records.start(task, owner="alive:1", max_new_tokens=9)
    window, starts = before.raw.hmget(lane, "window", "starts")
    assert abs(float(str(window)) - time()) < 5
    assert int(str(starts)) == 1
    assert before.records.status(task.id).state is State.STARTED
