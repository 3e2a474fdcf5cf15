"""A message comes back though its record is lost: after a failover, a flush, or an eviction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import redis

from tests.support.redis_users import EVERYTHING, redis_user
from tests.support.scripted import ScriptedEngine
from tests.support.strict_store import strict_store
from tests.support.waiting import wait_until
from tests.worker.workbench import HeldEngine, Workbench, running, workbench
from visionq import StoreAddress
from visionq.connections import connect
from visionq.contract import Failure, FailureCode, Result, State, Task, dump_result, encode_task
from visionq.errors import StorageUnavailable
from visionq.local import LocalUrls
from visionq.names import Names
from visionq.objects import ObjectStore
from visionq.records import Records
from visionq_worker.errors import Postponed, TaskError


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


def test_answered_task_is_not_delayed_again(
    first: Workbench, second: Workbench, lose: Callable[[Task], None]
) -> None:
    """A foreign message with a delay, which no record remembers any more."""
    task = first.task()
    answer = first.run(task)
    assert second.executor.delay(task, 60.0) is None
    assert second.state(task) is State.SUCCESS, "a record that is there counts"
    lose(task)
    assert second.executor.delay(task, 60.0) == answer
    assert second.state(task) is State.SUCCESS
    other = second.task(is_submitted=False)
    assert second.executor.delay(other, 60.0) is None
    assert second.state(other) is State.PENDING


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


def test_attempt_of_before_the_loss_writes_nothing_into_the_new_record(
    records: Records, bucket: ObjectStore, lose: Callable[[Task], None]
) -> None:
    """The task is submitted again, and another worker runs it, while the first one still does."""
    engine = HeldEngine()
    late = workbench(engine, records, bucket)
    task = late.task()
    with running(late, task) as outcome:
        wait_until(lambda: engine.handles)
        lose(task)
        records.create(task)
        attempt = records.start(task, owner="another", max_new_tokens=10)
        engine.end(0)
        assert outcome.result(20) in (State.STARTED, State.PROGRESS)
    assert late.stored(task) is None
    assert records.status(task.id).attempt == 1
    assert records.decide(task.id, "{}", fence=attempt.fence)


class Watched(ObjectStore):
    """Lets something happen when it is asked for a result."""

    def __init__(self, address: StoreAddress) -> None:
        super().__init__(address)
        self.when_asked: Callable[[], object] = lambda: None
        self.num_asked = 0

    def get(self, key: str, *, bucket: str | None = None, max_bytes: int | None = None) -> bytes:
        if key.startswith("results/"):
            self.num_asked += 1
            self.when_asked()
        return super().get(key, bucket=bucket, max_bytes=max_bytes)


@pytest.fixture
def watched(address: StoreAddress) -> Iterator[Watched]:
    store = Watched(address)
    yield store
    store.close()


def test_first_attempt_of_a_submitted_task_asks_the_store_nothing(
    records: Records, watched: Watched
) -> None:
    bench = workbench(ScriptedEngine(), records, watched)
    bench.run(bench.task())
    assert watched.num_asked == 0
    bench.run(bench.task(is_submitted=False))
    assert watched.num_asked == 1, "of a foreign sender's, nobody knows whether it was lost"


def test_no_status_goes_back_while_the_result_is_looked_for(
    records: Records,
    watched: Watched,
    lose: Callable[[Task], None],
    raw: redis.Redis,
    names: Names,
) -> None:
    """A client that finds no record finds the object: it must not find a task that runs."""
    bench = workbench(ScriptedEngine(), records, watched)
    task = bench.task()
    bench.run(task)
    lose(task)
    seen: list[bool] = []
    watched.when_asked = lambda: seen.append(raw.hexists(names.record(task.id), "state"))
    with raw.pubsub() as events:  # type: ignore[no-untyped-call]
        events.subscribe(names.events(task.id))
        bench.run(task)
        told = [events.get_message(timeout=1) for _ in range(2)]
        assert events.get_message(timeout=0) is None
    assert seen == [False]
    assert [message and message["data"] for message in told] == [1, "SUCCESS"]


def test_store_that_is_away_postpones_the_task_and_nothing_is_written(
    records: Records,
    watched: Watched,
    lose: Callable[[Task], None],
    raw: redis.Redis,
    names: Names,
) -> None:
    bench = workbench(ScriptedEngine("another answer"), records, watched)
    task = bench.task()
    lose(task)

    def refuse() -> None:
        raise StorageUnavailable

    watched.when_asked = refuse
    with pytest.raises(Postponed):
        bench.executor.execute(task)
    assert not bench.store_gate.is_open
    assert not raw.exists(names.record(task.id))
    watched.when_asked = lambda: None
    assert bench.run(task).text == "another answer"


def test_record_that_another_worker_has_made_meanwhile_stays(
    first: Workbench, records: Records, watched: Watched, lose: Callable[[Task], None]
) -> None:
    bench = workbench(ScriptedEngine("another answer"), records, watched)
    task = bench.task()
    answer = bench.run(task)
    lose(task)
    watched.when_asked = lambda: records.restore(task.id, encode_task(task), answer, is_held=True)
    assert bench.executor.execute(task) is State.SUCCESS
    assert bench.stored(task) == answer


def test_restored_record_is_left_alone_by_a_claim_and_keeps_its_time(
    first: Workbench, lose: Callable[[Task], None], raw: redis.Redis, names: Names
) -> None:
    task, records = first.task(), first.records
    answer = first.run(task)
    lose(task)
    raw.hset(names.record(task.id), "claim", "somebody's")
    raw.expire(names.record(task.id), 60)
    assert not records.restore(task.id, encode_task(task), answer, is_held=False)
    assert records.status(task.id).state is State.UNKNOWN
    lose(task)
    assert records.restore(task.id, encode_task(task), answer, ttl_seconds=60, is_held=False)
    assert 50 < int(raw.ttl(names.record(task.id))) <= 60
    assert not records.restore(task.id, encode_task(task), answer, is_held=True)
    assert records.status(task.id).finished_at == pytest.approx(answer.finished_at)


def test_record_is_restored_by_a_user_who_may_use_no_channel(
    first: Workbench, lose: Callable[[Task], None], urls: LocalUrls, names: Names
) -> None:
    task = first.task()
    answer = first.run(task)
    lose(task)
    with (
        redis_user(urls, *EVERYTHING, "resetchannels") as user,
        connect(user.urls.broker_url, timeout_seconds=2) as limited,
    ):
        records = Records(limited, names, ttl_seconds=600)
        assert records.restore(task.id, encode_task(task), answer, is_held=True)
        assert records.status(task.id).state is State.SUCCESS
