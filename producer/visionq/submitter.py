"""Putting tasks into the queue and taking results out of the store, synchronously.

What both clients share: the asyncio one runs it in threads, because Celery and boto3 know no
other way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, cast

from visionq.broker import Publisher
from visionq.broker_urls import BrokerAddress
from visionq.connections import connect
from visionq.contract import (
    Result,
    State,
    Status,
    Task,
    read_newer_result,
    read_result,
    read_task,
)
from visionq.errors import (
    BrokerDenied,
    BrokerUnavailable,
    InvalidTask,
    NotReplicated,
    ObjectMissing,
    ResultGone,
    ResultUnreadable,
    SettingsError,
    TaskExpired,
    TaskFailed,
    TaskRevoked,
    TaskUnknown,
    UrlsNotAllowed,
)
from visionq.estimates import Demand, Estimate, demand, estimate
from visionq.fingerprints import fingerprint
from visionq.fleet import Fleets
from visionq.image_sizes import image_size, size_in_hand
from visionq.image_tokens import num_image_tokens
from visionq.inputs import ImageArgument, as_reference, look_at, upload
from visionq.kinds import Kind, at_most, find_kind
from visionq.names import Names, result_key
from visionq.objects import ObjectStore, StoreAddress
from visionq.records import ClockWasSet, Found, Key, New, QueueLimits, Records
from visionq.replication import Replicas
from visionq.stored_results import StoredResults, status_of, stored_result
from visionq.submissions import MAX_SECONDS, Submission, as_list, draft
from visionq.watch import Watch

_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""Wider than the setting's, which came later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What both clients are made of."""

    broker: str | BrokerAddress = field(repr=False)  # holds the password
    store: StoreAddress
    names: Names
    kinds: Mapping[str, Kind]
    record_ttl_seconds: int
    limits: QueueLimits
    replicas_to_confirm: int
    timeout_seconds: float
    store_timeout_seconds: float

    def __post_init__(self) -> None:
        """Raise `SettingsError`; the broker's address is checked where it is first used."""
        kinds, names = self.kinds, self.names
        if not isinstance(self.store, StoreAddress):
            raise SettingsError("store must be a StoreAddress, or None")
        if not isinstance(names.namespace, str) or not _NAMESPACE.fullmatch(names.namespace):
            raise SettingsError(f"namespace does not match {_NAMESPACE.pattern}")
        if not isinstance(kinds, Mapping) or not all(
            isinstance(name, str) and isinstance(kind, Kind) for name, kind in kinds.items()
        ):
            raise SettingsError("kinds must be a mapping of names to Kind objects")
        if not isinstance(self.limits, QueueLimits):
            raise SettingsError("limits must be of the type QueueLimits")
        if not isinstance(self.record_ttl_seconds, int):
            raise SettingsError("record_ttl_seconds must be a whole number")
        for name in ("record_ttl_seconds", "timeout_seconds", "store_timeout_seconds"):
            _require_seconds(name, getattr(self, name))
        Replicas(num=self.replicas_to_confirm)

    def new_watch(self) -> Watch:
        return Watch(self.broker, self.names, timeout_seconds=self.timeout_seconds)


def _require_seconds(name: str, given: object) -> None:
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if not is_number or not 0 < cast("float", given) <= MAX_SECONDS:
        raise SettingsError(f"{name} must be a number above 0, and {MAX_SECONDS} at most")


