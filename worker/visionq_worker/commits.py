"""The end of a task: its result is decided in the record, stored, and reported. In this order.

Between the steps a worker can die, or be stopped for so long that another takes the task over. What
was decided is what everybody stores from then on, so the object is the same whoever writes it, and
however often, also in a store that knows no conditional writes.

Where replicas of Redis have to confirm the end (`broker.replicas_to_confirm`), whoever has the
task's message waits for them, however long that takes: its lease is kept meanwhile, and a primary
that is new gets the end told again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from time import monotonic, perf_counter, sleep
from typing import TYPE_CHECKING, TypeVar

from visionq.contract import FailureCode, Result, dump_result, encode_task, read_newer_result
from visionq.errors import (
    BrokerUnavailable,
    InvalidTask,
    NotReplicated,
    ObjectMissing,
    StorageDenied,
    StorageError,
    StorageUnavailable,
    WrongClock,
)
from visionq.store_replies import is_refused_condition
from visionq.stored_results import stored_result
from visionq_worker.errors import Postponed, TakenOver
from visionq_worker.outage_log import OutageLog
from visionq_worker.postponing import failure_fields
from visionq_worker.store_probe import KeyRefused, read_unless_refused

if TYPE_CHECKING:
    from visionq.contract import Task
    from visionq.objects import ObjectStore
    from visionq.records import Records
    from visionq_worker.gate import StoreGate
    from visionq_worker.results import Run

T = TypeVar("T")

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/json"
TRIES = 12
"""How often a finished task is told to a Redis that does not answer, `retry_seconds` apart."""


class Commits:
    """Ends tasks. Serves all threads of a worker; keeps no state of a task."""

    def __init__(
        self,
        records: Records,
        store: ObjectStore,
        store_gate: StoreGate,
        *,
        keeps_results: bool,
        retry_seconds: float,
    ) -> None:
        """`keeps_results`: the store honours `put_new`."""
        self._records = records
        self._store = store
        self._store_gate = store_gate
        self._keeps_results = keeps_results
        self._retry_seconds = retry_seconds
        self._store_outage = OutageLog(
            log,
            "storing results",
            f"it is tried again every {retry_seconds:g} s, and no more tasks are taken until it"
            " works; act if the object store does not come back by itself",
        )
        self._redis_outage = OutageLog(
            log,
            "reporting finished tasks to Redis",
            f"it is tried {TRIES} times, every {retry_seconds:g} s, then the task goes back into"
            " the queue; act if Redis does not come back by itself",
        )
        self._replicas = _ReplicaLog()

    def commit(self, run: Run, result: Result) -> Result:
        """End the task with this result. Returns what is stored then.

        Raises `TakenOver`, and `Postponed` when Redis stays away: then nothing is stored, or it is
        stored and the next attempt reports it.
        """
        content = dump_result(result)
        if not self._decide(run, content.decode()):
            raise TakenOver
        return self._carry_out(run, result, content)

    def finish_earlier(self, run: Run) -> Result | None:
        """End the task with what an earlier attempt has decided or stored, if it has come so far.

        Raises like `commit`, and `StorageError`.
        """
        if decided := (run.attempt.decided or "").encode():
            log.info("task %s was answered by an earlier attempt", run.task.id)
            return self._carry_out(run, read_newer_result(decided), decided)
        left = self._stored_before(run) if run.attempt.number > 1 else None
        if left is not None:
            log.info("task %s was stored by an earlier attempt", run.task.id)
            run.seconds["store"] = 0.0
            self._report(run, left)
        return left

    def restore(self, task: Task) -> Result | None:
        """End a task without a record with the result that it has left in the store, if any.

        A client has written a record, which was lost then: only the store knows whether the task
        was answered. Nothing is written before it is asked, so that no status goes back.
        Raises `StorageError` and `BrokerUnavailable`.
        """
        try:
            read = partial(stored_result, self._store, task.id, read_newer_result)
            stored = read_unless_refused(self._store, read)
        except (KeyRefused, ObjectMissing, InvalidTask):
            return None
        if stored.failure is not None and stored.failure.code == FailureCode.WORKER_LOST:
            return None  # a dead letter that is replayed
        if not self._records.restore(task.id, encode_task(task), stored, is_held=True):
            return None  # there is a record again
        log.warning("task %s had lost its record; its result is in the store", task.id)
        return stored

    def pay(self, run: Run, result: Result, tell: Callable[[], None]) -> None:
        """Store the result of a task that has ended without one, and `tell`, at least once.

        Raises `StorageError` and what `tell` raises.
        """
        decided = self._records.decide_owed(run.task.id, dump_result(result).decode())
        if decided is None:
            return
        if self._stored_before(run) is None:
            self._store.put(run.task.result_key, decided.encode(), CONTENT_TYPE)
        tell()
        self._records.paid(run.task.id)

    def confirm(self, run: Run) -> None:
        """Return when replicas have the end of the task, which another attempt has reported.

        Raises `Postponed` when Redis stays away.
        """
        if run.waits_for_replicas:
            self._until_heard(run, "ended", self._records.confirm)
            self._replicas.confirmed()

    def _decide(self, run: Run, content: str) -> bool:
        def decide() -> bool:
            return self._records.decide(run.task.id, content, fence=run.attempt.fence)

        return self._until_heard(run, "answered", decide)

    def _carry_out(self, run: Run, result: Result, content: bytes) -> Result:
        began = perf_counter()
        stored = self._put(run, result, content)
        run.seconds["store"] = perf_counter() - began
        self._report(run, stored)
        _log_finished(run, stored)
        return stored

    def _put(self, run: Run, result: Result, content: bytes) -> Result:
        """Store the result, through an outage if need be. Returns what is stored then."""
        while True:
            try:
                stored = self._put_once(run, result, content)
            except StorageError as error:
                self._store_gate.shut_if_away(error, self._store)
                self._store_outage.failed(error, task_id=run.task.id)
                if isinstance(error, StorageDenied | WrongClock):
                    # It may be this worker alone that the store refuses. What was decided stands
                    # in the record, and whoever takes the task stores it.
                    raise Postponed(str(error)) from error
                sleep(self._retry_seconds)
                if self._is_lost(run):
                    raise TakenOver from error
            else:
                self._store_outage.worked()
                return stored

    def _is_lost(self, run: Run) -> bool:
        """Whether another attempt has taken the task over, and stores the same."""
        num_tokens = len(run.completion.token_ids) if run.completion else 0
        fence = run.attempt.fence
        try:
            answer = self._records.progress(run.task.id, fence=fence, generated_tokens=num_tokens)
        except BrokerUnavailable:
            return False
        return answer == "lost"

    def _put_once(self, run: Run, result: Result, content: bytes) -> Result:
        key = run.task.result_key
        if not self._keeps_results:
            self._store.put(key, content, CONTENT_TYPE)
        elif not self._is_put_new(key, content):
            # Perhaps our own, of a try whose reply was lost; another's if Redis has forgotten it.
            if left := self._stored_before(run):
                return left
            self._store.put(key, content, CONTENT_TYPE)
        return result

    def _is_put_new(self, key: str, content: bytes) -> bool:
        """False as well of a store that has honoured the condition, and refuses it now."""
        try:
            return self._store.put_new(key, content, CONTENT_TYPE)
        except StorageUnavailable as error:
            if not is_refused_condition(error.status, error.code):
                raise
            return False

    def _stored_before(self, run: Run) -> Result | None:
        """The task's result object, unless it is the failure of a dead letter that is replayed.

        Raises `Postponed` where only Redis knows whose object it is, and stays away.
        """
        try:
            read = partial(stored_result, self._store, run.task.id, read_newer_result)
            stored = read_unless_refused(self._store, read)
        except (KeyRefused, ObjectMissing, InvalidTask):
            return None
        code = stored.failure.code if stored.failure else None
        is_ours = code != FailureCode.WORKER_LOST and not self._is_outlived(run, stored)
        return stored if is_ours else None

    def _is_outlived(self, run: Run, stored: Result) -> bool:
        """Whether an earlier task with this id has left the object, whose record has gone since.

        Only the first task of an idempotency key has the id of another one.
        """
        if stored.finished_at >= run.attempt.submitted_at:
            return False

        def ask() -> bool:
            return self._records.is_first_of_key(run.task.id)

        return self._until_heard(run, "stored", ask)

    def _report(self, run: Run, result: Result) -> None:
        """Bring the record to its end."""
        more = {"store": f"{run.seconds['store']:.6f}"}
        if result.usage is not None:
            more["tokens"] = str(result.usage.completion_tokens)
        if result.failure is not None:
            more |= failure_fields(result.failure)

        def report() -> bool:
            return self._records.move(
                run.task.id,
                result.state,
                fence=run.attempt.fence,
                work_key=run.work_key,
                **more,
            ) or self._is_heard(run, result)

        try:
            is_ours = self._until_heard(run, "stored", report)
        except NotReplicated:
            return  # but the primary has it, and nobody waits
        self._replicas.confirmed()
        if not is_ours:
            raise TakenOver

    def _is_heard(self, run: Run, result: Result) -> bool:
        """Whether an earlier try got through, and only its reply was lost."""
        held = self._records.status(run.task.id)
        return held.attempt == run.attempt.number and held.state is result.state

    def _until_heard(self, run: Run, what: str, tell: Callable[[], T]) -> T:
        """What `tell` returns, once Redis answers and replicas confirm.

        Raises `Postponed`; `NotReplicated` only where the run does not wait for them.
        """
        num_tries = 0
        while num_tries < TRIES:
            try:
                told = tell()
            except NotReplicated as error:
                self._replicas.missing(error)
                if not run.waits_for_replicas:
                    raise
            except BrokerUnavailable as error:
                num_tries += 1
                self._redis_outage.failed(error, task_id=run.task.id)
            else:
                self._redis_outage.worked()
                return told
            sleep(self._retry_seconds)
        raise Postponed(f"the task is {what}; Redis did not answer")


class _ReplicaLog:
    """Logs once that replicas are missing, and once that they are back. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._are_missing = False

    def missing(self, error: NotReplicated) -> None:
        with self._lock:
            is_new, self._are_missing = not self._are_missing, True
        if is_new:
            log.warning(
                "replicas of Redis do not confirm writes: %s; tasks that have ended keep their"
                " messages and their places until they do: let replicas follow this Redis, or lower"
                " it",
                error,
            )

    def confirmed(self) -> None:
        with self._lock:
            were_missing, self._are_missing = self._are_missing, False
        if were_missing:
            log.warning("replicas of Redis confirm writes again; nothing to do")


def _log_finished(run: Run, result: Result) -> None:
    seconds = monotonic() - run.started
    tokens = result.usage.completion_tokens if result.usage else 0
    log.info(
        "task %s %s %s in %.3f s, %d tokens",
        run.task.id,
        run.task.kind,
        result.state,
        seconds,
        tokens,
        extra={
            "task_id": run.task.id,
            "kind": run.task.kind,
            "state": str(result.state),
            "code": result.failure.code if result.failure else None,
            "seconds": seconds,
            "completion_tokens": tokens,
        },
    )
