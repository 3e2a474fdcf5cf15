"""Tasks that go back through no fault of their own: what their records say meanwhile."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from visionq.contract import Failure, FailureCode, State
from visionq.errors import BrokerUnavailable
from visionq_worker.errors import Postponed

if TYPE_CHECKING:
    from visionq.records import Records
    from visionq_worker.results import Run

log = logging.getLogger(__name__)

LONGEST_PAUSE = 12
"""Pauses of a postponed task double up to so many `retry_seconds`."""


class Postponing:
    """Makes the `Postponed` that an attempt ends with."""

    def __init__(self, records: Records, *, retry_seconds: float) -> None:
        self._records = records
        self._retry_seconds = retry_seconds

    def pause(self, run: Run, error: Exception, code: FailureCode, message: str) -> Postponed:
        """The task is due again after a pause, longer each time. `code`, `message` say why."""
        log.warning(
            "task %s cannot go on for now: %s; it is started again after a pause, so there is"
            " nothing to do unless this lasts",
            run.task.id,
            error,
        )
        try:
            self._records.postpone(
                run.task.id,
                Failure(code=str(code), message=message, retryable=True),
                fence=run.attempt.fence,
                first_seconds=self._retry_seconds,
                longest_seconds=self._retry_seconds * LONGEST_PAUSE,
            )
        except BrokerUnavailable as unnoted:
            _log_unnoted(run, unnoted)
            return Postponed(str(error))
        # Refused or not, the record knows what becomes of the task, and the message is in the way.
        return Postponed(str(error), is_noted=True)

    def strike(self, run: Run, error: Exception) -> Postponed:
        """The engine may have broken on this task: its message goes back, and that is counted."""
        log.warning(
            "task %s is given back, as the engine failed on it: %s; it is run again, by another"
            " worker if this one ends, and dead-lettered when too many have failed on it",
            run.task.id,
            error,
        )
        message = "waiting for a worker whose device works"
        reason = Failure(code=str(FailureCode.MODEL_ERROR), message=message, retryable=True)
        try:
            self._records.move(
                run.task.id, State.RETRY, fence=run.attempt.fence, **failure_fields(reason)
            )
        except BrokerUnavailable as unnoted:
            _log_unnoted(run, unnoted)
        return Postponed(str(error), is_strike=True)


def _log_unnoted(run: Run, error: BrokerUnavailable) -> None:
    log.warning(
        "task %s is to be started again, and its record could not be told: %s; its status still"
        " says that it runs, and it is started again all the same: nothing to do",
        run.task.id,
        error,
    )


def failure_fields(reason: Failure) -> dict[str, str]:
    """A failure as fields of a record."""
    return {
        "code": reason.code,
        "message": reason.message,
        "retryable": "1" if reason.retryable else "0",
    }