class Submitter:
    """Uploads, writes records, publishes. Thread-safe; nothing is connected before it is used."""

    def __init__(self, parts: Parts) -> None:
        self.store = ObjectStore(parts.store, timeout_seconds=parts.store_timeout_seconds)
        client = connect(parts.broker, timeout_seconds=parts.timeout_seconds)
        self.stored = StoredResults(self.store)
        self.fleets = Fleets(client, parts.names)
        self.records = Records(
            client,
            parts.names,
            ttl_seconds=parts.record_ttl_seconds,
            limits=parts.limits,
            replicas=Replicas(num=parts.replicas_to_confirm, timeout_seconds=parts.timeout_seconds),
        )
        self._publisher = Publisher(
            parts.broker, parts.names, timeout_seconds=parts.timeout_seconds
        )
        self._kinds = parts.kinds

    def submit(self, submission: Submission) -> str:
        """The task's id; with an idempotency key, that of the key's newest task."""
        new = self._new(submission)
        try:
            new, found = self._create(new)
        except ClockWasSet:
            new, found = self._create(*self._timed_anew([new]))
        if message := _message(new, new.task, found):
            self._publisher.publish(message)
            if new.key:
                self.records.mark_sent([message.id])
        return found.task_id if found else new.task.id

    def submit_many(self, submissions: Sequence[Submission]) -> list[str]:
        """As `submit`, for each."""
        all_new = [self._new(submission) for submission in submissions]
        try:
            created = self._create_many(all_new)
        except ClockWasSet:
            all_new = self._timed_anew(all_new)
            created = self._create_many(all_new)
        # By id: the same idempotency key may stand in one call twice.
        unsent: dict[str, Task] = {}
        keyed = []
        for new, (task, found) in zip(all_new, created, strict=True):
            message = _message(new, task, found)
            if message and message.id not in unsent:
                unsent[message.id] = message
                keyed += [message.id] if new.key else []
        self._publisher.publish_many(list(unsent.values()))
        if keyed:
            self.records.mark_sent(keyed)
        return [found.task_id if found else task.id for task, found in created]

    def _create(self, new: New) -> tuple[New, Found | None]:
        """What was found, and the task with an id of its own where it follows another one."""
        found = self._create_once(new)
        if found and found.is_over and new.key:
            new = new.as_retry()
            found = self._create_once(new)
        return new, found

    def _create_once(self, new: New) -> Found | None:
        try:
            return self.records.create(
                new.task,
                delay_seconds=new.delay_seconds,
                key=new.key,
                expiry_seconds=new.expiry_seconds,
            )
        except BrokerDenied:
            self._withdraw([new])
            raise
        except NotReplicated as error:
            if new.key is not None:
                raise NotReplicated(
                    f"{error}; the task may have been accepted: submit it again with the same "
                    "idempotency_key"
                ) from error
            # Nobody but us knows its id, and nobody could ask for this very task again.
            self.records.take_back([new])
            raise NotReplicated(f"{error}; the task was withdrawn: submit it again") from error

    def _create_many(self, all_new: Sequence[New]) -> list[tuple[Task, Found | None]]:
        try:
            return self.records.create_many(all_new)
        except BrokerDenied:
            self._withdraw(all_new)
            raise
        except NotReplicated as error:
            raise NotReplicated(
                f"{error}; tasks without an idempotency_key were withdrawn, others may have been "
                "accepted: submit all of them again"
            ) from error

    def _withdraw(self, all_new: Sequence[New]) -> None:
        """Of what was refused: the records may be there, and only the question to replicas not
        allowed."""
        with suppress(BrokerUnavailable):
            self.records.take_back([new for new in all_new if new.key is None])

    def _timed_anew(self, all_new: Sequence[New]) -> list[New]:
        """With deadlines by Redis's clock as it is now."""
        self.fleets.look()
        return [
            new
            if new.expiry_seconds is None
            else replace(
                new, task=replace(new.task, deadline=self.fleets.now() + new.expiry_seconds)
            )
            for new in all_new
        ]

    def _new(self, submission: Submission) -> New:
        delay_seconds = submission.delay_seconds
        task = self._build(submission)
        key = None
        if submission.is_idempotent:
            kind = find_kind(self._kinds, task.kind)
            key = Key(first_id=task.id, fingerprint=fingerprint(task, kind))
        return New(task, delay_seconds, key, submission.expiry_seconds)

    def result(self, status: Status) -> Result:
        """The stored result of a final task. Raises what stands in the way of an answer."""
        raise_for_state(status)
        key = result_key(status.id)
        try:
            found = stored_result(self.store, status.id)
        except ObjectMissing as exc:
            raise ResultGone(f"task {status.id} was answered, but {key} is gone") from exc
        except InvalidTask as exc:
            raise ResultUnreadable(f"{key} cannot be read: {exc}") from exc
        if status.tenant is not None and found.tenant != status.tenant:
            raise ResultGone(f"task {status.id} was answered, but {key} is another tenant's")
        return found

    def status_in_store(self, task_id: str, unknown: TaskUnknown) -> Status:
        """The final status of a task without a record. Raises `unknown` where it has no result.

        Raises `ResultUnreadable` and `StorageError`, too.
        """
        return status_of(task_id, self._in_store(task_id, unknown, read_newer_result))

    def result_in_store(self, task_id: str, unknown: TaskUnknown) -> Result:
        """As `status_in_store`, its answer. Raises what stands in the way of one, too."""
        found = self._in_store(task_id, unknown)
        raise_for_state(status_of(task_id, found))
        return found

    def _in_store(
        self,
        task_id: str,
        unknown: TaskUnknown,
        read: Callable[[bytes], Result] = read_result,
    ) -> Result:
        found = self.stored.find(task_id, read)
        if found is None:
            raise unknown
        return found

    def close(self) -> None:
        self._publisher.close()
        self.stored.close()
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
        self._check_urls(task)
        changes: dict[str, Any] = {}
        if (expiry := submission.expiry_seconds) is not None:
            changes["deadline"] = self.fleets.now() + expiry
        known = [as_reference(image) for image in images]
        if None in known:
            for found, image in zip(known, images, strict=True):
                if found is None:
                    look_at(image)
            # Only now: a task that is refused leaves nothing behind.
            changes["images"] = tuple(
                found or upload(image, self.store)
                for found, image in zip(known, images, strict=True)
            )
        return replace(task, **changes) if changes else task

    def _draft(self, submission: Submission) -> tuple[list[ImageArgument], Task, Demand]:
        """The images, the task with those that are stored already, and what it asks for."""
        images = as_list(submission.images)
        kind = find_kind(self._kinds, submission.kind)
        kind.check(submission.kind, len(images), submission.question)
        known = [as_reference(image) for image in images]
        task = draft(submission, tuple(found for found in known if found is not None))
        kind.check_tags(task.question, task.options.schema)
        return images, task, demand(task, kind, len(images))

    def _check_urls(self, task: Task) -> None:
        """Raise `UrlsNotAllowed` where each worker that is alive has said so, just now."""
        has_url = any(image.ref.startswith("https://") for image in task.images)
        if has_url and not self.fleets.known().takes_urls and not self.fleets.look().takes_urls:
            raise UrlsNotAllowed

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


def _message(new: New, task: Task, found: Found | None) -> Task | None:
    """What has to be published: the new task, or what an earlier submit may have left unsent."""
    if found is None:
        return None if new.delay_seconds else task
    if not found.needs_message:
        return None
    if found.task is None:
        return task
    try:
        # As that submit has it: lane, deadline and labels may be others.
        return read_task(json.loads(found.task))
    except (ValueError, InvalidTask):  # of a newer client; workers notice that its message is lost
        return None


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
        if failure is None:  # somebody has spoilt the record
            raise TaskFailed(f"task {status.id} failed")
        raise TaskFailed(failure.message, failure.code, failure.retryable)
    if status.state is State.REVOKED:
        raise TaskRevoked(f"task {status.id} was cancelled")
    if status.state is State.EXPIRED:
        raise TaskExpired(f"task {status.id} was not answered before its deadline")
