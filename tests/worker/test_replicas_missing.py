"""The end of a task while replicas that have to confirm it do not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic

import pytest
import redis

from tests.faults.replicated import Replicated
from tests.support.scripted import ScriptedEngine
from tests.support.waiting import wait_until
from tests.worker.workbench import HeldEngine, Workbench, workbench
from visionq.connections import connect
from visionq.contract import FailureCode, Result, State, Task
from visionq.names import Names
from visionq.objects import ObjectStore
from visionq.records import Records
from visionq.replication import Replicas
from visionq_worker.errors import Postponed, TaskError

NAMES = Names()
WAIT_SECONDS = 0.3
SECONDS = 15.0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicated]:
    with Replicated(tmp_path_factory.mktemp("pair")) as running:
        yield running


@pytest.fixture
def records(pair: Replicated) -> Iterator[Records]:
    client = connect(pair.url, timeout_seconds=1)
    client.flushall()
    replicas = Replicas(num=1, timeout_seconds=WAIT_SECONDS)
    yield Records(client, NAMES, ttl_seconds=600, replicas=replicas)
    client.close()


@pytest.fixture
def bench(records: Records, store: ObjectStore) -> Workbench:
    return workbench(ScriptedEngine("an answer"), records, store)


@pytest.fixture
def away(pair: Replicated) -> Iterator[Callable[[], None]]:
    """Nobody follows the primary; a call brings the replica back."""
    called: list[bool] = []

    def come_back() -> None:
        if not called:
            called.append(True)
            pair.start_replica()

    pair.stop_replica()
    yield come_back
    come_back()


@contextmanager
def executing(
    bench: Workbench, come_back: Callable[[], None], *tasks: Task
) -> Iterator[list[Future[Result | State]]]:
    """The tasks in threads. The replica is back at the end of the block."""
    with ThreadPoolExecutor(len(tasks)) as pool:
        try:
            yield [pool.submit(bench.executor.execute, task) for task in tasks]
        finally:
            come_back()


def submitted(bench: Workbench, pair: Replicated) -> Task:
    """With a record that every replica has."""
    task = bench.task(is_submitted=False)
    with redis.Redis.from_url(pair.url) as plain:
        Records(plain, NAMES, ttl_seconds=600).create(task)
    return task


def test_task_that_has_ended_waits_for_the_replica(
    bench: Workbench,
    pair: Replicated,
    away: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "visionq_worker.commits")
    tasks = [submitted(bench, pair) for _ in range(3)]
    with executing(bench, away, *tasks) as outcomes:
        wait_until(lambda: {bench.state(task) for task in tasks} == {State.SUCCESS})
        assert all(bench.stored(task) for task in tasks)
        began = monotonic()
        wait_until(lambda: monotonic() - began > 3 * WAIT_SECONDS)
        assert not any(each.done() for each in outcomes)
        away()
        for each in outcomes:
            result = each.result(SECONDS)
            assert isinstance(result, Result)
            assert result.provenance.attempt == 1
    told = [line.getMessage() for line in caplog.records if "replicas" in line.getMessage()]
    assert len(told) == 2, "once that they are missing, once that they are back"
    assert "0 of 1 replicas of Redis have confirmed" in told[0]


def test_second_delivery_of_a_task_that_has_ended_waits_too(
    bench: Workbench, pair: Replicated, away: Callable[[], None]
) -> None:
    task = submitted(bench, pair)
    with executing(bench, away, task) as first:
        wait_until(lambda: bench.state(task) is State.SUCCESS)
        with executing(bench, away, task) as second:
            began = monotonic()
            wait_until(lambda: monotonic() - began > 3 * WAIT_SECONDS)
            assert not first[0].done()
            assert not second[0].done()
        assert second[0].result(SECONDS) is State.SUCCESS


def test_end_that_was_lost_with_the_primary_is_told_to_the_next_one(
    records: Records, store: ObjectStore, pair: Replicated
) -> None:
    engine = HeldEngine("an answer")
    bench = workbench(engine, records, store)
    task = bench.task()
    with executing(bench, pair.start_replica, task) as outcomes:
        wait_until(lambda: engine.requests)
        records.confirm()  # the replica knows of the start
        pair.silence_link()
        engine.end(0)
        wait_until(lambda: bench.state(task) is State.SUCCESS)
        pair.lose_primary()
        wait_until(lambda: bench.state(task) is State.SUCCESS)
        assert not outcomes[0].done()
    result = outcomes[0].result(SECONDS)
    assert isinstance(result, Result)
    assert (result.text, result.provenance.attempt) == ("an answer", 1)
    assert bench.stored(task) == result


def test_reconciler_waits_for_no_replica(
    bench: Workbench, pair: Replicated, away: Callable[[], None]
) -> None:
    """Of ends that are lost with a primary, the next one knows nothing: they are found again."""
    task = submitted(bench, pair)
    error = TaskError(FailureCode.EXPIRED, "too late")
    ended = bench.executor.end(task, error, waits_for_replicas=False)
    assert isinstance(ended, Result)
    assert bench.state(task) is State.EXPIRED
    assert bench.executor.end(task, error, waits_for_replicas=False) is State.EXPIRED


def test_foreign_task_that_is_delayed_keeps_its_message_until_replicas_have_its_record(
    bench: Workbench, away: Callable[[], None]
) -> None:
    task = bench.task(is_submitted=False)
    bench.executor.keep_options(task.id, "{}")
    with pytest.raises(Postponed):
        bench.executor.delay(task, 60)
    away()
    bench.executor.delay(task, 60)
    assert bench.state(task) is State.PENDING
