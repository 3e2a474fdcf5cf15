"""A message comes back though its record is lost: after a failover, a flush, or an eviction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import redis

from tests.support.scripted import ScriptedEngine
from tests.support.strict_store import strict_store
from tests.worker.workbench import Workbench, workbench
from visionq import StoreAddress
from visionq.contract import Failure, FailureCode, Result, State, Task, dump_result
from visionq.names import Names
from visionq.objects import ObjectStore
from visionq.records import Records
from visionq_worker.errors import TaskError


@pytest.fixture(params=["overwrites", "keeps what is there"])
def first(
    request: pytest.FixtureRequest, address: StoreAddress, records: Records, bucket: ObjectStore
) -> Iterator[Workbench]:
    """The worker whose record is lost, on a store that honours conditional writes or does not."""
    engine = ScriptedEngine("the first answer")
    if request.param == "overwrites":
        yield workbench(engine, records, bucket)
        return
    assert address.endpoint_url is not None
    with strict_store(address.endpoint_url) as url:
        store = ObjectStore(replace(address, endpoint_url=url))
        yield workbench(engine, records, store, keeps_results=True)
        store.close()


@pytest.fixture
def second(first: Workbench, records: Records) -> Workbench:
    """The worker that gets the message again."""
    keeps_results = first.executor._commits._keeps_results
    engine = ScriptedEngine("another answer")
    return workbench(engine, records, first.store, keeps_results=keeps_results)


@pytest.fixture
def lose(raw: redis.Redis, names: Names) -> Callable[[Task], None]:
    def delete(task: Task) -> None:
        assert raw.delete(names.record(task.id)) == 1

    return delete


def test_answered_task_is_not_run_again(
    first: Workbench, second: Workbench, lose: Callable[[Task], None]
) -> None:
    task = first.task()
    answer = first.run(task)
    content = first.store.get(task.result_key)
    lose(task)
    assert second.run(task) == answer
    assert second.engine.requests == []
    assert second.store.get(task.result_key) == content
    status = second.status(task)
    assert (status.state, status.attempt) == (State.SUCCESS, 1)
    assert status.generated_tokens == (answer.usage.completion_tokens if answer.usage else None)


@pytest.mark.parametrize("state", [State.FAILURE, State.EXPIRED, State.REVOKED])
def test_task_that_has_ended_otherwise_is_not_run_again(
    first: Workbench, second: Workbench, lose: Callable[[Task], None], state: State
) -> None:
    task = first.task()
    failure = Failure(code="not_an_image", message="it is none")
    ended = Result(task_id=task.id, kind=task.kind, state=state, finished_at=1.0, failure=failure)
    first.store.put(task.result_key, dump_result(ended))
    lose(task)
    assert second.run(task) == ended
    assert second.engine.requests == []
    assert second.status(task).failure == failure


def test_ending_a_task_that_was_answered_leaves_its_answer(
    first: Workbench, second: Workbench, lose: Callable[[Task], None]
) -> None:
    """As when its message is found too bad to be run, or its deadline has passed."""
    task = first.task()
    answer = first.run(task)
    lose(task)
    ended = second.executor.end(task, TaskError(FailureCode.EXPIRED, "too late"))
    assert ended == answer
    assert second.stored(task) == answer
    assert second.state(task) is State.SUCCESS


def test_task_that_was_not_answered_is_run(
    first: Workbench, second: Workbench, lose: Callable[[Task], None]
) -> None:
    task = first.task()
    lose(task)
    assert second.run(task).text == "another answer"


def test_dead_letter_that_is_replayed_is_run(
    first: Workbench, second: Workbench, lose: Callable[[Task], None]
) -> None:
    task = first.task()
    first.executor.end(task, TaskError(FailureCode.WORKER_LOST, "too many", retryable=True))
    lose(task)
    assert second.run(task).text == "another answer"


def test_damaged_object_does_not_stand_in_the_way(
    first: Workbench, second: Workbench, lose: Callable[[Task], None]
) -> None:
    task = first.task()
    first.store.put(task.result_key, b"half of a doc")
    lose(task)
    assert second.run(task).text == "another answer"
    stored = second.stored(task)
    assert stored is not None
    assert stored.text == "another answer"


class Counting(ObjectStore):
    """Counts how often it is asked for a result."""

    num_gets = 0

    def get(self, key: str, *, bucket: str | None = None, max_bytes: int | None = None) -> bytes:
        self.num_gets += key.startswith("results/")
        return super().get(key, bucket=bucket, max_bytes=max_bytes)


def test_first_attempt_of_a_submitted_task_asks_the_store_nothing(
    address: StoreAddress, records: Records
) -> None:
    store = Counting(address)
    bench = workbench(ScriptedEngine(), records, store)
    bench.run(bench.task())
    assert store.num_gets == 0
    bench.run(bench.task(is_submitted=False))
    assert store.num_gets == 1, "of a foreign sender's, nobody knows whether it was lost"
    store.close()
