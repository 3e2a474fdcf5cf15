"""What a web backend uses: submit image tasks, look at them, wait for them, read the answers.

`Client` and `AsyncClient` have the same names and share everything but the waiting face:
submitting is synchronous code (`submitter.py`), which the asyncio client runs in threads; waiting
is asyncio code (`watch.py`), which the synchronous client runs on a loop of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack

from visionq.arguments import (
    checked_count,
    checked_id,
    checked_ids,
    checked_model,
    checked_timeout,
    settings_or_default,
)
from visionq.broker_urls import BrokerAddress, as_address
from visionq.contract import Result, State, Status
from visionq.errors import ClientClosed, StorageUnavailable, TaskUnknown
from visionq.estimates import Estimate
from visionq.kinds import BUILTIN_KINDS, Kind
from visionq.models import Model, instance, with_instance
from visionq.names import DEFAULT_NAMESPACE, Names, result_key
from visionq.objects import StoreAddress
from visionq.pauses import pauses
from visionq.per_process import PerProcess
from visionq.records import DEFAULT_LIMITS, QueueLimits
from visionq.stored_results import MAX_AT_ONCE
from visionq.submissions import (
    Images,
    Submission,
    SubmitOptions,
    as_submissions,
    read_uploads,
)
from visionq.submitter import Parts, Submitter
from visionq.watch import ThreadedWatch, Watch, WatchPerLoop

if TYPE_CHECKING:
    from pydantic import BaseModel

    from visionq.settings import Settings

Submitted = TypeVar("Submitted")
T = TypeVar("T")

RECORD_TTL_SECONDS = 7 * 24 * 3600
TIMEOUT_SECONDS = 2.0
STORE_TIMEOUT_SECONDS = 10.0
MAX_LISTED = 10_000
"""Of how many records `recent` finds the newest."""


class _BaseClient(Generic[Submitted]):
    """Construction and the methods named after kinds, shared by both clients.

    Nothing is connected before the first call.
    """

    def __init__(
        self,
        broker_url: str | BrokerAddress,
        store: StoreAddress | None = None,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        kinds: Mapping[str, Kind] = BUILTIN_KINDS,
        record_ttl_seconds: int = RECORD_TTL_SECONDS,
        limits: QueueLimits = DEFAULT_LIMITS,
        replicas_to_confirm: int = 0,
        timeout_seconds: float = TIMEOUT_SECONDS,
        store_timeout_seconds: float = STORE_TIMEOUT_SECONDS,
    ) -> None:
        broker = as_address(broker_url).for_namespace(namespace)
        self._parts = Parts(
            broker=broker,
            store=StoreAddress(bucket="visionq") if store is None else store,
            names=Names(namespace, hash_tag=broker.hash_tag),
            kinds=kinds,
            record_ttl_seconds=record_ttl_seconds,
            limits=limits,
            replicas_to_confirm=replicas_to_confirm,
            timeout_seconds=timeout_seconds,
            store_timeout_seconds=store_timeout_seconds,
        )
        self._opened = Submitter(self._parts)
        self._is_closed = False
        self._set_up()

    def _set_up(self) -> None:
        """Build what differs. Not an `__init__` there: it would hide the parameters above."""
        raise NotImplementedError

    @property
    def _submitter(self) -> Submitter:
        self._check_open()
        return self._opened

    def _check_open(self) -> None:
        """Raise `ClientClosed` after `close`."""
        if self._is_closed:
            raise ClientClosed

    def _store_pauses(self, timeout: float | None, began: float) -> Iterator[float]:
        """Between tries to read from a store that is away. `timeout`: of a wait since `began`."""
        if timeout is None:
            return pauses(self._parts.store_timeout_seconds)
        return pauses(began + timeout - monotonic())

    @classmethod
    def from_settings(cls, settings: Settings | None = None) -> Self:
        """A client as settings.toml and the environment say, or as the settings given."""
        settings = settings_or_default(settings)
        return cls(
            settings.broker.address(),
            settings.storage.address(),
            namespace=settings.broker.namespace,
            kinds=settings.kinds,
            record_ttl_seconds=settings.broker.record_ttl_seconds,
            limits=QueueLimits(
                max_waiting=settings.broker.max_waiting,
                max_waiting_per_tenant=settings.broker.max_waiting_per_tenant,
            ),
            replicas_to_confirm=settings.broker.replicas_to_confirm,
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
    """The synchronous client. One per process is enough: threads may share it.

    A client that was used before a fork may be used in the children, too.
    """

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

        Raises `InvalidTask` before anything is sent, `PromptTooLong` among them where no worker
        has a context for it; `StorageError` when an image cannot be uploaded, `QueueFull` when too
        many tasks wait, `IdempotencyConflict` when the key is in use for something else,
        `BrokerUnavailable` when Redis cannot be reached, and `NotReplicated`, which is one, when
        too few replicas confirm; after the last two, submitting again with the same
        `idempotency_key` is safe.
        """
        submission = Submission(kind, images, question, options)
        return TaskHandle(self, self._submitter.submit(submission), submission.model)

    def estimate(
        self,
        kind: str,
        images: Images,
        question: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Estimate:
        """What `submit` with the same arguments would cost, and how long it would take.

        Nothing is sent or stored; of images, the headers are read. Raises `InvalidTask`, for an
        image behind a URL as well, `StorageError` for a key, and `BrokerUnavailable`.
        """
        return self._submitter.estimate(Submission(kind, images, question, options))

    def submit_many(self, submissions: Iterable[Submission]) -> list[TaskHandle]:
        """Put many tasks into the queue: records in one go, messages a thousand at a time.

        Images that are bytes are uploaded one after the other, before. Whatever is raised, none of
        the tasks was accepted, but for `BrokerUnavailable`: then some may have been.
        """
        given = as_submissions(submissions)
        task_ids = self._submitter.submit_many(given)
        return [
            TaskHandle(self, task_id, submission.model)
            for task_id, submission in zip(task_ids, given, strict=True)
        ]

    def task(self, task_id: str) -> TaskHandle:
        """The handle of a task submitted elsewhere or earlier."""
        self._check_open()
        return TaskHandle(self, checked_id(task_id))

    def status(self, task_id: str, *, look_in_store: bool = True) -> Status:
        """What the task's record says; where that is gone, what its result object says.

        The object is asked for once, and not again within 10 s where there is none. Raises
        `BrokerUnavailable`, and `StorageError` where there is no record and the store cannot be
        asked: the task may have ended, so it is not UNKNOWN.
        """
        status = self._submitter.records.status(checked_id(task_id))
        return self._submitter.stored.completed(status) if look_in_store else status

    def status_many(self, task_ids: Sequence[str], *, look_in_store: bool = False) -> list[Status]:
        """The status of each id, in one round trip.

        `look_in_store`: then, of those without a record, each result object is asked for, several
        at a time; raises as `status`.
        """
        statuses = self._submitter.records.status_many(checked_ids(task_ids))
        return self._submitter.stored.all_completed(statuses) if look_in_store else statuses

    def recent(self, limit: int = 100) -> list[Status]:
        """Up to `limit` tasks that still have a record, newest first. For looking around: it reads
        up to `MAX_LISTED` records.
        """
        limit = checked_count("limit", limit)
        return _newest(self.status_many(list(self._submitter.records.task_ids(MAX_LISTED))), limit)

    def wait(self, task_id: str, timeout: float | None = None) -> Status:
        """Return once the task is final. `timeout` in seconds; None waits for ever.

        A task without a record has ended if it has a result object; the store is asked once.
        Raises `WaitTimeout`, `TaskUnknown`, or `BrokerUnavailable` when Redis is away at the end;
        without a record `ResultUnreadable`, and `StorageError` where the store cannot be asked.
        """
        task_id, timeout = checked_id(task_id), checked_timeout(timeout)
        self._check_open()
        try:
            return self._watch.wait(task_id, timeout)
        except TaskUnknown as unknown:
            return self._submitter.status_in_store(task_id, unknown)

    def result(self, task_id: str, timeout: float | None = None) -> Result:
        """Wait, then read the answer from the store.

        Raises what `wait` raises, and `TaskFailed`, `TaskRevoked` or `TaskExpired`; `ResultGone`
        where the object of an answer has been deleted, `ResultUnreadable`, and `StorageError`.
        While the store is away it is asked again until the timeout is up; without one, for
        `store_timeout_seconds`.
        """
        task_id, timeout = checked_id(task_id), checked_timeout(timeout)
        self._check_open()
        began = monotonic()
        try:
            status = self._watch.wait(task_id, timeout)
        except TaskUnknown as unknown:
            read = partial(self._submitter.result_in_store, task_id, unknown)
        else:
            read = partial(self._submitter.result, status)
        between_tries = self._store_pauses(timeout, began)
        while True:
            try:
                return read()
            except StorageUnavailable:
                if (pause := next(between_tries, None)) is None:
                    raise
            sleep(pause)

    def parsed(self, task_id: str, model: type[Model], timeout: float | None = None) -> Model:
        """The answer's value as an instance of the pydantic model.

        Raises what `result` raises, and `NoValue` for an answer without one.
        """
        return instance(checked_model(model), self.result(task_id, timeout))

    def cancel(self, task_id: str) -> State:
        """Ask for the end of a task: REVOKED at once if it waits, soon if it runs.

        UNKNOWN is kept for an hour: a message of another sender with this id ends as REVOKED.
        """
        return self._submitter.records.cancel(checked_id(task_id))

    def close(self) -> None:
        """Close all connections. A later call raises `ClientClosed`, as does what still waits."""
        self._is_closed = True
        self._watch.close()
        self._opened.close()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class AsyncClient(_BaseClient[Coroutine[Any, Any, "AsyncTaskHandle"]]):
    """The asyncio client. It may be used on several event loops, each with its own connections."""

    def _set_up(self) -> None:
        self._watches = WatchPerLoop(self._parts.new_watch)
        self._store_threads = PerProcess(_store_threads, _end_threads)

    async def _from_store(self, read: Callable[[], T]) -> T:
        """What `read` returns, in threads for that alone.

        While the store is silent they all wait for it, and the loop's own ones are for the rest.
        """
        self._check_open()
        threads = self._store_threads.get()
        return await asyncio.get_running_loop().run_in_executor(threads, read)

    async def _watch(self) -> Watch:
        self._check_open()
        return await self._watches.here()

    async def submit(
        self,
        kind: str,
        images: Images,
        question: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> AsyncTaskHandle:
        """As `Client.submit`. Also takes upload objects whose `read` is a coroutine."""
        submission = await read_uploads(Submission(kind, images, question, options))
        task_id = await asyncio.to_thread(self._submitter.submit, submission)
        return AsyncTaskHandle(self, task_id, submission.model)

    async def estimate(
        self,
        kind: str,
        images: Images,
        question: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Estimate:
        """As `Client.estimate`. Upload objects are read, and rewound if they have a `seek`."""
        submission = await read_uploads(Submission(kind, images, question, options), rewinds=True)
        return await asyncio.to_thread(self._submitter.estimate, submission)

    async def submit_many(self, submissions: Iterable[Submission]) -> list[AsyncTaskHandle]:
        """As `Client.submit_many`."""
        read = [await read_uploads(submission) for submission in as_submissions(submissions)]
        task_ids = await asyncio.to_thread(self._submitter.submit_many, read)
        return [
            AsyncTaskHandle(self, task_id, submission.model)
            for task_id, submission in zip(task_ids, read, strict=True)
        ]

    def task(self, task_id: str) -> AsyncTaskHandle:
        """The handle of a task submitted elsewhere or earlier."""
        self._check_open()
        return AsyncTaskHandle(self, checked_id(task_id))

    async def status(self, task_id: str, *, look_in_store: bool = True) -> Status:
        """As `Client.status`."""
        status = await (await self._watch()).status(checked_id(task_id))
        if not look_in_store:
            return status
        if status.is_known:
            return self._submitter.stored.completed(status)  # asks nobody
        return await self._from_store(partial(self._submitter.stored.completed, status))

    async def status_many(
        self, task_ids: Sequence[str], *, look_in_store: bool = False
    ) -> list[Status]:
        """As `Client.status_many`."""
        statuses = await (await self._watch()).status_many(checked_ids(task_ids))
        if not look_in_store:
            return statuses
        return await self._from_store(partial(self._submitter.stored.all_completed, statuses))

    async def recent(self, limit: int = 100) -> list[Status]:
        """As `Client.recent`."""
        limit = checked_count("limit", limit)
        records = self._submitter.records
        task_ids = await asyncio.to_thread(list, records.task_ids(MAX_LISTED))
        return _newest(await self.status_many(task_ids), limit)

    async def wait(self, task_id: str, timeout: float | None = None) -> Status:
        """As `Client.wait`."""
        task_id, timeout = checked_id(task_id), checked_timeout(timeout)
        try:
            return await (await self._watch()).wait(task_id, timeout)
        except TaskUnknown as unknown:
            in_store = self._submitter.status_in_store
            return await self._from_store(partial(in_store, task_id, unknown))

    async def result(self, task_id: str, timeout: float | None = None) -> Result:
        """As `Client.result`."""
        task_id, timeout = checked_id(task_id), checked_timeout(timeout)
        began = monotonic()
        try:
            status = await (await self._watch()).wait(task_id, timeout)
        except TaskUnknown as unknown:
            read = partial(self._submitter.result_in_store, task_id, unknown)
        else:
            read = partial(self._submitter.result, status)
        between_tries = self._store_pauses(timeout, began)
        while True:
            try:
                return await self._from_store(read)
            except StorageUnavailable:
                if (pause := next(between_tries, None)) is None:
                    raise
            await asyncio.sleep(pause)

    async def parsed(self, task_id: str, model: type[Model], timeout: float | None = None) -> Model:
        """As `Client.parsed`."""
        return instance(checked_model(model), await self.result(task_id, timeout))

    async def cancel(self, task_id: str) -> State:
        """As `Client.cancel`."""
        return await asyncio.to_thread(self._submitter.records.cancel, checked_id(task_id))

    async def close(self) -> None:
        """As `Client.close`."""
        self._is_closed = True
        await self._watches.close()
        self._store_threads.close()
        await asyncio.to_thread(self._opened.close)

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


@dataclass(frozen=True, slots=True)
class TaskHandle:
    """A submitted task. Holds its id, the client, and the pydantic model that was its schema."""

    _client: Client
    id: str
    _model: type[BaseModel] | None = None

    @property
    def result_key(self) -> str:
        return result_key(self.id)

    def status(self) -> Status:
        return self._client.status(self.id)

    def wait(self, timeout: float | None = None) -> Status:
        return self._client.wait(self.id, timeout)

    def result(self, timeout: float | None = None) -> Result:
        """As `Client.result`; the value is the model's, if a model was the schema."""
        return with_instance(self._model, self._client.result(self.id, timeout))

    def parsed(self, model: type[Model], timeout: float | None = None) -> Model:
        return self._client.parsed(self.id, model, timeout)

    def cancel(self) -> State:
        return self._client.cancel(self.id)


@dataclass(frozen=True, slots=True)
class AsyncTaskHandle:
    """As `TaskHandle`."""

    _client: AsyncClient
    id: str
    _model: type[BaseModel] | None = None

    @property
    def result_key(self) -> str:
        return result_key(self.id)

    async def status(self) -> Status:
        return await self._client.status(self.id)

    async def wait(self, timeout: float | None = None) -> Status:
        return await self._client.wait(self.id, timeout)

    async def result(self, timeout: float | None = None) -> Result:
        """As `TaskHandle.result`."""
        return with_instance(self._model, await self._client.result(self.id, timeout))

    async def parsed(self, model: type[Model], timeout: float | None = None) -> Model:
        return await self._client.parsed(self.id, model, timeout)

    async def cancel(self) -> State:
        return await self._client.cancel(self.id)


def _store_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MAX_AT_ONCE, "visionq-results")


def _end_threads(threads: ThreadPoolExecutor) -> None:
    threads.shutdown(wait=False)


def _newest(statuses: list[Status], limit: int) -> list[Status]:
    known = [status for status in statuses if status.is_known]
    known.sort(key=lambda status: status.submitted_at or 0.0, reverse=True)
    return known[:limit]
