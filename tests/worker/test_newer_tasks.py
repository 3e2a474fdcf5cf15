"""A task of a newer contract, or with a newer record: left as it is to a worker that reads it.

"Newer" are leases and records that are told that version 2 is read here. Time is moved by hand.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import time
from typing import Any

import pytest
import redis

from tests.support.scripted import ScriptedEngine
from tests.worker.test_clock_set_back import REPORT
from tests.worker.test_leases import Desk, MakeLeases, desk, make_leases, message
from tests.worker.test_reconciler import Office
from tests.worker.workbench import workbench
from visionq import Lane, State
from visionq.broker import Publisher
from visionq.contract import FailureCode, Task, encode_task
from visionq.errors import UnsupportedVersion
from visionq.fleet import Fleets
from visionq.local import LocalUrls
from visionq.names import Names
from visionq.newer_scripts import NEWER_GRACE_SECONDS
from visionq.objects import ObjectStore
from visionq.records import Records
from visionq_worker import leases as leases_module
from visionq_worker.leases import Leases, Swept

__all__ = ["desk", "make_leases"]  # fixtures of the leases' own tests

ClaimsNewer = Callable[[], tuple[str, str] | None]


@pytest.fixture
def office(
    records: Records, bucket: ObjectStore, raw: redis.Redis, names: Names, urls: LocalUrls
) -> Iterator[Office]:
    publisher = Publisher(urls.broker_url, names, timeout_seconds=2)
    yield Office(workbench(ScriptedEngine(), records, bucket), raw, names, publisher)
    publisher.close()


@pytest.fixture
def claims_newer(desk: Desk, make_leases: MakeLeases) -> ClaimsNewer:
    """A claim by a worker that reads version 2: message and claim."""
    newer = make_leases("newer:1")

    def claim() -> tuple[str, str] | None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(leases_module, "CONTRACT_VERSION", 2)
            taken = desk.claim(newer)
        return taken and taken[1:]

    return claim


def defer(leases: Leases, claim: str, task: str = '{"kind":"film","version":2}') -> None:
    leases.defer(claim, 2, task, "{}")


def newer_key(names: Names, lane: Lane = Lane.INTERACTIVE) -> str:
    return names.newer(f"2:{names.queue(lane)}")


# What a worker does that cannot read it.


def test_deferred_message_goes_to_a_newer_worker_byte_for_byte(
    desk: Desk, claims_newer: ClaimsNewer
) -> None:
    text = message()
    desk.push(text)
    defer(desk.leases, desk.must_claim()[1])
    assert desk.leases.held == []
    assert desk.queued() == []
    assert desk.claim() is None, "not again to a worker that cannot read it"
    taken = claims_newer()
    assert taken is not None
    assert taken[0] == text
    assert claims_newer() is None


def test_what_stands_behind_a_deferred_message_goes_on(desk: Desk) -> None:
    newer, plain = message(), message()
    desk.push(newer)
    desk.push(plain)
    defer(desk.leases, desk.must_claim()[1])
    assert desk.must_claim()[0] == plain


def test_deferred_messages_come_before_their_queue_and_by_lane(
    desk: Desk, claims_newer: ClaimsNewer
) -> None:
    bulk, first, second, later = (message() for _ in range(4))
    desk.push(bulk, Lane.BULK)
    defer(desk.leases, desk.must_claim()[1])
    for text in (first, second):
        desk.push(text)
        defer(desk.leases, desk.must_claim()[1])
    desk.push(later)
    order = [claims_newer() for _ in range(4)]
    assert [taken and taken[0] for taken in order] == [first, second, later, bulk]


def test_no_attempt_and_no_strike_is_counted(desk: Desk) -> None:
    task_id = str(uuid.uuid4())
    for _ in range(10):
        desk.push(message(task_id))
        defer(desk.leases, desk.must_claim()[1])
    record = desk.record(task_id)
    assert record["state"] == "PENDING"
    assert not {"attempt", "fence", "strikes", "owner", "t0"} & record.keys()
    assert desk.raw.zcard(newer_key(desk.names)) == 1, "its copies are one task"


def test_record_of_a_client_is_not_touched(desk: Desk, records: Records) -> None:
    task = Task(id=str(uuid.uuid4()), kind="ask", question="What?", images=())
    records.create(task)
    written = json.dumps({"id": task.id, "kind": "film", "version": 2, "colour": "red"})
    desk.raw.hset(desk.names.record(task.id), "task", written)
    before = desk.record(task.id)
    desk.push(message(task.id))
    defer(desk.leases, desk.must_claim()[1], '{"other":1}')
    after = desk.record(task.id)
    assert {**after, "claim": ""} == {**before, "claim": ""}


def test_a_newer_worker_that_dies_leaves_the_task_to_others(
    desk: Desk, claims_newer: ClaimsNewer
) -> None:
    text = message()
    desk.push(text)
    defer(desk.leases, desk.must_claim()[1])
    assert claims_newer() is not None
    desk.let_time_pass(61)
    assert desk.leases.sweep() == Swept(1, ())
    defer(desk.leases, desk.must_claim()[1])
    taken = claims_newer()
    assert taken is not None
    assert taken[0] == text


def test_copy_of_a_task_that_runs_is_dropped(desk: Desk, claims_newer: ClaimsNewer) -> None:
    task_id = str(uuid.uuid4())
    desk.push(message(task_id))
    _, claim = desk.must_claim()
    desk.push(message(task_id))
    defer(desk.leases, claim)
    assert claims_newer() is not None
    assert desk.claim() is None
    assert claims_newer() is None
    assert desk.queued() == []


def test_every_key_ends(desk: Desk) -> None:
    desk.push(message())
    defer(desk.leases, desk.must_claim()[1])
    keys = [newer_key(desk.names), f"{newer_key(desk.names)}:messages", desk.names.open()]
    assert all(0 < int(str(desk.raw.ttl(key))) <= 600 for key in keys)


def test_what_redis_has_not_confirmed_is_said_again(
    desk: Desk, make_leases: MakeLeases, claims_newer: ClaimsNewer
) -> None:
    desk.push(message())
    _, claim = desk.must_claim()
    away = make_leases("host:1", "redis://127.0.0.1:1/0")
    away.took(claim)
    defer(away, claim)
    assert away.held == [claim]
    away._redis, away._defer = desk.leases._redis, desk.leases._defer
    away.retry()
    assert away.held == []
    assert claims_newer() is not None


# What the reconciler does with it.


def newer_task(office: Office, **more: Any) -> Task:
    """A client's task of version 2, with its record."""
    task = office.task()
    written = json.loads(encode_task(task)) | {"version": 2, "colour": "red"} | more
    office.raw.hset(office.names.record(task.id), "task", json.dumps(written))
    return task


