"""Where store and records differ: results without a record, answers without a result, lost moves.

Compared range by range of the results' keys, so that memory does not grow with their number: a page
of the store's listing at a time, the ids of `IDS_PER_RANGE` objects at most, and for each range one
SCAN over what Redis holds. Nothing is changed but for `repairs`: a record that is gone is made anew
from its result. All else the workers mend themselves, while one is running. What changes meanwhile
is looked at twice before it is reported.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Any, Self, TypeVar

import redis

from visionq.arguments import settings_or_default
from visionq.connections import connect, mapped_errors
from visionq.contract import FailureCode, Result, State, is_task_id, read_newer_result
from visionq.errors import InvalidTask, ObjectMissing, StorageError
from visionq.names import RESULT_FOLDER, Names, result_key
from visionq.objects import Listed, ObjectStore
from visionq.records import LANES, LOOK_SECONDS, Records, state_of
from visionq.stored_results import stored_result

if TYPE_CHECKING:
    from visionq.settings import Settings

T = TypeVar("T")

IDS_PER_RANGE = 20_000
RECORDS_PER_LOOK = 1_000
MESSAGES_PER_LOOK = 200
PRIORITIES = ("", "\x06\x163", "\x06\x166", "\x06\x169")
"""What kombu puts behind the name of a queue, for each of its priorities."""
_FIELDS = ("state", "claim", "due", "dead", "owes", "at", "since")


class Finding(StrEnum):
    """In what store and records differ."""

    RECORD_GONE = "record_gone"
    OBJECT_GONE = "object_gone"
    NOT_ENDED = "not_ended"
    MESSAGE_GONE = "message_gone"


_MESSAGES = {
    Finding.RECORD_GONE: "its result is in the store, and its record is gone from Redis",
    Finding.OBJECT_GONE: "it was answered, and its result is gone from the store",
    Finding.NOT_ENDED: "its result is in the store, and its record has not ended; a worker ends it",
    Finding.MESSAGE_GONE: "it waits, and its message is in no queue; a worker sends it again",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One task. `state` is the record's; without one it is the result's, UNKNOWN if not read."""

    id: str
    finding: Finding
    state: State
    is_repaired: bool = False

    @property
    def message(self) -> str:
        """A sentence for the operator."""
        more = "; the record was made anew" if self.is_repaired else ""
        return f"{_MESSAGES[self.finding]}{more}"


