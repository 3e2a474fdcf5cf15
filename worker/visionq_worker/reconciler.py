"""What becomes of tasks that nobody holds: messages that were lost, pauses, deadlines, last words.

One thread. The records say which tasks are due and give each to one worker only; a worker that dies
over it, or fails, leaves it to the next look.
"""

from __future__ import annotations

import logging
import threading
from time import monotonic

from visionq.broker import Publisher
from visionq.contract import FailureCode, Task, read_task
from visionq.errors import BrokerUnavailable, InvalidTask, StorageError
from visionq.objects import ObjectStore
from visionq.records import Due, Records
from visionq_worker.errors import Postponed, TaskError
from visionq_worker.executor import STUB_KIND, Executor
from visionq_worker.gate import StoreGate

log = logging.getLogger(__name__)

TURN_SECONDS = 1.0
MAX_DUE = 100
"""Tasks in one turn: Redis looks at them in one script."""


class Reconciler:
    """Starts and ends with the service."""

    def __init__(
        self,
        *,
        records: Records,
        publisher: Publisher,
        executor: Executor,
        store: ObjectStore,
        store_gate: StoreGate,
        retry_seconds: float,
    ) -> None:
        self._records = records
        self._publisher = publisher
        self._executor = executor
        self._store = store
        self._store_gate = store_gate
        self._retry_seconds = retry_seconds
        self._probes_at = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(min(TURN_SECONDS, self._retry_seconds)):
            try:
                self._turn()
            except BrokerUnavailable as error:
                log.warning("the reconciler waits for Redis: %s", error)
            except Exception:  # whatever it is, the next turn is due
                log.exception("the reconciler failed for a reason nobody foresaw")

    def _turn(self) -> None:
        self._probe_store()
        has_more = True
        while has_more and not self._stopping.is_set():
            looked = self._records.due(MAX_DUE)
            for due in looked.tasks:
                self._settle(due)
            has_more = looked.has_more

    def _probe_store(self) -> None:
        if self._store_gate.is_open or monotonic() < self._probes_at:
            return
        self._probes_at = monotonic() + self._retry_seconds
        try:
            self._store_gate.probe(self._store)
        except StorageError as error:
            log.info("the object store is still away: %s", error)

    def _settle(self, due: Due) -> None:
        try:
            # Of a task that was lost before it was ever started, the record knows the id only.
            task = (
                read_task(due.task, task_id=due.task_id)
                if due.task
                else Task(id=due.task_id, kind=STUB_KIND, images=())
            )
        except InvalidTask as error:
            log.error("task %s has a record that cannot be read: %s", due.task_id, error)
            return
        if due.verdict != "publish" and not self._store_gate.is_open:
            return  # it cannot end before its result is stored, and is looked at again
        log.warning("task %s: %s", task.id, due.verdict)
        try:
            self._do(due, task)
        except (StorageError, BrokerUnavailable, Postponed) as error:
            log.warning("task %s waits for the next look: %s", task.id, error)
            if isinstance(error, StorageError):  # or each of those due would wait for its time-outs
                self._store_gate.shut_if_away(error, self._store)

    def _do(self, due: Due, task: Task) -> None:
        if due.verdict == "publish":
            self._publisher.publish(task, due.celery)
        elif due.verdict == "expire":
            # Before the end: after it nobody would look at the task again.
            self._tell(due, task)
            message = "the deadline passed before the task was started"
            self._executor.end(task, TaskError(FailureCode.EXPIRED, message))
        elif due.verdict == "bury":
            if not self._records.is_dead(task.id):
                return  # somebody has replayed it meanwhile
            message = "too many workers were lost while they had the task"
            self._executor.end(task, TaskError(FailureCode.WORKER_LOST, message, retryable=True))
            # Not before: a worker would run it once more.
            self._tell(due, task)
        else:
            self._executor.write_revoked(task, lambda: self._tell(due, task))

    def _tell(self, due: Due, task: Task) -> None:
        """Send the message of a task that has none any more, which then tells Celery of its end."""
        if due.celery is not None:
            self._publisher.publish(task, due.celery)
