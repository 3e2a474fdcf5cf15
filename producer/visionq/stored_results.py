"""Result objects, read out of the store, and what they say of a task whose record is gone.

A record ends with its TTL, and is lost with a flush, an eviction or a failover. An object that was
not there is not asked for again for `MISS_SECONDS`, so that polling an unknown id costs the store
next to nothing; a record that appears meanwhile is found first, in Redis.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic

from visionq.contract import Failure, FailureCode, Result, Status, read_newer_result, read_result
from visionq.errors import InvalidTask, ObjectMissing, ResultUnreadable
from visionq.names import result_key
from visionq.objects import ObjectStore
from visionq.per_process import PerProcess

MISS_SECONDS = 10.0
MAX_MISSES = 10_000
MAX_AT_ONCE = 16
"""Objects that one call asks for at the same time."""


def stored_result(
    store: ObjectStore, task_id: str, read: Callable[[bytes], Result] = read_result
) -> Result:
    """The result object, as `read` makes it of its bytes.

    Raises `StorageError`, and `InvalidTask` for one that cannot be read. That is said only after it
    was read again: it may be the reading that has gone wrong.
    """
    key = result_key(task_id)
    try:
        return read(store.get(key))
    except InvalidTask:
        return read(store.get_checked(key))


class StoredResults:
    """Reads result objects of tasks without a record. Thread-safe, and usable in a forked child."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._misses = PerProcess(_Misses, _Misses.clear)

    def find(self, task_id: str, read: Callable[[bytes], Result] = read_result) -> Result | None:
        """The result; None where there was no object, now or within the last `MISS_SECONDS`.

        Raises `ResultUnreadable`, and `StorageError` where the store cannot be asked: whether there
        is a result is not known then.
        """
        misses, key = self._misses.get(), result_key(task_id)
        if misses.has(task_id):
            return None
        try:
            found = stored_result(self._store, task_id, read)
        except ObjectMissing:
            misses.add(task_id)
            return None
        except InvalidTask as exc:
            raise ResultUnreadable(f"{key} cannot be read: {exc}") from exc
        if found.task_id != task_id or not found.state.is_final:
            raise ResultUnreadable(f"{key} is not the result of this task")
        return found

    def completed(self, status: Status) -> Status:
        """The status; one that is UNKNOWN as the task's result object has it, if there is one.

        It stays UNKNOWN, with a failure that says so, where the object cannot be read. Raises
        `StorageError`.
        """
        if status.is_known:
            self._misses.get().drop(status.id)
            return status
        try:
            found = self.find(status.id, read_newer_result)
        except ResultUnreadable as unreadable:
            return replace(status, failure=_unreadable(unreadable))
        return status if found is None else status_of(status.id, found)

    def all_completed(self, statuses: Sequence[Status]) -> list[Status]:
        """`completed` for each, `MAX_AT_ONCE` at a time. Raises the first `StorageError`."""
        unknown = {status.id: status for status in statuses if not status.is_known}
        for status in statuses:
            if status.is_known:
                self._misses.get().drop(status.id)
        if not unknown:
            return list(statuses)
        with ThreadPoolExecutor(min(len(unknown), MAX_AT_ONCE), "visionq-store") as threads:
            try:
                found = dict(
                    zip(unknown, threads.map(self.completed, unknown.values()), strict=True)
                )
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise
        return [found.get(status.id, status) for status in statuses]

    def close(self) -> None:
        self._misses.close()


def status_of(task_id: str, result: Result) -> Status:
    """What a result object says of where its task is. Of the record's times, it has the last."""
    return Status(
        id=task_id,
        state=result.state,
        kind=result.kind,
        tenant=result.tenant,
        attempt=result.provenance.attempt or 0,
        generated_tokens=result.usage.completion_tokens if result.usage else 0,
        finished_at=result.finished_at,
        failure=result.failure,
        result_key=result_key(task_id),
        source="store",
    )


class _Misses:
    """Ids without an object, and when that was found. Re-entrant, for a signal handler's call."""

    def __init__(self) -> None:
        self._found_at: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.RLock()

    def has(self, task_id: str) -> bool:
        with self._lock:
            return self._found_at.get(task_id, float("-inf")) > monotonic() - MISS_SECONDS

    def add(self, task_id: str) -> None:
        with self._lock:
            self._found_at[task_id] = monotonic()
            self._found_at.move_to_end(task_id)
            while len(self._found_at) > MAX_MISSES:
                self._found_at.popitem(last=False)

    def drop(self, task_id: str) -> None:
        """The task is there: should its record go, its object may have come meanwhile."""
        if self._found_at:
            with self._lock:
                self._found_at.pop(task_id, None)

    def clear(self) -> None:
        with self._lock:
            self._found_at.clear()


def _unreadable(error: ResultUnreadable) -> Failure:
    return Failure(
        code=FailureCode.UNSUPPORTED_VERSION, message=f"the task has no record, and {error}"
    )
