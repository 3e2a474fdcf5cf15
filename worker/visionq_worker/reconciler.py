"""What becomes of tasks that nobody holds: messages that were lost, pauses, deadlines, last words.

One thread. The records say which tasks are due and give each to one worker only; a worker that dies
over it, or fails, leaves it to the next look.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from time import monotonic

from visionq.broker import Publisher
from visionq.contract import (
    CONTRACT_VERSION,
    FailureCode,
    Task,
    dump,
    read_newer_task,
    read_task,
)
from visionq.errors import BrokerUnavailable, InvalidTask, StorageError, UnsupportedVersion
from visionq.newer_scripts import NEWER_GRACE_SECONDS
from visionq.objects import ObjectStore
from visionq.records import LOOK_SECONDS, Due, Records, Verdict
from visionq_worker.errors import Postponed, TaskError
from visionq_worker.executor import STUB_KIND, Executor
from visionq_worker.gate import StoreGate
from visionq_worker.outage_log import OutageLog

log = logging.getLogger(__name__)

_NOBODY_READS_IT = (
    f"the task is of a newer version of visionq, and the workers read contract version"
    f" {CONTRACT_VERSION}; none that reads it has reported for {NEWER_GRACE_SECONDS} s: upgrade the"
    " workers, then submit it again"
)
TURN_SECONDS = 1.0
SAID: Mapping[Verdict, str] = {
    "publish": "has no message in the queue, as it was lost or its pause is over: it is sent again",
    "expire": "was not started before its deadline: it ends as EXPIRED",
    "bury": "was dead-lettered, as too many workers were lost with it: it fails with worker_lost",
    "write": "has ended and its result object is missing: the object is written",
    "unsupported": "is of a newer version and no worker that reads it is alive: it fails",
}
"""What is done about a task, for the log."""
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
        self._outage = OutageLog(
            log,
            "looking after lost and overdue tasks",
            "it is tried again every second, and the tasks wait; act if Redis does not come back by"
            " itself",
        )
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
                self._outage.worked()
            except BrokerUnavailable as error:
                self._outage.failed(error)
            except Exception:  # whatever it is, the next turn is due
                log.exception(
                    "unexpected error while looking after lost and overdue tasks; it is tried again"
                    " every second: report this as a bug"
                )

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
            task = _task_of(due)
        except InvalidTask as error:
            log.error(
                "task %s has a record that cannot be read: %s; it is left as it is, and ends with"
                " its record: a newer version wrote it, or it is damaged, so submit the task again",
                due.task_id,
                error,
            )
            return
        if due.verdict != "publish" and not self._store_gate.is_open:
            return  # it cannot end before its result is stored, and is looked at again
        log.warning("task %s %s; nothing to do", task.id, SAID[due.verdict])
        try:
            self._do(due, task)
        except (StorageError, BrokerUnavailable, Postponed, UnsupportedVersion) as error:
            log.warning(
                "task %s could not be seen to: %s; it is tried again within %d s, so there is"
                " nothing to do",
                task.id,
                error,
                LOOK_SECONDS,
            )
            if isinstance(error, StorageError):  # or each of those due would wait for its time-outs
                self._store_gate.shut_if_away(error, self._store)

    def _do(self, due: Due, task: Task) -> None:
        if due.verdict == "publish":
            self._send(due, task)
        elif due.verdict == "unsupported":
            self._executor.end(task, TaskError(FailureCode.UNSUPPORTED_VERSION, _NOBODY_READS_IT))
            # Not before: a worker would leave it to newer ones once more.
            self._tell(due, task)
        elif due.verdict == "expire":
            # Before the end: after it nobody would look at the task again.
            self._tell(due, task)
            message = "the deadline passed before the task was started"
            self._end(task, TaskError(FailureCode.EXPIRED, message))
        elif due.verdict == "bury":
            if not self._records.is_dead(task.id):
                return  # somebody has replayed it meanwhile
            message = "too many workers were lost while they had the task"
            self._end(task, TaskError(FailureCode.WORKER_LOST, message, retryable=True))
            # Not before: a worker would run it once more.
            self._tell(due, task)
        else:
            self._executor.write_revoked(task, lambda: self._tell(due, task))

    def _end(self, task: Task, error: TaskError) -> None:
        self._executor.end(task, error, waits_for_replicas=False)

    def _tell(self, due: Due, task: Task) -> None:
        """Send the message of a task that has none any more, which then tells Celery of its end."""
        if due.celery is not None:
            self._send(due, task)

    def _send(self, due: Due, task: Task) -> None:
        """As the record has it: a newer version's has fields that are unknown here."""
        self._publisher.publish_again(task.id, due.task or dump(task), due.celery)


def _task_of(due: Due) -> Task:
    """The task, or what can be told of it here. Raises `InvalidTask`."""
    # Of a task that was lost before it was ever started, the record knows the id only.
    if not due.task:
        return _stub(due)
    try:
        return read_task(due.task, task_id=due.task_id)
    except UnsupportedVersion:
        try:
            return read_newer_task(due.task, task_id=due.task_id)
        except InvalidTask:
            return _stub(due)


def _stub(due: Due) -> Task:
    return Task(id=due.task_id, kind=STUB_KIND, images=())
