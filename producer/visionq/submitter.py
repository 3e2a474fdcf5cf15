"""Putting tasks into the queue and taking results out of the store, synchronously.

What both clients share: the asyncio one runs it in threads, because Celery and boto3 know no
other way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from visionq.broker import Publisher
from visionq.contract import Result, State, Status, Task, read_result
from visionq.errors import TaskExpired, TaskFailed, TaskRevoked
from visionq.inputs import as_reference, upload
from visionq.kinds import Kind, find_kind
from visionq.names import Names, result_key
from visionq.objects import ObjectStore, StoreAddress
from visionq.records import QueueLimits, Records, connect
from visionq.submissions import Submission, as_list, draft
from visionq.watch import Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What both clients are made of."""

    broker_url: str = field(repr=False)  # holds the password
    store: StoreAddress
    names: Names
    kinds: Mapping[str, Kind]
    record_ttl_seconds: int
    limits: QueueLimits
    timeout_seconds: float
    store_timeout_seconds: float

    def new_watch(self) -> Watch:
        return Watch(self.broker_url, self.names, timeout_seconds=self.timeout_seconds)


class Submitter:
    """Uploads, writes records, publishes. Thread-safe; nothing is connected before it is used."""

    def __init__(self, parts: Parts) -> None:
        self.store = ObjectStore(parts.store, timeout_seconds=parts.store_timeout_seconds)
        self.records = Records(
            connect(parts.broker_url, timeout_seconds=parts.timeout_seconds),
            parts.names,
            ttl_seconds=parts.record_ttl_seconds,
            limits=parts.limits,
        )
        self._publisher = Publisher(
            parts.broker_url, parts.names, timeout_seconds=parts.timeout_seconds
        )
        self._kinds = parts.kinds

    def submit(self, submission: Submission) -> str:
        delay = submission.delay_seconds
        task = self._build(submission)
        found = self.records.create(task, delay_seconds=delay)
        if (found is None and not delay) or (found and found.needs_message):
            self._publisher.publish(task)
            if submission.is_idempotent:
                self.records.mark_sent([task.id])
        return task.id

    def submit_many(self, submissions: Sequence[Submission]) -> list[str]:
        delays = [submission.delay_seconds for submission in submissions]
        tasks = [self._build(submission) for submission in submissions]
        found = self.records.create_many(tasks, delays)
        # By id, the first one winning as it does in the record: the same idempotency key may stand
        # in one call twice.
        unsent: dict[str, tuple[Task, Submission]] = {}
        for task, submission, record, delay in zip(tasks, submissions, found, delays, strict=True):
            if (record is None and not delay) or (record and record.needs_message):
                unsent.setdefault(task.id, (task, submission))
        self._publisher.publish_many([task for task, _ in unsent.values()])
        marked = [task.id for task, submission in unsent.values() if submission.is_idempotent]
        if marked:
            self.records.mark_sent(marked)
        return [task.id for task in tasks]

    def result(self, status: Status) -> Result:
        """The stored result of a final task. Raises what stands in the way of an answer."""
        raise_for_state(status)
        return read_result(self.store.get(result_key(status.id)))

    def close(self) -> None:
        self._publisher.close()
        self.records.close()
        self.store.close()

    def _build(self, submission: Submission) -> Task:
        images = as_list(submission.images)
        kind = find_kind(self._kinds, submission.kind)
        kind.check(submission.kind, len(images), submission.question)
        known = [as_reference(image) for image in images]
        task = draft(submission, tuple(found for found in known if found is not None))
        if None not in known:
            return task
        # Only now: a task that is refused leaves nothing behind.
        stored = [
            found or upload(image, self.store) for found, image in zip(known, images, strict=True)
        ]
        return replace(task, images=tuple(stored))


def raise_for_state(status: Status) -> None:
    """Raise unless the task has an answer."""
    if status.state is State.FAILURE:
        failure = status.failure
        assert failure is not None, "a failed record carries its failure"
        raise TaskFailed(failure.message, failure.code, failure.retryable)
    if status.state is State.REVOKED:
        raise TaskRevoked(f"task {status.id} was cancelled")
    if status.state is State.EXPIRED:
        raise TaskExpired(f"task {status.id} was not answered before its deadline")
