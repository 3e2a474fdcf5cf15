"""Redis or the store go away in the middle: what exists then, and that the task still ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal

import pytest

from tests.support.addresses import store_address
from tests.support.killing import kill_valkey
from tests.support.scripted import ScriptedEngine
from tests.support.waiting import wait_until
from tests.worker.workbench import HeldEngine, Workbench, down, running, workbench
from visionq import StoreAddress
from visionq.connections import connect
from visionq.contract import Failure, Result, State, Task
from visionq.errors import BrokerUnavailable
from visionq.local import LocalServers
from visionq.names import RESULT_FOLDER, Names
from visionq.objects import ObjectStore
from visionq.records import Records
from visionq_worker.engine.errors import EngineBroken, EngineClosed, EngineError
from visionq_worker.engine.request import Handle, Request
from visionq_worker.errors import Postponed

BenchWith = Callable[[ScriptedEngine], Workbench]

SECONDS = 20.0


class RefusingEngine(ScriptedEngine):
    """Takes no request."""

    def __init__(self, refusal: EngineError) -> None:
        super().__init__()
        self._refusal = refusal

    def submit(self, request: Request) -> Handle:
        raise self._refusal


@pytest.mark.parametrize("is_taken", [True, False])
def test_task_goes_back_when_the_device_is_lost(bench_with: BenchWith, is_taken: bool) -> None:
    error = EngineBroken("a step took longer than 120 s")
    bench = bench_with(ScriptedEngine(error=error) if is_taken else RefusingEngine(error))
    task = bench.task()
    with pytest.raises(Postponed, match=r"^a step took longer than 120 s$"):
        bench.executor.execute(task)
    assert bench.stored(task) is None
    status = bench.status(task)
    assert status.state is State.RETRY
    assert status.failure == Failure(
        code="model_error", message="waiting for a worker whose device works", retryable=True
    )


def test_task_goes_back_when_the_engine_is_closing(bench_with: BenchWith) -> None:
    bench = bench_with(RefusingEngine(EngineClosed()))
    task = bench.task()
    with pytest.raises(Postponed, match=r"^the engine is closed$"):
        bench.executor.execute(task)
    assert bench.state(task) is State.RETRY


class InterruptedEngine(ScriptedEngine):
    """Calls `interrupt` once, before it answers its first request."""

    def __init__(self, interrupt: Callable[[], object]) -> None:
        super().__init__()
        self._interrupt = interrupt

    def submit(self, request: Request) -> Handle:
        if not self.requests:
            self._interrupt()
        return super().submit(request)


def test_nothing_is_stored_that_redis_does_not_know_of(
    breakable: LocalServers, breakable_bench: BenchWith
) -> None:
    """Another attempt might own the task by now."""
    bench = breakable_bench(InterruptedEngine(lambda: kill_valkey(breakable)))
    task = bench.task()
    try:
        with pytest.raises(Postponed, match=r"^the task is answered; Redis did not answer$"):
            bench.executor.execute(task)
    finally:
        breakable.restart("valkey")
    assert bench.stored(task) is None
    assert bench.state(task) is State.STARTED
    assert bench.run(task).provenance.attempt == 2


class FatalStore(ObjectStore):
    """Takes one result; then `after_put` happens."""

    def __init__(self, address: StoreAddress, after_put: Callable[[], object]) -> None:
        super().__init__(address)
        self._after_put = after_put

    def put(self, key: str, content: bytes, content_type: str = "") -> None:
        super().put(key, content, content_type)
        if key.startswith(RESULT_FOLDER):
            self._after_put()


def test_result_object_is_stored_before_the_record_ends(
    breakable: LocalServers, breakable_bench: BenchWith
) -> None:
    """Redis dies after the put and stays away: the object is there, the record has not ended."""
    store = FatalStore(store_address(breakable.urls), lambda: kill_valkey(breakable))
    bench = breakable_bench(ScriptedEngine())
    dying = workbench(bench.engine, bench.records, store)
    task = bench.task()
    try:
        with pytest.raises(Postponed, match=r"^the task is stored; Redis did not answer$"):
            dying.executor.execute(task)
    finally:
        breakable.restart("valkey")
        store.close()
    stored = bench.stored(task)
    assert stored is not None
    assert (stored.state, stored.text) == (State.SUCCESS, "a scripted answer")
    assert bench.state(task) is State.STARTED
    assert bench.run(task) == stored, "the second attempt reports what the first has stored"
    assert bench.state(task) is State.SUCCESS
    assert len(bench.engine.requests) == 1


class CountingRecords(Records):
    """Counts what Redis did not take."""

    num_unheard = 0

    def progress(
        self, task_id: str, *, fence: int, generated_tokens: int
    ) -> Literal["run", "cancel", "lost"]:
        with self._counted():
            return super().progress(task_id, fence=fence, generated_tokens=generated_tokens)

    def decide(self, task_id: str, result: str, *, fence: int) -> bool:
        with self._counted():
            return super().decide(task_id, result, fence=fence)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except BrokerUnavailable:
            self.num_unheard += 1
            raise


@pytest.fixture
def counting(breakable: LocalServers) -> Iterator[CountingRecords]:
    client = connect(breakable.urls.broker_url, timeout_seconds=1)
    yield CountingRecords(client, Names(), ttl_seconds=600)
    client.close()


def test_short_outage_of_redis_is_sat_out(
    breakable: LocalServers, breakable_bucket: ObjectStore, counting: CountingRecords
) -> None:
    back = threading.Event()

    def return_once_missed() -> None:
        wait_until(lambda: counting.num_unheard)
        breakable.restart("valkey")
        back.set()

    def die_for_a_moment() -> None:
        kill_valkey(breakable)
        threading.Thread(target=return_once_missed).start()

    bench = workbench(InterruptedEngine(die_for_a_moment), counting, breakable_bucket)
    task = bench.task()
    result = bench.run(task)
    assert back.wait(SECONDS)
    assert (result.state, result.provenance.attempt) == (State.SUCCESS, 1)
    assert bench.state(task) is State.SUCCESS
    assert len(bench.engine.requests) == 1


def test_task_goes_on_while_progress_cannot_be_reported(
    breakable: LocalServers, breakable_bucket: ObjectStore, counting: CountingRecords
) -> None:
    engine = HeldEngine()
    bench = workbench(engine, counting, breakable_bucket)
    task = bench.task()
    with running(bench, task) as outcome:
        wait_until(lambda: bench.state(task) is State.PROGRESS)
        with down(breakable, "valkey"):
            wait_until(lambda: counting.num_unheard > 1)
        assert not engine.handles[0].is_cancelled
        engine.end(0)
        result = outcome.result(SECONDS)
    assert not isinstance(result, State)
    assert (result.state, result.provenance.attempt) == (State.SUCCESS, 1)


class DeafRecords(Records):
    """Redis hears the first report of an end; its reply is lost."""

    has_lost_a_reply = False

    def move(
        self, task_id: str, state: State, *, fence: int, work_key: str | None = None, **more: str
    ) -> bool:
        is_moved = super().move(task_id, state, fence=fence, work_key=work_key, **more)
        if not self.has_lost_a_reply:
            self.has_lost_a_reply = True
            raise BrokerUnavailable("the connection broke")
        return is_moved


def test_report_whose_reply_was_lost_counts(
    breakable: LocalServers, breakable_bucket: ObjectStore
) -> None:
    client = connect(breakable.urls.broker_url, timeout_seconds=1)
    records = DeafRecords(client, Names(), ttl_seconds=600)
    bench = workbench(ScriptedEngine(), records, breakable_bucket)
    task = bench.task()
    result = bench.run(task)
    assert records.has_lost_a_reply
    assert (result.state, result.provenance.attempt) == (State.SUCCESS, 1)
    assert bench.state(task) is State.SUCCESS
    client.close()


def test_task_is_not_started_while_redis_is_away(
    breakable: LocalServers, breakable_bench: BenchWith
) -> None:
    bench = breakable_bench(ScriptedEngine())
    task = bench.task()
    with down(breakable, "valkey"), pytest.raises(Postponed):
        bench.executor.execute(task)
    assert bench.engine.requests == []
    assert bench.state(task) is State.PENDING
    assert bench.run(task).state is State.SUCCESS


def test_task_waits_for_the_store_before_its_input_is_fetched(
    breakable: LocalServers, breakable_bench: BenchWith
) -> None:
    bench = breakable_bench(ScriptedEngine())
    task = bench.task()
    with down(breakable, "s3"), pytest.raises(Postponed):
        bench.executor.execute(task)
    assert bench.engine.requests == []
    assert_waits_for_store(bench, task)


def test_answer_is_kept_until_the_store_is_back(
    breakable: LocalServers, breakable_bench: BenchWith
) -> None:
    bench = breakable_bench(InterruptedEngine(lambda: breakable.kill("s3")))
    task = bench.task()
    with ThreadPoolExecutor(1) as pool:
        try:
            answering = pool.submit(bench.executor.execute, task)
            wait_until(lambda: not bench.store_gate.is_open)
            assert bench.state(task) is State.STARTED, "nothing is reported before it is stored"
        finally:
            breakable.restart("s3")
        assert isinstance(answering.result(SECONDS), Result)
    assert bench.state(task) is State.SUCCESS
    assert len(bench.engine.requests) == 1


def test_answer_that_is_kept_gives_way_to_another_attempt(
    breakable: LocalServers, breakable_bench: BenchWith
) -> None:
    bench = breakable_bench(InterruptedEngine(lambda: breakable.kill("s3")))
    task = bench.task()
    with ThreadPoolExecutor(1) as pool:
        try:
            answering = pool.submit(bench.executor.execute, task)
            wait_until(lambda: not bench.store_gate.is_open)
            bench.records.start(task, owner="another", max_new_tokens=10)
            assert answering.result(SECONDS) is State.STARTED
        finally:
            breakable.restart("s3")
    assert bench.stored(task) is None


def assert_waits_for_store(bench: Workbench, task: Task) -> None:
    """The record says what it waits for; the next delivery answers and clears that."""
    status = bench.status(task)
    assert status.state is State.RETRY
    assert status.failure == Failure(
        code="storage_unavailable", message="waiting for the object store", retryable=True
    )
    assert bench.stored(task) is None
    result = bench.run(task)
    assert (result.state, result.provenance.attempt) == (State.SUCCESS, 2)
    ended = bench.status(task)
    assert (ended.state, ended.attempt, ended.failure) == (State.SUCCESS, 2, None)


def test_failure_is_kept_like_an_answer(
    breakable: LocalServers, breakable_bench: BenchWith
) -> None:
    bench = breakable_bench(ScriptedEngine())
    task = bench.task("guess")
    with ThreadPoolExecutor(1) as pool:
        with down(breakable, "s3"):
            failing = pool.submit(bench.executor.execute, task)
            wait_until(lambda: not bench.store_gate.is_open)
        failing.result(SECONDS)
    assert bench.state(task) is State.FAILURE


def test_task_that_waits_for_the_store_can_be_cancelled(
    breakable: LocalServers, breakable_bench: BenchWith
) -> None:
    bench = breakable_bench(ScriptedEngine())
    task = bench.task()
    with down(breakable, "s3"), pytest.raises(Postponed):
        bench.executor.execute(task)
    assert bench.records.cancel(task.id) is State.REVOKED
    assert bench.executor.execute(task) is State.REVOKED
    assert bench.engine.requests == []
