"""What a web backend uses: submit image tasks, look at them, wait for them, read the answers.

`Client` and `AsyncClient` have the same names. The pure half (building and checking tasks) is
`_TaskBuilder`; submitting is synchronous code that the asyncio client runs in a thread, because
Celery and boto3 know no other way; waiting is asyncio code (`watch.py`) that the synchronous
client runs on a loop of its own.
"""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import time
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypedDict, TypeVar, Unpack, cast

from visionq.broker import Publisher
from visionq.contract import (
    ImageRef,
    Lane,
    Options,
    Result,
    State,
    Status,
    Task,
    is_task_id,
    read_result,
)
from visionq.errors import (
    InvalidTask,
    TaskExpired,
    TaskFailed,
    TaskRevoked,
    TaskUnknown,
    UnsupportedOption,
)
from visionq.inputs import ImageArgument, reference
from visionq.kinds import BUILTIN_KINDS, Kind, find_kind
from visionq.names import DEFAULT_NAMESPACE, Names, result_key
from visionq.objects import ObjectStore, StoreAddress
from visionq.records import Records, connect
from visionq.watch import ThreadedWatch, Watch

if TYPE_CHECKING:
    from visionq.settings import Settings

Images: TypeAlias = ImageArgument | Sequence[ImageArgument]
Submitted = TypeVar("Submitted")

ID_NAMESPACE = uuid.UUID("6f3c1b0e-6d0a-5c8e-9a55-0e4f7d1c2b3a")
"""Of the UUIDv5 made from tenant and idempotency key. Never change it: retries rely on it."""

RECORD_TTL_SECONDS = 7 * 24 * 3600
TIMEOUT_SECONDS = 2.0
STORE_TIMEOUT_SECONDS = 10.0


class SubmitOptions(TypedDict, total=False):
    """What every submitting method takes beside kind, images and question.

    `expires_in_seconds`: no answer is wanted after that. `idempotency_key`: the same key of the
    same tenant is the same task, however often it is submitted.
    """

    max_new_tokens: int | None
    temperature: float
    top_p: float
    seed: int | None
    num_crops: int | None
    schema: dict[str, Any] | None
    lane: Lane | str
    expires_in_seconds: float | None
    tenant: str
    labels: Mapping[str, str]
    notify: str | None
    idempotency_key: str | None


@dataclass(frozen=True, slots=True)
class Submission:
    """One element of `submit_many`."""

    kind: str
    images: Images
    question: str | None = None
    options: SubmitOptions | None = None

    @property
    def is_idempotent(self) -> bool:
        return bool(self.options and self.options.get("idempotency_key"))


class _TaskBuilder:
    """Checks arguments and builds tasks. Touches nothing outside."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self._kinds = kinds

    def check(self, kind: str, num_images: int, question: str | None) -> None:
        find_kind(self._kinds, kind).check(kind, num_images, question)

    def build(
        self,
        kind: str,
        images: tuple[ImageRef, ...],
        question: str | None,
        *,
        lane: Lane | str = Lane.INTERACTIVE,
        expires_in_seconds: float | None = None,
        tenant: str = "default",
        labels: Mapping[str, str] | None = None,
        notify: str | None = None,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> Task:
        if notify is not None:
            raise UnsupportedOption("notify: webhooks are not carried out by this version")
        if options.get("schema") is not None:
            raise UnsupportedOption("schema: schema output is not carried out by this version")
        return Task(
            id=_task_id(tenant, idempotency_key),
            kind=kind,
            images=images,
            question=question,
            options=_options(options),
            lane=_lane(lane),
            deadline=_deadline(expires_in_seconds),
            tenant=tenant,
            labels=_labels(labels),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What both clients are made of."""

    broker_url: str
    store: StoreAddress
    names: Names
    kinds: Mapping[str, Kind]
    record_ttl_seconds: int
    timeout_seconds: float
    store_timeout_seconds: float

    def new_watch(self) -> Watch:
        return Watch(self.broker_url, self.names, timeout_seconds=self.timeout_seconds)