@dataclass(slots=True)
class Counts:
    """How much was compared. `num_older`: results whose record has ended with its TTL."""

    num_objects: int = 0
    num_records: int = 0
    num_older: int = 0
    findings: dict[Finding, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Range:
    """Ids after `low` up to `high` (None: no bound), and those of them that have an object."""

    low: str
    high: str | None
    stored: Mapping[str, float]

    def has(self, task_id: str) -> bool:
        return self.low < task_id and (self.high is None or task_id <= self.high)


@dataclass(frozen=True, slots=True)
class _Record:
    """What a record says, as far as it matters here."""

    state: str
    is_paused: bool
    is_dead: bool
    owes: bool
    claim: str | None
    at: float
    since: float

    @property
    def is_answered(self) -> bool:
        return self.state == State.SUCCESS and not self.owes

    @property
    def may_wait(self) -> bool:
        """Whether it is not over, not paused, and not about to be ended."""
        state = state_of(self.state)
        is_over = state.is_final or state is State.UNKNOWN  # of a newer version
        return not (is_over or self.is_paused or self.is_dead)


class StoreComparison:
    """Compares a namespace's records with the results in the bucket. Not thread-safe.

    Raises `BrokerUnavailable` and `StorageError`; what was found until then stands.
    """

    def __init__(
        self,
        client: redis.Redis,
        names: Names,
        store: ObjectStore,
        *,
        ttl_seconds: int,
    ) -> None:
        """`ttl_seconds` is that of the records."""
        self._redis = client
        self._names = names
        self._store = store
        self._records = Records(client, names, ttl_seconds=ttl_seconds)
        self._ttl_seconds = ttl_seconds
        self.counts = Counts()

    @classmethod
    def from_settings(cls, settings: Settings | None = None) -> Self:
        """As settings.toml and the environment say, or as the settings given."""
        settings = settings_or_default(settings)
        broker, storage = settings.broker, settings.storage
        client = connect(broker.address(), timeout_seconds=broker.timeout_seconds)
        store = ObjectStore(storage.address(), timeout_seconds=storage.timeout_seconds)
        return cls(client, broker.names(), store, ttl_seconds=broker.record_ttl_seconds)

    def differences(self, *, repairs: bool = False) -> Iterator[Difference]:
        """Each difference, as it is found. `repairs`: make records anew from results."""
        for one in self._ranges():
            for found in self._compare(one, repairs=repairs):
                counted = self.counts.findings
                counted[found.finding] = counted.get(found.finding, 0) + 1
                yield found

    def close(self) -> None:
        self._redis.close()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ranges(self) -> Iterator[_Range]:
        """All ids there can be, cut where `IDS_PER_RANGE` objects were listed."""
        low, stored = "", dict[str, float]()
        for page in self._store.pages(f"{RESULT_FOLDER}/"):
            for listed in page:
                if (task_id := _task_id(listed)) is None:
                    continue
                if task_id <= next(reversed(stored), low):
                    raise StorageError("the store lists its objects in no order: not compared")
                stored[task_id] = listed.stored_at
            if len(stored) >= IDS_PER_RANGE:
                high = next(reversed(stored))
                yield _Range(low, high, stored)
                low, stored = high, {}
        yield _Range(low, None, stored)

    def _compare(self, one: _Range, *, repairs: bool) -> Iterator[Difference]:
        for ids in _chunks(one.stored, RECORDS_PER_LOOK):
            yield from self._without_end(ids, one.stored, repairs=repairs)
        waiting: dict[str, _Record] = {}
        for ids in self._scanned(one):
            records = self._look(ids)
            self.counts.num_records += len(records)
            answered = [each for each, record in records.items() if record.is_answered]
            for task_id in answered:
                if task_id not in one.stored and self._is_object_gone(task_id):
                    yield Difference(id=task_id, finding=Finding.OBJECT_GONE, state=State.SUCCESS)
            waiting |= {each: record for each, record in records.items() if record.may_wait}
            if len(waiting) >= IDS_PER_RANGE:
                yield from self._without_message(waiting)
                waiting = {}
        yield from self._without_message(waiting)

    def _without_end(
        self, ids: Sequence[str], stored: Mapping[str, float], *, repairs: bool
    ) -> Iterator[Difference]:
        """Of tasks that have an object: those whose record is gone, or not final."""
        self.counts.num_objects += len(ids)
        records, now = self._look(ids), self._now()
        open_ids = [each for each in ids if each not in records or records[each].may_wait]
        held = self._held() if open_ids else frozenset()
        for task_id in open_ids:
            record = records.get(task_id)
            if task_id in held:
                continue  # with a worker
            if record is not None:
                if self._is_of_record(task_id, record):
                    yield Difference(
                        id=task_id, finding=Finding.NOT_ENDED, state=state_of(record.state)
                    )
            elif stored[task_id] < now - self._ttl_seconds:
                self.counts.num_older += 1
            elif repairs:
                life_seconds = max(1, int(stored[task_id] + self._ttl_seconds - now))
                yield self._repaired(task_id, life_seconds)
            else:
                yield Difference(id=task_id, finding=Finding.RECORD_GONE, state=State.UNKNOWN)

    def _repaired(self, task_id: str, life_seconds: int) -> Difference:
        """The record made anew, for as long as it would have lived.

        That of a dead letter is not: without a record the letter can be replayed.
        """
        result = self._result(task_id)
        state = State.UNKNOWN if result is None else result.state
        is_repaired = (
            result is not None
            and not _is_dead_letter(result)
            and self._records.restore(
                task_id, _stub(result), result, ttl_seconds=life_seconds, is_held=False
            )
        )
        return Difference(
            id=task_id, finding=Finding.RECORD_GONE, state=state, is_repaired=is_repaired
        )

    def _is_of_record(self, task_id: str, record: _Record) -> bool:
        """Whether the object is what the record's task has come to, and no earlier one's."""
        result = self._result(task_id)
        if result is None or _is_dead_letter(result) or result.finished_at < record.at:
            return False
        return self._is_unchanged(task_id, record)

    def _is_object_gone(self, task_id: str) -> bool:
        if self._store.exists(result_key(task_id)):
            return False  # it came after its page was listed
        record = self._look([task_id]).get(task_id)
        return record is not None and record.is_answered

    def _without_message(self, waiting: dict[str, _Record]) -> Iterator[Difference]:
        """Those that wait since a while, with no message in a queue and nobody to hold it."""
        latest = self._now() - LOOK_SECONDS
        lost = {
            each: record
            for each, record in waiting.items()
            if max(record.at, record.since) < latest
        }
        if not lost:
            return
        for task_id in self._message_ids():
            lost.pop(task_id, None)
        for ids in _chunks(lost, RECORDS_PER_LOOK):
            # One that was taken or given back while the queues were read has changed.
            records, held = self._look(ids), self._held()
            for task_id in ids:
                if records.get(task_id) == lost[task_id] and task_id not in held:
                    state = state_of(lost[task_id].state)
                    yield Difference(id=task_id, finding=Finding.MESSAGE_GONE, state=state)

    def _is_unchanged(self, task_id: str, record: _Record) -> bool:
        return self._look([task_id]).get(task_id) == record and task_id not in self._held()

    def _result(self, task_id: str) -> Result | None:
        """The result; None where it is gone or cannot be read."""
        try:
            found = stored_result(self._store, task_id, read_newer_result)
        except (ObjectMissing, InvalidTask):
            return None
        return found if found.task_id == task_id and found.state.is_final else None

    def _look(self, ids: Sequence[str]) -> dict[str, _Record]:
        """What there is of these records, in one round trip. One without a state is only a claim.

        What is no hash, or of an unknown state, is a record as well.
        """
        with mapped_errors(), self._redis.pipeline(transaction=False) as pipe:
            for task_id in ids:
                pipe.hmget(self._names.record(task_id), _FIELDS)
            replies = pipe.execute(raise_on_error=False)
        found = {}
        for task_id, reply in zip(ids, replies, strict=True):
            if isinstance(reply, Exception) and not str(reply).startswith("WRONGTYPE"):
                with mapped_errors():
                    raise reply
            if isinstance(reply, Exception) or reply[0] is not None:
                found[task_id] = _read(reply)
        return found

    def _held(self) -> frozenset[str]:
        """The ids of tasks whose messages workers have in hand."""
        with mapped_errors():
            leases = self._redis.hvals(self._names.leases())
        parts = (str(lease).split("\n") for lease in leases)
        return frozenset(each[2] for each in parts if len(each) == 4)

    def _scanned(self, one: _Range) -> Iterator[list[str]]:
        """The ids in the range that have a record, some at a time."""
        prefix = self._names.record("")
        for page in self._keys(f"{prefix}*"):
            ids = (key.removeprefix(prefix) for key in page)
            if mine := [each for each in ids if is_task_id(each) and one.has(each)]:
                yield mine

    def _keys(self, pattern: str) -> Iterator[list[str]]:
        """All that Redis holds of these, some at a time."""
        with mapped_errors():
            # SCAN names no key: a cluster's node that has the slot no longer would find nothing.
            self._redis.exists(self._names.open())
        keys = self._redis.scan_iter(match=pattern, count=RECORDS_PER_LOOK)
        while True:
            with mapped_errors():
                page = list(islice(keys, RECORDS_PER_LOOK))
            if not page:
                return
            yield [str(key) for key in page]

    def _message_ids(self) -> Iterator[str]:
        """The task ids of all messages that wait; from the back, where new ones come in.

        Those that older workers have left to newer ones wait apart.
        """
        for keys in self._keys(self._names.newer("*:messages")):
            for key in keys:
                with mapped_errors():
                    yield from map(str, self._redis.hkeys(key))
        queues = [
            f"{self._names.queue(lane)}{priority}" for lane in LANES for priority in PRIORITIES
        ]
        for key in (*queues, self._names.suspects()):
            start = 0
            while True:
                with mapped_errors():
                    page = self._redis.lrange(key, start, start + MESSAGES_PER_LOOK - 1)
                yield from filter(None, map(_id_in, page))
                if len(page) < MESSAGES_PER_LOOK:
                    break
                start += MESSAGES_PER_LOOK

    def _now(self) -> float:
        with mapped_errors():
            seconds, micros = self._redis.time()
        return float(seconds + micros / 1e6)


def _task_id(listed: Listed) -> str | None:
    """Whose result it is; None for an object that is no result of ours."""
    name = listed.key.removeprefix(f"{RESULT_FOLDER}/").removesuffix(".json")
    return name if is_task_id(name) and listed.key == result_key(name) else None


def _read(reply: object) -> _Record:
    if not isinstance(reply, list):
        return _Record("", False, False, False, None, 0.0, 0.0)
    state, claim, due, dead, owes, at, since = reply
    return _Record(
        state=str(state),
        is_paused=due is not None,
        is_dead=dead is not None,
        owes=owes is not None,
        claim=claim,
        at=_seconds(at),
        since=_seconds(since),
    )


def _seconds(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


def _is_dead_letter(result: Result) -> bool:
    return result.failure is not None and result.failure.code == FailureCode.WORKER_LOST


def _stub(result: Result) -> str:
    """What a record made anew says of its task: what is known of it. Nobody runs it from there."""
    known: dict[str, Any] = {"id": result.task_id, "kind": result.kind, "tenant": result.tenant}
    return json.dumps({**known, "labels": result.labels, "lane": None, "images": []})


def _id_in(message: object) -> str | None:
    """The task id of a Celery message; a suspect's has the name of its queue before it."""
    text = str(message)
    try:
        headers = json.loads(text[text.index("{") :])["headers"]
        task_id = headers["id"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return task_id if is_task_id(task_id) else None


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
