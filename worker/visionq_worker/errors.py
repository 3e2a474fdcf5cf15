"""What can go wrong with one task, and what can go wrong around it.

    TaskError              this task cannot be answered: a code, a safe sentence, retryable or not
    Postponed              nothing is wrong with the task; it goes back into the queue
    TakenOver              another attempt owns the task, or has ended it
    StartError             the worker cannot start: settings, model, broker or bucket

The wire carries the code and the sentence, the log carries the cause.
"""

from __future__ import annotations

from visionq.contract import Failure, FailureCode
from visionq.redaction import redacted, redacted_urls


class TaskError(Exception):
    """The task ends in FAILURE with this code. `message` is safe to show to anyone."""

    def __init__(self, code: FailureCode, message: str, *, retryable: bool = False) -> None:
        super().__init__(redacted_urls(message))
        self.code = code
        self.message = redacted_urls(message)
        self.retryable = retryable

    def as_failure(self) -> Failure:
        return Failure(code=str(self.code), message=self.message, retryable=self.retryable)


class Postponed(Exception):
    """Something the task needs is out of order for now: the object store, the worker's device.

    `is_noted`: the record says when the task is started anew, and its message is done with.
    `is_strike`: the worker broke down, perhaps over this very task.
    """

    def __init__(self, message: str, *, is_noted: bool = False, is_strike: bool = False) -> None:
        super().__init__(redacted(message))
        self.is_noted = is_noted
        self.is_strike = is_strike


class TakenOver(Exception):
    """Another attempt owns the task, or has ended it: nothing of this one may be stored."""


class StartError(Exception):
    """The worker cannot start. The message is one line and says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))
