"""Everything visionq raises on the producer's side.

    VisionqError
    ├── SettingsError            a setting is unknown or has a bad value
    ├── InvalidArgument          an argument of a method other than submit is wrong
    ├── InvalidTask              the task cannot be accepted as it is
    │   ├── UnknownKind
    │   ├── WrongImageCount
    │   ├── QuestionNotAllowed
    │   ├── UnsupportedVersion
    │   ├── InvalidImage         an image argument is of no known form, or cannot be read
    │   ├── ImageTooNarrow       an image so narrow that the model cannot take it
    │   ├── UrlsNotAllowed       no worker that is alive fetches images behind URLs
    │   ├── PromptTags           question or schema hold one of the model's own tags
    │   ├── PromptTooLong        no worker has a context that it could fit into
    │   ├── UnsupportedOption
    │   └── SchemaUnsupported    carries the JSON `pointer` of what is not carried out
    ├── IdempotencyConflict      the key is in use for other content; carries the `task_id`
    ├── QueueFull                too many tasks wait; carries `retry_after_seconds`
    ├── BrokerUnavailable        Redis did not answer in time; the call may be repeated
    │   ├── NotReplicated        fewer replicas than wanted have confirmed a write in time
    │   └── BrokerDenied         its access rules forbid it: an operator has to act first
    │       └── HashTagMissing   a Redis Cluster needs `broker.hash_tag`; a SettingsError as well
    ├── StorageError             the object store refused or did not answer; carries its `status`
    │   ├── StorageUnavailable   it passes; the call may be repeated
    │   │   └── WrongClock       this machine's clock is to be set
    │   ├── StorageDenied        credentials or policy are to be mended
    │   ├── BucketMissing
    │   ├── ObjectMissing
    │   └── ObjectTooLarge
    ├── ResultGone               the task was answered, but its result object is not there any more
    ├── ResultUnreadable         its result object is damaged, or of a newer version
    ├── ClientClosed             a client was used after its `close`
    ├── ReentrantCall            a signal handler came while the client was opening a connection
    ├── WaitTimeout              the task goes on; only the waiting ended; carries its last `status`
    ├── NoValue                  there is an answer, but no value in it; carries the `result`
    └── TaskNotDone              there is no answer, and there will be none
        ├── TaskUnknown
        ├── TaskFailed           carries `code` and `retryable`
        ├── TaskRevoked
        └── TaskExpired

The class docstring is the default message. No message shows a password or the query of a URL
(`redaction.py`); what a library says has its pieces of URLs hidden at its door, while a key or a
file's name is shown as it is. An `InvalidTask` carries the `code` that a failed
result would carry, since the worker checks again what other senders put into the queue.
Foreign exceptions are mapped at the door of their library (`records.py`, `broker.py`,
`objects.py`) and stay reachable as `__cause__`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from visionq.redaction import redacted_urls

if TYPE_CHECKING:
    from visionq.contract import Result, Status
    from visionq.store_replies import Asked


class VisionqError(Exception):
    """Something went wrong in visionq."""

    def __init__(self, message: str | None = None) -> None:
        text = redacted_urls(message or type(self).__doc__ or "")
        # Half a character, which a caller may have sent, would fail where the message is printed.
        super().__init__(text.encode(errors="backslashreplace").decode())


class SettingsError(VisionqError, ValueError):
    """A setting is unknown or has a bad value."""


class InvalidArgument(VisionqError, ValueError):
    """An argument is of the wrong type, or outside its range."""


class InvalidTask(VisionqError):
    """The task cannot be accepted as it is."""

    code = "invalid_task"


class UnknownKind(InvalidTask):
    """There is no such kind of task."""

    code = "unknown_kind"


class WrongImageCount(InvalidTask):
    """The kind takes fewer or more images than were given."""

    code = "image_count"


class QuestionNotAllowed(InvalidTask):
    """The operator allows no question of the task's own."""

    code = "question_not_allowed"


class UnsupportedVersion(InvalidTask):
    """The task was made for a newer contract than this one."""

    code = "unsupported_version"

    def __init__(self, message: str | None = None, version: int = 0) -> None:
        """`version`: of the contract that is needed; 0 where that is not known."""
        super().__init__(message)
        self.version = version


class InvalidImage(InvalidTask):
    """The image argument cannot be used."""

    code = "not_an_image"


class ImageTooNarrow(InvalidTask):
    """The image is too narrow to be cut into tiles."""

    code = "image_shape"