def deferred(office: Office, desk: Desk, **more: Any) -> Task:
    task = newer_task(office, **more)
    desk.push(message(task.id))
    defer(desk.leases, desk.must_claim()[1])
    return task


def report(office: Office, version: int) -> None:
    told = replace(REPORT, contract_version=version)
    Fleets(office.raw, office.names).tell(f"v{version}:1", told)


def nobody_reads_it_for(office: Office, seconds: float) -> None:
    absent = office.names.newer("2:absent")
    office.raw.set(absent, time() - seconds, ex=60)


def test_newer_task_is_sent_again_with_all_its_fields(office: Office) -> None:
    task = newer_task(office)
    office.look()
    (text,) = office.raw.lrange(office.names.queue(Lane.INTERACTIVE), 0, -1)
    _, kwargs, _ = json.loads(base64.b64decode(json.loads(text)["body"]))
    held = json.loads(str(office.raw.hget(office.names.record(task.id), "task")))
    assert kwargs["task"] == held
    assert (held["version"], held["colour"]) == (2, "red")


def test_deferred_task_waits_while_a_newer_worker_is_alive(office: Office, desk: Desk) -> None:
    task = deferred(office, desk)
    nobody_reads_it_for(office, NEWER_GRACE_SECONDS + 1)
    report(office, 1)
    report(office, 3)
    for _ in range(3):
        office.look()
    assert office.bench.state(task) is State.PENDING
    assert office.queued() == []
    assert not office.raw.exists(office.names.newer("2:absent"))


def test_deferred_task_waits_for_a_while_without_a_newer_worker(office: Office, desk: Desk) -> None:
    task = deferred(office, desk)
    report(office, 1)
    office.look()
    assert office.bench.state(task) is State.PENDING
    assert float(str(office.raw.ttl(office.names.newer("2:absent")))) > 0
    nobody_reads_it_for(office, NEWER_GRACE_SECONDS - 5)
    office.look()
    assert office.bench.state(task) is State.PENDING
    assert office.seconds_to_look(task) < 6


def test_deferred_task_ends_when_no_newer_worker_comes(office: Office, desk: Desk) -> None:
    task = deferred(office, desk, tenant="acme", labels={"batch": "7"})
    nobody_reads_it_for(office, NEWER_GRACE_SECONDS + 1)
    office.look()
    stored = office.bench.stored(task)
    assert stored is not None
    assert stored.failure is not None
    assert stored.failure.code == FailureCode.UNSUPPORTED_VERSION
    assert "upgrade the workers" in stored.failure.message
    assert (stored.kind, stored.tenant, stored.labels) == (task.kind, "acme", {"batch": "7"})
    assert office.bench.state(task) is State.FAILURE
    assert not office.is_looked_at(task)
    assert office.raw.zcard(newer_key(office.names)) == 0
    assert office.queued() == [task.id], "so that who waits by Celery is told"


def test_foreign_task_that_nobody_reads_ends_too(office: Office, desk: Desk) -> None:
    task_id = str(uuid.uuid4())
    desk.push(message(task_id), Lane.BULK)
    data = {"id": task_id, "kind": "film", "lane": "bulk", "version": 2}
    defer(desk.leases, desk.must_claim()[1], json.dumps(data))
    nobody_reads_it_for(office, NEWER_GRACE_SECONDS + 1)
    office.look()
    assert office.bench.records.status(task_id).state is State.FAILURE
    assert office.queued(Lane.BULK) == [task_id]


