"""Attempts that die, or are stopped for long, between deciding, storing and reporting a result."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from tests.support.scripted import ScriptedEngine
from tests.worker.workbench import OWNER, Workbench, workbench
from visionq import StoreAddress
from visionq.contract import FailureCode, Result, State, Task, dump_result, read_result
from visionq.names import RESULT_FOLDER, Names
from visionq.objects import ObjectStore
from visionq.records import Key, Records
from visionq_worker.errors import TaskError


class Died(BaseException):
    """No handler of the worker's may catch it: the attempt is over."""


class Scripted(ObjectStore):
    """Lets something happen before or after it takes a result."""

    def __init__(self, address: StoreAddress) -> None:
        super().__init__(address)
        self.before_put: Callable[[], object] = lambda: None
        self.after_put: Callable[[], object] = lambda: None
        self.contents: list[bytes] = []

    def put(self, key: str, content: bytes, content_type: str = "") -> None:
        if not key.startswith(RESULT_FOLDER):
            super().put(key, content, content_type)
            return
        self.before_put()
        super().put(key, content, content_type)
        self.contents.append(content)
        self.after_put()


def die() -> None:
    raise Died


@pytest.fixture
def store(address: StoreAddress) -> Iterator[Scripted]:
    opened = Scripted(address)
    yield opened
    opened.close()


@pytest.fixture
def first(records: Records, store: Scripted) -> Workbench:
    """The worker that something happens to."""
    return workbench(ScriptedEngine("the first answer"), records, store)


@pytest.fixture
def second(bench_with: Callable[[ScriptedEngine], Workbench]) -> Workbench:
    """The worker that takes over."""
    return bench_with(ScriptedEngine("another answer"))


def dies(bench: Workbench, task: Task) -> None:
    with pytest.raises(Died):
        bench.executor.execute(task)


def test_answer_of_an_attempt_that_died_before_its_put_is_stored_by_the_next(
    first: Workbench, second: Workbench, store: Scripted
) -> None:
    task, store.before_put = first.task(), die
    dies(first, task)
    assert second.stored(task) is None
    assert second.run(task).text == "the first answer"
    assert second.engine.requests == []
    stored = second.stored(task)
    assert stored is not None
    assert (stored.text, stored.provenance.attempt) == ("the first answer", 1)
    assert second.state(task) is State.SUCCESS


def test_answer_of_an_attempt_that_died_after_its_put_stays(
    first: Workbench, second: Workbench, store: Scripted
) -> None:
    task, store.after_put = first.task(), die
    dies(first, task)
    second.run(task)
    assert second.store.get(task.result_key) == store.contents[0]
    assert second.engine.requests == []


def test_attempt_that_was_stopped_before_its_put_writes_what_its_successor_has_written(
    first: Workbench, second: Workbench, store: Scripted
) -> None:
    successors: list[bytes] = []

    def be_overtaken() -> None:
        second.run(task)
        successors.append(second.store.get(task.result_key))

    task, store.before_put = first.task(), be_overtaken
    assert first.executor.execute(task) is State.SUCCESS
    assert store.contents == successors


def test_attempt_that_was_overtaken_before_it_decided_writes_nothing(
    second: Workbench, records: Records, store: Scripted
) -> None:
    class Stopped(ScriptedEngine):
        def decode(self, token_ids: object) -> str:
            second.run(task)
            return "a late answer"

    late = workbench(Stopped(), records, store)
    task = late.task()
    assert late.executor.execute(task) is State.SUCCESS
    assert store.contents == []
    stored = second.stored(task)
    assert stored is not None
    assert stored.text == "another answer"


def test_ending_a_task_that_was_answered_stores_the_answer(
    first: Workbench, second: Workbench, store: Scripted
) -> None:
    """As when its workers were lost too often, or its deadline has passed meanwhile."""
    task, store.before_put = first.task(), die
    dies(first, task)
    ended = second.executor.end(task, TaskError(FailureCode.WORKER_LOST, "too many"))
    assert isinstance(ended, Result)
    assert ended.text == "the first answer"
    assert second.state(task) is State.SUCCESS


def test_ending_a_task_that_was_stored_reports_what_is_stored(
    first: Workbench, second: Workbench, store: Scripted, raw: redis.Redis, names: Names
) -> None:
    """Also when Redis has forgotten what was decided."""
    task, store.after_put = first.task(), die
    dies(first, task)
    raw.hdel(names.record(task.id), "result")
    second.executor.end(task, TaskError(FailureCode.WORKER_LOST, "too many"))
    assert second.store.get(task.result_key) == store.contents[0]
    assert second.state(task) is State.SUCCESS


def test_cancel_of_a_task_that_was_answered_is_too_late(
    first: Workbench, second: Workbench, store: Scripted
) -> None:
    task, store.before_put = first.task(), die
    dies(first, task)
    assert first.records.cancel(task.id) is State.STARTED
    assert not first.status(task).is_cancel_requested
    assert second.run(task).state is State.SUCCESS


@pytest.mark.parametrize("kind", ["ask", "guess"])
def test_record_keeps_no_result_once_it_is_stored(
    first: Workbench, raw: redis.Redis, names: Names, store: Scripted, kind: str
) -> None:
    task = first.task(kind)
    seen: list[bytes] = []

    def look() -> None:
        seen.append(str(raw.hget(names.record(task.id), "result")).encode())

    store.before_put = look
    result = first.run(task)
    assert seen == store.contents
    assert read_result(seen[0]) == result
    assert not raw.hexists(names.record(task.id), "result")


def test_result_of_a_cancelled_task_is_the_same_whoever_writes_it(
    first: Workbench, second: Workbench, records: Records, store: Scripted
) -> None:
    """Two reconcilers, the first of which is stopped before its put."""
    task = first.task()
    records.cancel(task.id)
    store.before_put = lambda: second.executor.write_revoked(task)
    first.executor.write_revoked(task)
    assert store.contents == [second.store.get(task.result_key)]
    assert read_result(store.contents[0]).provenance.worker == OWNER


def test_result_that_is_owed_no_more_is_not_written(first: Workbench, store: Scripted) -> None:
    task = first.task()
    answer = first.run(task)
    first.executor.write_revoked(task)
    assert store.contents == [dump_result(answer)]


def test_object_of_an_earlier_task_does_not_stay_as_a_cancelled_one_s(
    first: Workbench, records: Records, raw: redis.Redis, names: Names
) -> None:
    """The key's record has gone, its object has not, and the key is used again."""
    task = first.task(is_submitted=False)
    key = Key(first_id=task.id, fingerprint="print")
    records.create(task, key=key)
    assert first.run(task).state is State.SUCCESS
    raw.delete(names.record(task.id))
    records.create(task, key=key)
    records.cancel(task.id)
    first.executor.write_revoked(task)
    stored = first.stored(task)
    assert stored is not None
    assert stored.state is State.REVOKED
    ended_at = records.status(task.id).finished_at
    assert stored.finished_at == pytest.approx(ended_at, abs=1), "by the clock of Redis"
