"""Tasks that end otherwise: cancelled, late, done before, or taken over by another attempt."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import redis

from tests.support.scripted import ScriptedEngine
from tests.support.waiting import wait_until
from tests.worker.workbench import LONG, HeldEngine, Workbench, running
from visionq.contract import Failure, State
from visionq.names import Names
from visionq_worker.engine.request import Handle, Request
from visionq_worker.errors import Postponed

BenchWith = Callable[[ScriptedEngine], Workbench]

SECONDS = 10.0


@pytest.fixture
def slow(bench_with: BenchWith) -> Workbench:
    """A workbench whose engine would take a minute."""
    return bench_with(ScriptedEngine(LONG, seconds_per_token=0.005))


@pytest.fixture
def held_engine() -> HeldEngine:
    return HeldEngine()


@pytest.fixture
def held(bench_with: BenchWith, held_engine: HeldEngine) -> Workbench:
    """A workbench whose engine answers when the test says so."""
    return bench_with(held_engine)


def test_cancelled_while_running_is_revoked_once_the_engine_has_let_go(slow: Workbench) -> None:
    task = slow.task()
    with running(slow, task) as outcome:
        wait_until(lambda: slow.status(task).generated_tokens)
        assert slow.records.cancel(task.id) is State.PROGRESS
        result = outcome.result(SECONDS)
    assert not isinstance(result, State)
    assert result.state is State.REVOKED
    assert result.failure is not None
    assert result.failure.code == "revoked"
    assert result.failure.message.startswith("ended after ")
    assert result.usage is not None
    assert 0 < result.usage.completion_tokens < 1_000
    assert result.text is None
    assert slow.stored(task) == result
    status = slow.status(task)
    assert (status.state, status.failure) == (State.REVOKED, result.failure)
    assert status.generated_tokens == result.usage.completion_tokens


def test_record_is_not_revoked_before_the_engine_has_let_go(
    held: Workbench, held_engine: HeldEngine
) -> None:
    task = held.task()
    with running(held, task) as outcome:
        wait_until(lambda: held_engine.handles)
        held.records.cancel(task.id)
        wait_until(lambda: held_engine.handles[0].is_cancelled)
        assert held.status(task).is_cancel_requested
        assert held.state(task) is State.PROGRESS
        held_engine.end(0)
        outcome.result(SECONDS)
    assert held.state(task) is State.REVOKED


def test_cancelled_while_waiting_is_never_run(bench: Workbench) -> None:
    task = bench.task()
    assert bench.records.cancel(task.id) is State.REVOKED
    assert bench.executor.execute(task) is State.REVOKED
    assert bench.engine.requests == []
    assert bench.stored(task) is None


def test_second_delivery_of_an_answered_task_changes_nothing(bench: Workbench) -> None:
    task = bench.task()
    answer = bench.run(task)
    assert bench.executor.execute(task) is State.SUCCESS
    assert len(bench.engine.requests) == 1
    assert bench.stored(task) == answer
    assert bench.status(task).attempt == 1


def test_task_past_its_deadline_is_expired_and_not_run(bench: Workbench) -> None:
    task = bench.task(deadline=1_000_000_000.0)
    result = bench.run(task)
    expected = Failure(
        code="expired", message="the deadline passed before the task was started", retryable=False
    )
    assert (result.state, result.failure) == (State.EXPIRED, expected)
    assert bench.stored(task) == result
    status = bench.status(task)
    assert (status.state, status.failure) == (State.EXPIRED, expected)
    assert bench.engine.requests == []


def test_task_is_expired_when_its_deadline_passes_while_it_runs(slow: Workbench) -> None:
    task = slow.task(deadline=time.time() + 0.5)
    result = slow.run(task)
    assert result.state is State.EXPIRED
    assert result.failure is not None
    assert result.failure.code == "expired"
    assert result.failure.message.startswith("ended after ")
    assert len(slow.engine.requests) == 1
    assert slow.stored(task) == result
    assert slow.state(task) is State.EXPIRED


def test_task_with_time_left_is_answered(bench: Workbench) -> None:
    assert bench.run(bench.task(deadline=time.time() + 60)).state is State.SUCCESS


def test_late_answer_of_an_attempt_that_was_overtaken_changes_nothing(
    held: Workbench, held_engine: HeldEngine, bench: Workbench
) -> None:
    """A second worker answers while the first one, thought dead, still runs."""
    task = held.task()
    with running(held, task) as outcome:
        wait_until(lambda: held_engine.handles)
        answer = bench.run(task)
        wait_until(lambda: held_engine.handles[0].is_cancelled)
        held_engine.end(0)
        assert outcome.result(SECONDS) is State.SUCCESS
    assert answer.provenance.attempt == 2
    assert bench.stored(task) == answer
    status = bench.status(task)
    assert (status.state, status.attempt, status.failure) == (State.SUCCESS, 2, None)


def test_overtaken_attempt_gives_way_while_the_other_one_runs(
    bench_with: BenchWith, slow: Workbench
) -> None:
    task = slow.task()
    other_engine = HeldEngine("the answer that counts")
    other = bench_with(other_engine)
    with running(slow, task) as first:
        wait_until(lambda: slow.status(task).generated_tokens)
        with running(other, task) as second:
            assert first.result(SECONDS) in (State.STARTED, State.PROGRESS)
            assert other.stored(task) is None
            wait_until(lambda: other_engine.handles)
            other_engine.end(0)
            result = second.result(SECONDS)
    assert not isinstance(result, State)
    assert result.text == "the answer that counts"
    assert other.state(task) is State.SUCCESS


class OvertakenEngine(ScriptedEngine):
    """Answers at once, but not before `overtake` has been called."""

    def __init__(self, overtake: Callable[[], object]) -> None:
        super().__init__()
        self._overtake = overtake

    def submit(self, request: Request) -> Handle:
        self._overtake()
        return super().submit(request)


def test_answer_between_two_progress_reports_of_an_overtaken_attempt_is_not_reported(
    bench: Workbench, bench_with: BenchWith
) -> None:
    task = bench.task()
    late = bench_with(
        OvertakenEngine(lambda: bench.records.start(task, owner="other", max_new_tokens=9))
    )
    assert late.executor.execute(task) is State.STARTED
    status = bench.status(task)
    assert (status.state, status.attempt, status.max_new_tokens) == (State.STARTED, 2, 9)


def test_record_that_has_gone_is_made_anew_by_the_next_delivery(
    slow: Workbench, bench: Workbench, names: Names, raw: redis.Redis
) -> None:
    """As after FLUSHALL: the message is still in this worker's hands."""
    task = slow.task()
    with running(slow, task) as outcome:
        wait_until(lambda: slow.status(task).generated_tokens)
        raw.delete(names.record(task.id))
        with pytest.raises(Postponed, match="the record is gone"):
            outcome.result(SECONDS)
    assert slow.stored(task) is None
    assert bench.run(task).state is State.SUCCESS