class _Submitter:
    """The synchronous half that both clients share: uploads, writes records, publishes."""

    def __init__(self, parts: _Parts) -> None:
        self.store = ObjectStore(parts.store, timeout_seconds=parts.store_timeout_seconds)
        self.records = Records(
            connect(parts.broker_url, timeout_seconds=parts.timeout_seconds),
            parts.names,
            ttl_seconds=parts.record_ttl_seconds,
        )
        self._publisher = Publisher(
            parts.broker_url, parts.names, timeout_seconds=parts.timeout_seconds
        )
        self._builder = _TaskBuilder(parts.kinds)

    def submit(self, submission: Submission) -> str:
        task = self._build(submission)
        found = self.records.create(task)
        if found is None or found.needs_message:
            self._publisher.publish(task)
            if submission.is_idempotent:
                self.records.mark_sent([task.id])
        return task.id

    def submit_many(self, submissions: Sequence[Submission]) -> list[str]:
        tasks = [self._build(submission) for submission in submissions]
        found = self.records.create_many(tasks)
        # By id: the same idempotency key may stand in one call twice.
        unsent = {
            task.id: (task, submission)
            for task, submission, record in zip(tasks, submissions, found, strict=True)
            if record is None or record.needs_message
        }
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
        images = _as_list(submission.images)
        self._builder.check(submission.kind, len(images), submission.question)
        references = tuple(reference(image, self.store) for image in images)
        options = submission.options or {}
        return self._builder.build(submission.kind, references, submission.question, **options)