def test_end_of_a_newer_task_is_left_to_a_newer_worker(office: Office, desk: Desk) -> None:
    late, cancelled, dead = (
        deferred(office, desk, deadline=time() - 1),
        deferred(office, desk),
        newer_task(office),
    )
    office.bench.records.cancel(cancelled.id)
    office.raw.hset(office.names.record(dead.id), "dead", "5 workers were lost")
    report(office, 2)
    office.look()
    assert [office.bench.stored(task) for task in (late, cancelled, dead)] == [None] * 3
    assert all(office.seconds_to_look(task) <= 1 for task in (late, cancelled, dead))
    office.raw.delete(office.names.workers())
    office.look()
    states = [office.bench.state(task) for task in (late, cancelled, dead)]
    assert states == [State.EXPIRED, State.REVOKED, State.FAILURE]
    assert all(office.bench.stored(task) is not None for task in (late, cancelled, dead))
    assert office.raw.zcard(newer_key(office.names)) == 0


def test_messages_of_deferred_tasks_are_not_taken_for_lost(office: Office, desk: Desk) -> None:
    report(office, 2)
    task = deferred(office, desk)
    office.make_older(task, 100)
    office.look()
    office.look()
    assert office.queued() == []
    office.raw.delete(newer_key(office.names))
    office.look()
    assert office.queued() == [task.id], "now it is lost"


# A record of a newer version.


def test_unknown_state_is_left_as_it_is_while_a_newer_worker_is_alive(office: Office) -> None:
    task = office.task()
    office.raw.hset(office.names.record(task.id), "state", "STREAMING")
    report(office, 2)
    before = office.raw.hgetall(office.names.record(task.id))
    with pytest.raises(UnsupportedVersion) as raised:
        office.start(task)
    assert raised.value.version == 2
    office.look()
    office.look()
    assert office.raw.hgetall(office.names.record(task.id)) == before
    assert office.queued() == []


def test_unknown_state_is_somebodys_damage_where_no_newer_worker_is_alive(office: Office) -> None:
    task = office.task()
    office.raw.hset(office.names.record(task.id), "state", "STREAMING")
    report(office, 1)
    office.look()
    assert office.queued() == [task.id]
    assert office.start(task) > 0


def test_task_in_an_unknown_lane_is_left_to_a_newer_worker(office: Office) -> None:
    task = newer_task(office, lane="night")
    report(office, 2)
    office.look()
    assert office.queued() == []
    assert office.seconds_to_look(task) < 11


# Reports.


def test_workers_report_the_version_that_they_read(office: Office) -> None:
    report(office, 3)
    fleets = Fleets(office.raw, office.names)
    assert [one.contract_version for one in fleets.look().workers] == [3]


def test_report_without_a_version_is_of_version_1(office: Office) -> None:
    report(office, 3)
    at, told = str(office.raw.hget(office.names.workers(), "v3:1")).split(" ", 1)
    data = json.loads(told)
    del data["contract_version"]
    office.raw.hset(office.names.workers(), "v3:1", f"{at} {json.dumps(data)}")
    (one,) = Fleets(office.raw, office.names).look().workers
    assert one.contract_version == 1


@pytest.mark.parametrize("told", ["5", '"2"', "null", '{"contract_version":"many"}', "no JSON"])
def test_spoilt_report_is_of_no_newer_worker(office: Office, desk: Desk, told: str) -> None:
    task = deferred(office, desk)
    office.raw.hset(office.names.workers(), "spoilt:1", f"{int(time())} {told}")
    office.raw.expire(office.names.workers(), 60)
    nobody_reads_it_for(office, NEWER_GRACE_SECONDS + 1)
    office.look()
    assert office.bench.state(task) is State.FAILURE


def test_result_that_a_newer_worker_has_decided_is_stored_as_it_is(office: Office) -> None:
    """That worker died before it could store it; this one cannot read all of it."""
    task, bench = office.task(), office.bench
    fence = office.start(task)
    newer = {
        "task_id": task.id,
        "kind": task.kind,
        "state": "SUCCESS",
        "finished_at": time(),
        "text": "red",
        "finish_reason": "bored",
        "version": 2,
    }
    assert bench.records.decide(task.id, json.dumps(newer), fence=fence)
    bench.executor.execute(task)
    assert json.loads(bench.store.get(task.result_key)) == newer
    assert bench.state(task) is State.SUCCESS


def test_result_that_a_newer_worker_has_stored_is_not_replaced(office: Office) -> None:
    """That worker died before it could report it, and Redis has lost what it had decided."""
    task, bench = office.task(), office.bench
    office.start(task)
    newer = {
        "task_id": task.id,
        "kind": task.kind,
        "state": "SUCCESS",
        "finished_at": time() + 1,
        "finish_reason": "bored",
        "version": 2,
    }
    bench.store.put(task.result_key, json.dumps(newer).encode(), "application/json")
    bench.executor.execute(task)
    assert json.loads(bench.store.get(task.result_key)) == newer
    assert bench.state(task) is State.SUCCESS