class UrlsNotAllowed(InvalidTask):
    """No worker that is alive fetches images behind URLs (their setting urls.allowed)."""

    code = "input_not_allowed"


class PromptTags(InvalidTask):
    """The question or the schema contains one of the model's own tags."""

    code = "prompt_tags"


class PromptTooLong(InvalidTask):
    """The task cannot fit into the context of any worker."""

    code = "prompt_too_long"


class UnsupportedOption(InvalidTask):
    """The option is part of the contract, but this version does not carry it out."""

    code = "unsupported_option"


class SchemaUnsupported(InvalidTask):
    """The schema says what is not carried out, at this JSON pointer."""

    code = "schema_unsupported"

    def __init__(self, pointer: str = "", why: str = "") -> None:
        super().__init__()
        self.args = (pointer, why)  # what pickle builds the error from again
        self.pointer = pointer

    def __str__(self) -> str:
        pointer, why = self.args
        text = f"schema at {pointer or 'its root'}: {why}"
        return text.encode(errors="backslashreplace").decode()


class IdempotencyConflict(VisionqError):
    """The idempotency key is in use for a task with other content; nothing was accepted."""

    def __init__(self, message: str | None = None, task_id: str | None = None) -> None:
        super().__init__(message)
        self.args = (str(self.args[0]), task_id)  # what pickle builds the error from again
        self.task_id = task_id

    def __str__(self) -> str:
        return str(self.args[0])


class QueueFull(VisionqError):
    """Too many tasks wait already; nothing was accepted."""

    def __init__(self, message: str | None = None, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class BrokerUnavailable(VisionqError):
    """Redis cannot be reached or does not answer."""


class NotReplicated(BrokerUnavailable):
    """Fewer replicas of Redis than `broker.replicas_to_confirm` have confirmed a write in time."""


class BrokerDenied(BrokerUnavailable):
    """Redis does not let this user in, or not do this: an operator has to change that."""


class HashTagMissing(SettingsError, BrokerDenied):
    """The server is a node of a Redis Cluster, and `broker.hash_tag` is not set."""


class StorageError(VisionqError):
    """The object store did not do what was asked."""

    status: int | None = None
    """Of its reply; None where there was none."""
    code: str | None = None
    """S3's word for it, as `SlowDown`."""
    asked: Asked | None = None
    """What was asked of it."""


class StorageUnavailable(StorageError):
    """The object store cannot be reached or does not answer."""


class WrongClock(StorageUnavailable):
    """The object store refuses requests, because this machine's clock is wrong: set it by NTP."""


class StorageDenied(StorageError):
    """The object store refused the access key, its secret, or the operation."""


class BucketMissing(StorageError):
    """The bucket does not exist."""


class ObjectMissing(StorageError):
    """There is no object under this key."""


class ObjectTooLarge(StorageError):
    """The object is larger than may be read."""


class ResultGone(VisionqError):
    """The task was answered, but its result object is no longer in the store."""


class ResultUnreadable(VisionqError):
    """The result object in the store cannot be read: damaged, or written by a newer version."""


class ClientClosed(VisionqError):
    """The client is closed: make a new one."""


class ReentrantCall(VisionqError):
    """A signal handler interrupted the client while it was loading what it connects with; nothing
    was sent. Make the call again after the handler has returned."""


class WaitTimeout(VisionqError):
    """The task did not end within the time given; it goes on."""

    def __init__(self, message: str | None = None, status: Status | None = None) -> None:
        super().__init__(message)
        self.status = status


class NoValue(VisionqError):
    """The answer holds no value of the form that was asked for."""

    def __init__(self, message: str | None = None, result: Result | None = None) -> None:
        super().__init__(message)
        self.result = result


class TaskNotDone(VisionqError):
    """The task has no answer and will have none."""


class TaskUnknown(TaskNotDone):
    """No task has this id (it was never submitted, or its record has expired)."""


class TaskFailed(TaskNotDone):
    """The task failed."""

    def __init__(
        self, message: str | None = None, code: str = "unknown", retryable: bool = False
    ) -> None:
        super().__init__(message)
        # All three: Celery and pickle carry `args` and build the error from them again.
        self.args = (str(self.args[0]), code, retryable)
        self.code = code
        self.retryable = retryable

    def __str__(self) -> str:
        return str(self.args[0])


class TaskRevoked(TaskNotDone):
    """The task was cancelled."""


class TaskExpired(TaskNotDone):
    """The task's deadline passed before it was answered."""
