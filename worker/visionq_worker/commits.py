"""The end of a task: its result is decided in the record, stored, and reported. In this order.

Between the steps a worker can die, or be stopped for so long that another takes the task over. What
was decided is what everybody stores from then on, so the object is the same whoever writes it, and
however often, also in a store that knows no conditional writes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic, perf_counter, sleep
from typing import TYPE_CHECKING, TypeVar

from visionq.contract import FailureCode, Result, dump_result, read_newer_result
from visionq.errors import (
    BrokerUnavailable,
    InvalidTask,
    ObjectMissing,
    StorageDenied,
    StorageError,
    WrongClock,
)
from visionq_worker.errors import Postponed, TakenOver
from visionq_worker.postponing import failure_fields

if TYPE_CHECKING:
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
                return self._put_once(run, result, content)
            except StorageError as error:
                self._store_gate.shut()
                log.warning("task %s cannot be stored yet: %s", run.task.id, error)
                if isinstance(error, StorageDenied | WrongClock):
                    # It may be this worker alone that the store refuses. What was decided stands
                    # in the record, and whoever takes the task stores it.
                    raise Postponed(str(error)) from error
                sleep(self._retry_seconds)
                if self._is_lost(run):
                    raise TakenOver from error

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
        elif not self._store.put_new(key, content, CONTENT_TYPE):
            # Perhaps our own, of a try whose reply was lost; another's if Redis has forgotten it.
            if left := self._stored_before(run):
                return left
            self._store.put(key, content, CONTENT_TYPE)
        return result

    def _stored_before(self, run: Run) -> Result | None:
        """The task's result object, unless it is the failure of a dead letter that is replayed.

        Raises `Postponed` where only Redis knows whose object it is, and stays away.
        """
        try:
            stored = read_newer_result(self._store.get(run.task.result_key))
        except (ObjectMissing, InvalidTask):
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

        if not self._until_heard(run, "stored", report):
            raise TakenOver

    def _is_heard(self, run: Run, result: Result) -> bool:
        """Whether an earlier try got through, and only its reply was lost."""
        held = self._records.status(run.task.id)
        return held.attempt == run.attempt.number and held.state is result.state

    def _until_heard(self, run: Run, what: str, tell: Callable[[], T]) -> T:
        for _ in range(TRIES):
            try:
                return tell()
            except BrokerUnavailable as error:
                log.warning("task %s is %s but cannot be reported: %s", run.task.id, what, error)
                sleep(self._retry_seconds)
        raise Postponed(f"the task is {what}; Redis did not answer")


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
