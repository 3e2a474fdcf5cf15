"""Putting tasks into the queue and taking results out of the store, synchronously.

What both clients share: the asyncio one runs it in threads, because Celery and boto3 know no
other way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from visionq.broker import Publisher
from visionq.contract import Result, State, Status, Task, read_result
from visionq.errors import (
    InvalidTask,
    ObjectMissing,
    ResultGone,
    TaskExpired,
    TaskFailed,
    TaskRevoked,
)
from visionq.estimates import Demand, Estimate, demand, estimate
from visionq.fleet import Fleets
from visionq.image_sizes import image_size, size_in_hand
from visionq.image_tokens import num_image_tokens
from visionq.inputs import ImageArgument, as_reference, upload
from visionq.kinds import Kind, at_most, find_kind
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
        client = connect(parts.broker_url, timeout_seconds=parts.timeout_seconds)
        self.fleets = Fleets(client, parts.names)
        self.records = Records(
            client,
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
        try:
            content = self.store.get(result_key(status.id))
        except ObjectMissing as exc:
            raise ResultGone(f"{result_key(status.id)} is no longer in the store") from exc
        return read_result(content)

    def close(self) -> None:
        self._publisher.close()
        self.records.close()
        self.store.close()

    def estimate(self, submission: Submission) -> Estimate:
        """What the submission would cost, by the sizes of its images and what workers tell."""
        images, task, asked = self._draft(submission)
        sizes = [image_size(image, self.store) for image in images]
        fleet = self.fleets.look()
        num_crops = at_most(asked.num_crops, fleet.max_num_crops)
        costs = [num_image_tokens(*size, num_crops) for size in sizes]
        return estimate(asked, costs, fleet, task.lane)

    def _build(self, submission: Submission) -> Task:
        images, task, asked = self._draft(submission)
        self._check_length(asked, images)
        known = [as_reference(image) for image in images]
        if None not in known:
            return task
        # Only now: a task that is refused leaves nothing behind.
        stored = [
            found or upload(image, self.store) for found, image in zip(known, images, strict=True)
        ]
        return replace(task, images=tuple(stored))

    def _draft(self, submission: Submission) -> tuple[list[ImageArgument], Task, Demand]:
        """The images, the task with those that are stored already, and what it asks for."""
        images = as_list(submission.images)
        kind = find_kind(self._kinds, submission.kind)
        kind.check(submission.kind, len(images), submission.question)
        known = [as_reference(image) for image in images]
        task = draft(submission, tuple(found for found in known if found is not None))
        return images, task, demand(task, kind, len(images))

    def _check_length(self, asked: Demand, images: Sequence[ImageArgument]) -> None:
        """Raise `PromptTooLong` for what fits nowhere.

        Headers are read only of images in hand, and only where it depends on them.
        """
        fleet = self.fleets.known()
        context = fleet.max_context_tokens
        if context is None:
            return
        asked = replace(asked, num_crops=at_most(asked.num_crops, fleet.min_num_crops))
        most = asked.max_image_tokens + asked.min_text_tokens + asked.new_tokens
        if most > context:
            asked.check([_least_tokens(image, asked.num_crops) for image in images], context)


def _least_tokens(image: ImageArgument, num_crops: int) -> int | None:
    """Of an image in hand, whichever way it lies: an orientation may be overlooked in its header.

    None where nothing can be told; then it is for the worker to say what is wrong with it.
    """
    if as_reference(image) is not None:
        return None
    try:
        width, height = size_in_hand(image)
        return min(
            num_image_tokens(width, height, num_crops), num_image_tokens(height, width, num_crops)
        )
    except InvalidTask:
        return None


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
