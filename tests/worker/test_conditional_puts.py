"""A stored result stays as it is, where the store honours conditional writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.scripted import ScriptedEngine
from tests.support.strict_store import strict_store
from tests.worker.workbench import Workbench, workbench
from visionq import StoreAddress
from visionq.contract import Failure, Result, State, Task, dump_result
from visionq.objects import ObjectStore
from visionq.records import Key, Records


@pytest.fixture
def strict(address: StoreAddress) -> Iterator[ObjectStore]:
    assert address.endpoint_url is not None
    with strict_store(address.endpoint_url) as url:
        store = ObjectStore(replace(address, endpoint_url=url))
        yield store
        store.close()


@pytest.fixture
def bench(records: Records, strict: ObjectStore) -> Workbench:
    return workbench(ScriptedEngine(), records, strict, keeps_results=True)


def earlier(task: Task, **outcome: object) -> Result:
    """What another attempt has stored."""
    given = {"state": State.SUCCESS, "text": "another answer"} | outcome
    return Result(task_id=task.id, kind=task.kind, finished_at=1.0, **given)  # type: ignore[arg-type]


def test_store_that_honours_the_condition_is_found_out(
    strict: ObjectStore, bucket: ObjectStore
) -> None:
    assert strict.honours_put_new()
    assert not bucket.honours_put_new(), "the embedded one overwrites"


def test_object_is_stored_once(strict: ObjectStore) -> None:
    key = "probes/once"
    strict.delete(key)
    assert strict.put_new(key, b"first")
    assert not strict.put_new(key, b"second")
    assert strict.get(key) == b"first"
    strict.delete(key)


def test_answer_is_stored_and_reported(bench: Workbench) -> None:
    task = bench.task()
    result = bench.run(task)
    assert bench.stored(task) == result
    assert bench.state(task) is State.SUCCESS


def test_answer_that_another_attempt_has_stored_first_is_reported_instead(
    bench: Workbench,
) -> None:
    task = bench.task()
    first = earlier(task)
    bench.store.put(task.result_key, dump_result(first))
    assert bench.run(task) == first
    assert bench.stored(task) == first
    assert bench.state(task) is State.SUCCESS


def test_failure_of_another_attempt_is_reported_as_one(bench: Workbench) -> None:
    task = bench.task()
    failure = Failure(code="not_an_image", message="it is none")
    first = earlier(task, state=State.FAILURE, text=None, failure=failure)
    bench.store.put(task.result_key, dump_result(first))
    assert bench.run(task).failure == failure
    assert bench.status(task).failure == failure


def test_replayed_dead_letter_replaces_its_failure(bench: Workbench) -> None:
    task = bench.task()
    failure = Failure(code="worker_lost", message="too many", retryable=True)
    first = earlier(task, state=State.FAILURE, text=None, failure=failure)
    bench.store.put(task.result_key, dump_result(first))
    assert bench.run(task).text == "a scripted answer"
    stored = bench.stored(task)
    assert stored is not None
    assert stored.text == "a scripted answer"


@pytest.mark.parametrize("num_lost_attempts", [0, 1])
def test_object_of_a_key_whose_record_has_ended_is_not_taken_for_the_new_task_s(
    bench: Workbench, num_lost_attempts: int
) -> None:
    """A key's first task has the same id again when the record of the earlier one is gone."""
    task = bench.task(question="Something else?", is_submitted=False)
    bench.store.put(task.result_key, dump_result(earlier(task)))
    bench.records.create(task, key=Key(first_id=task.id, fingerprint="of something else"))
    for _ in range(num_lost_attempts):
        bench.records.start(task, owner="lost", max_new_tokens=10)
    assert bench.run(task).text == "a scripted answer"
    stored = bench.stored(task)
    assert stored is not None
    assert stored.text == "a scripted answer"


def test_object_that_a_lost_attempt_of_a_key_s_task_has_stored_is_reported(
    bench: Workbench,
) -> None:
    task = bench.task(is_submitted=False)
    bench.records.create(task, key=Key(first_id=task.id, fingerprint="of the same"))
    now = bench.records.start(task, owner="lost", max_new_tokens=10).now
    first = replace(earlier(task), finished_at=now)
    bench.store.put(task.result_key, dump_result(first))
    assert bench.run(task) == first