class _BaseClient(Generic[Submitted]):
    """Construction and the methods named after kinds, shared by both clients.

    Nothing is connected before the first call.
    """

    def __init__(
        self,
        broker_url: str,
        store: StoreAddress | None = None,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        kinds: Mapping[str, Kind] = BUILTIN_KINDS,
        record_ttl_seconds: int = RECORD_TTL_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
        store_timeout_seconds: float = STORE_TIMEOUT_SECONDS,
    ) -> None:
        self._parts = _Parts(
            broker_url=broker_url,
            store=store or StoreAddress(bucket="visionq"),
            names=Names(namespace),
            kinds=kinds,
            record_ttl_seconds=record_ttl_seconds,
            timeout_seconds=timeout_seconds,
            store_timeout_seconds=store_timeout_seconds,
        )
        self._submitter = _Submitter(self._parts)
        self._set_up()

    def _set_up(self) -> None:
        """Build what differs. Not an `__init__` there: it would hide the parameters above."""
        raise NotImplementedError

    @classmethod
    def from_settings(cls, settings: Settings | None = None) -> Self:
        """A client as settings.toml and the environment say, or as the settings given."""
        if settings is None:
            from visionq.settings import load_settings

            settings = load_settings()
        return cls(
            settings.broker.url.get_secret_value(),
            settings.storage.address(),
            namespace=settings.broker.namespace,
            kinds=settings.kinds,
            record_ttl_seconds=settings.broker.record_ttl_seconds,
            timeout_seconds=settings.broker.timeout_seconds,
            store_timeout_seconds=settings.storage.timeout_seconds,
        )

    def submit(
        self,
        kind: str,
        images: Images,
        question: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Submitted:
        raise NotImplementedError

    def analyze(
        self, image: Images, question: str | None = None, **options: Unpack[SubmitOptions]
    ) -> Submitted:
        return self.submit("analyze", image, question, **options)

    def ocr(
        self, image: Images, question: str | None = None, **options: Unpack[SubmitOptions]
    ) -> Submitted:
        return self.submit("ocr", image, question, **options)

    def compare(
        self, images: Images, question: str | None = None, **options: Unpack[SubmitOptions]
    ) -> Submitted:
        return self.submit("compare", images, question, **options)

    def describe(
        self, image: Images, question: str | None = None, **options: Unpack[SubmitOptions]
    ) -> Submitted:
        return self.submit("describe", image, question, **options)

    def table(
        self, image: Images, question: str | None = None, **options: Unpack[SubmitOptions]
    ) -> Submitted:
        return self.submit("table", image, question, **options)

    def detect(
        self, image: Images, question: str | None = None, **options: Unpack[SubmitOptions]
    ) -> Submitted:
        return self.submit("detect", image, question, **options)

    def ask(self, images: Images, question: str, **options: Unpack[SubmitOptions]) -> Submitted:
        return self.submit("ask", images, question, **options)


class Client(_BaseClient["TaskHandle"]):
    """The synchronous client. One per process is enough: threads may share it."""

    def _set_up(self) -> None:
        self._watch = ThreadedWatch(self._parts.new_watch)

    def submit(
        self,
        kind: str,
        images: Images,
        question: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> TaskHandle:
        """Put one task into the queue and return at once.

        Raises `InvalidTask` before anything is sent, `StorageError` when an image cannot be
        uploaded, `BrokerUnavailable` when Redis cannot be reached; after the last one, submitting
        again with the same `idempotency_key` is safe.
        """
        task_id = self._submitter.submit(Submission(kind, images, question, options))
        return TaskHandle(self, task_id)

    def submit_many(self, submissions: Iterable[Submission]) -> list[TaskHandle]:
        """Put many tasks into the queue; records and messages travel a thousand at a time."""
        task_ids = self._submitter.submit_many(list(submissions))
        return [TaskHandle(self, task_id) for task_id in task_ids]

    def task(self, task_id: str) -> TaskHandle:
        """The handle of a task submitted elsewhere or earlier."""
        return TaskHandle(self, _checked_id(task_id))

    def status(self, task_id: str) -> Status:
        return self._submitter.records.status(_checked_id(task_id))

    def status_many(self, task_ids: Sequence[str]) -> list[Status]:
        """The status of each id, in one round trip."""
        return self._submitter.records.status_many([_checked_id(item) for item in task_ids])

    def recent(self, limit: int = 100) -> list[Status]:
        """Up to `limit` tasks that still have a record, newest first."""
        statuses = self.status_many(list(self._submitter.records.task_ids(limit)))
        return sorted(statuses, key=lambda status: status.submitted_at or 0.0, reverse=True)

    def wait(self, task_id: str, timeout: float | None = None) -> Status:
        """Return once the task is final. `timeout` in seconds; None waits for ever.

        Raises `WaitTimeout`, `TaskUnknown`, or `BrokerUnavailable` when Redis is away at the end.
        """
        return self._watch.wait(_checked_id(task_id), timeout)

    def result(self, task_id: str, timeout: float | None = None) -> Result:
        """Wait, then read the answer from the store.

        Raises what `wait` raises, and `TaskFailed`, `TaskRevoked` or `TaskExpired`.
        """
        return self._submitter.result(self.wait(task_id, timeout))

    def cancel(self, task_id: str) -> State:
        """Ask for the end of a task: REVOKED at once if it waits, soon if it runs."""
        return self._submitter.records.cancel(_checked_id(task_id))

    def close(self) -> None:
        self._watch.close()
        self._submitter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class AsyncClient(_BaseClient[Coroutine[Any, Any, "AsyncTaskHandle"]]):
    """The asyncio client. It belongs to the event loop on which it is first awaited."""

    def _set_up(self) -> None:
        self._watch = self._parts.new_watch()

    async def submit(
        self,
        kind: str,
        images: Images,
        question: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> AsyncTaskHandle:
        """As `Client.submit`. Also takes upload objects whose `read` is a coroutine."""
        submission = await _read_uploads(Submission(kind, images, question, options))
        return AsyncTaskHandle(self, await asyncio.to_thread(self._submitter.submit, submission))

    async def submit_many(self, submissions: Iterable[Submission]) -> list[AsyncTaskHandle]:
        """As `Client.submit_many`."""
        read = [await _read_uploads(submission) for submission in submissions]
        task_ids = await asyncio.to_thread(self._submitter.submit_many, read)
        return [AsyncTaskHandle(self, task_id) for task_id in task_ids]

    def task(self, task_id: str) -> AsyncTaskHandle:
        """The handle of a task submitted elsewhere or earlier."""
        return AsyncTaskHandle(self, _checked_id(task_id))

    async def status(self, task_id: str) -> Status:
        return await self._watch.status(_checked_id(task_id))

    async def status_many(self, task_ids: Sequence[str]) -> list[Status]:
        """The status of each id, in one round trip."""
        return await self._watch.status_many([_checked_id(item) for item in task_ids])

    async def recent(self, limit: int = 100) -> list[Status]:
        """As `Client.recent`."""
        records = self._submitter.records
        statuses = await self.status_many(await asyncio.to_thread(list, records.task_ids(limit)))
        return sorted(statuses, key=lambda status: status.submitted_at or 0.0, reverse=True)

    async def wait(self, task_id: str, timeout: float | None = None) -> Status:
        """As `Client.wait`."""
        return await self._watch.wait(_checked_id(task_id), timeout)

    async def result(self, task_id: str, timeout: float | None = None) -> Result:
        """As `Client.result`."""
        status = await self.wait(task_id, timeout)
        return await asyncio.to_thread(self._submitter.result, status)

    async def cancel(self, task_id: str) -> State:
        """As `Client.cancel`."""
        return await asyncio.to_thread(self._submitter.records.cancel, _checked_id(task_id))

    async def close(self) -> None:
        await self._watch.close()
        await asyncio.to_thread(self._submitter.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


@dataclass(frozen=True, slots=True)
class TaskHandle:
    """A submitted task. Holds nothing but its id and the client."""

    _client: Client
    id: str

    @property
    def result_key(self) -> str:
        return result_key(self.id)

    def status(self) -> Status:
        return self._client.status(self.id)

    def wait(self, timeout: float | None = None) -> Status:
        return self._client.wait(self.id, timeout)

    def result(self, timeout: float | None = None) -> Result:
        return self._client.result(self.id, timeout)

    def cancel(self) -> State:
        return self._client.cancel(self.id)


@dataclass(frozen=True, slots=True)
class AsyncTaskHandle:
    """A submitted task. Holds nothing but its id and the client."""

    _client: AsyncClient
    id: str

    @property
    def result_key(self) -> str:
        return result_key(self.id)

    async def status(self) -> Status:
        return await self._client.status(self.id)

    async def wait(self, timeout: float | None = None) -> Status:
        return await self._client.wait(self.id, timeout)

    async def result(self, timeout: float | None = None) -> Result:
        return await self._client.result(self.id, timeout)

    async def cancel(self) -> State:
        return await self._client.cancel(self.id)


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


def _checked_id(task_id: str) -> str:
    if not is_task_id(task_id):
        raise TaskUnknown(f"{task_id!r} is not a task id")
    return task_id


def _task_id(tenant: str, idempotency_key: str | None) -> str:
    if idempotency_key is None:
        return str(uuid.uuid4())
    if not idempotency_key:
        raise InvalidTask("an idempotency_key may not be empty: all such tasks would be one")
    return str(uuid.uuid5(ID_NAMESPACE, f"{tenant}\0{idempotency_key}"))


def _lane(lane: Lane | str) -> Lane:
    try:
        return Lane(lane)
    except ValueError:
        raise InvalidTask(f"no lane {lane!r}; there are {', '.join(Lane)}") from None


def _deadline(expires_in_seconds: object) -> float | None:
    if expires_in_seconds is None:
        return None
    if not isinstance(expires_in_seconds, int | float):
        raise InvalidTask("expires_in_seconds must be a number")
    return time() + expires_in_seconds


def _labels(given: object) -> dict[str, str]:
    if not isinstance(given, Mapping | None):
        raise InvalidTask("labels must be a mapping")
    return dict(given or {})


def _options(given: dict[str, Any]) -> Options:
    try:
        return Options(**given)
    except TypeError as exc:
        raise InvalidTask(f"no such option: {exc}") from exc


def _as_list(images: Images) -> list[ImageArgument]:
    if isinstance(images, list | tuple):
        return list(images)
    return [cast("ImageArgument", images)]


async def _read_uploads(submission: Submission) -> Submission:
    """The submission with FastAPI's upload objects replaced by their bytes."""
    images: list[Any] = []
    for image in _as_list(submission.images):
        read = getattr(image, "read", None)
        images.append(await read() if inspect.iscoroutinefunction(read) else image)
    return replace(submission, images=images)
