"""The record of each task in Redis: one hash, every transition one Lua script (`record_scripts`).

The only door to Redis besides Celery's own (`broker.py`) and the subscriptions (`watch.py`).
A record's fields, short because a record waits in memory with its message:

    state      one of `State`            at, t0, t1  submitted, started, finished (server clock)
    task       the Task, compact JSON    seq         number within its lane, for the position
    attempt    starts so far             fence       rises with every start and replay; writes need
                                                     the latest
    since      when it got its place in the queue, if that was later than `at`
    owner      who runs it               cancel      "1" once somebody asked for it
    tokens     generated so far          max         the most that may be generated
    code, message, retryable             of a failure
    sent       "1" once the message of a task with an idempotency key is known to be out
    store      seconds the result took to be stored
    claim      the claim of its message that was made last (the worker's `leases`)
    strikes    workers that were lost with it            dead  why it was put aside
    retries    times it was postponed    due             not to be started before that time
    owes       "1" while a state that is final lacks its result object
    result     the result, from when it was decided until its object is known to be stored
    counted    its tenant, while it counts among those that wait in its lane
    pin:<n>    the key in the store of image n, from 0, that was fetched from a URL

A state that is final never changes, but for the replay of a dead letter (`dead`). Of two attempts
that believe they own a task, the one whose result is decided here first is right, and whoever takes
the task over stores the same bytes. Every key has a TTL. Tasks that have not ended, or owe an
object, stand in the set `open` by the time when a worker's reconciler should look at them; those
whose message should be in a queue stand in the lane's `line`, too, by since when.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from visionq import record_scripts
from visionq.contract import MAX_TASK_BYTES, Failure, Lane, State, Status, Task, dump
from visionq.errors import BrokerUnavailable, InvalidTask, QueueFull, SettingsError
from visionq.names import Names, result_key
from visionq.per_process import PerProcess

if TYPE_CHECKING:
    from redis.commands.core import Script

LANES = tuple(Lane)
NOTHING_STARTED = "0"
FULL = "FULL"
LOOK_SECONDS = 10
"""How long a message may take to follow its record, and how soon a task that may be lost is looked
at."""
MIN_RETRY_AFTER_SECONDS = 1.0
MAX_RETRY_AFTER_SECONDS = 60.0
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One start of a task. `fence` must accompany every later write; the clock is Redis's.

    `decided`: the result, as JSON, of an earlier attempt that has perhaps not stored it.
    """

    state: State
    number: int
    fence: int
    now: float
    submitted_at: float
    decided: str | None = None


Verdict = Literal["publish", "expire", "bury", "write"]


@dataclass(frozen=True, slots=True)
class Due:
    """A task that needs something from outside: what, and the task as its record has it.

    "publish": its message is lost, or its pause is over. "expire": nobody has started it before its
    deadline. "bury": it was put aside. "write": it has ended without a result object.
    """

    task_id: str
    verdict: Verdict
    task: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DueTasks:
    """What one look has found, and whether the next one may find more at once."""

    tasks: list[Due]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Found:
    """A record that was already there when a task was to be created."""

    state: State
    was_sent: bool

    @property
    def needs_message(self) -> bool:
        """Whether the submit that made it may have failed before its message was out."""
        return self.state is State.PENDING and not self.was_sent


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """How many tasks may wait in a lane, and how many of one tenant (None: as many as it likes)."""

    max_waiting: int = 100_000
    max_waiting_per_tenant: int | None = None


DEFAULT_LIMITS = QueueLimits()


class Records:
    """Synchronous access to the records. Thread-safe: redis-py pools its connections.

    Every method raises `BrokerUnavailable` when Redis cannot be reached or refuses.
    """

    def __init__(
        self,
        client: redis.Redis,
        names: Names,
        *,
        ttl_seconds: int,
        limits: QueueLimits = DEFAULT_LIMITS,
    ) -> None:
        self._redis = client
        self._limits = limits
        self._names = names
        self._ttl = str(ttl_seconds)
        self._create = client.register_script(record_scripts.CREATE)
        self._start = client.register_script(record_scripts.START)
        self._progress = client.register_script(record_scripts.PROGRESS)
        self._decide = client.register_script(record_scripts.DECIDE)
        self._decide_owed = client.register_script(record_scripts.DECIDE_OWED)
        self._move = client.register_script(record_scripts.MOVE)
        self._pin = client.register_script(record_scripts.PIN)
        self._postpone = client.register_script(record_scripts.POSTPONE)
        self._paid = client.register_script(record_scripts.PAID)
        self._due = client.register_script(record_scripts.DUE)
        self._cancel = client.register_script(record_scripts.CANCEL)
        self._withdraw = client.register_script(record_scripts.WITHDRAW)
        self._status = client.register_script(record_scripts.STATUS)

    def create(self, task: Task, *, delay_seconds: float = 0.0) -> Found | None:
        """Write the record of a new task. Returns the one already there, or None.

        With a delay its message is not to be sent: the reconciler does it when the time has come.
        Raises `InvalidTask` when the task is too large to travel in a message, and `QueueFull`.
        """
        reply = self._run(self._create, self._keys(task), self._new(task, delay_seconds))
        if full := _full(reply, self._limits):
            raise full
        return _found(reply)

    def create_many(
        self, tasks: Sequence[Task], delays_seconds: Sequence[float]
    ) -> list[Found | None]:
        """`create` for many tasks, pipelined: all of them, or none when a `QueueFull` is raised."""
        with mapped_errors(), self._redis.pipeline(transaction=False) as pipe:
            for task, delay in zip(tasks, delays_seconds, strict=True):
                self._create(self._keys(task), self._new(task, delay), client=pipe)
            replies = pipe.execute()
        refusals = [_full(reply, self._limits) for reply in replies]
        refusal = next((refusal for refusal in refusals if refusal), None)
        if refusal is not None:
            new = [task for task, reply in zip(tasks, replies, strict=True) if reply is None]
            self._take_back(new)
            raise refusal
        return [_found(reply) for reply in replies]

    def _take_back(self, tasks: Sequence[Task]) -> None:
        with mapped_errors(), self._redis.pipeline(transaction=False) as pipe:
            for task in tasks:
                self._withdraw(self._keys(task), [task.id], client=pipe)
            pipe.execute()

    def mark_sent(self, task_ids: Iterable[str]) -> None:
        """Note that the messages are out, so that submitting again sends no second one."""
        with mapped_errors(), self._redis.pipeline(transaction=False) as pipe:
            for task_id in task_ids:
                pipe.eval(record_scripts.MARK_SENT, 1, self._names.record(task_id))
            pipe.execute()

    def start(self, task: Task, *, owner: str, max_new_tokens: int) -> Attempt:
        """Begin an attempt, unless the task is already final (then the fence is 0)."""
        look = str(LOOK_SECONDS)
        args = [self._ttl, encode_task(task), owner, str(max_new_tokens), task.id, look]
        reply: str = self._run(self._start, self._keys(task), args)
        state, number, fence, now, submitted, *decided = reply.split(" ", 5)
        return Attempt(
            state=State(state),
            number=int(number),
            fence=int(fence),
            now=float(now),
            submitted_at=float(submitted),
            decided=decided[0] if decided else None,
        )

    def progress(
        self, task_id: str, *, fence: int, generated_tokens: int
    ) -> Literal["run", "cancel", "lost"]:
        """Report tokens. Returns "run", "cancel" (asked for) or "lost" (owned by another)."""
        channel = self._names.events(task_id)
        keys = [self._names.record(task_id)]
        args = [str(fence), str(generated_tokens), channel, self._ttl]
        answer: Literal["run", "cancel", "lost"] = self._run(self._progress, keys, args)
        return answer

    def decide(self, task_id: str, result: str, *, fence: int) -> bool:
        """Settle what is to be stored; False when the fence is stale or the state final.

        Only then may the object be written, by this attempt or by any that takes over.
        """
        keys = [self._names.record(task_id)]
        return bool(self._run(self._decide, keys, [str(fence), self._ttl, result]))

    def decide_owed(self, task_id: str, result: str) -> str | None:
        """The same for a task that has ended and owes its object. Returns what is to be stored."""
        found = self._run(self._decide_owed, [self._names.record(task_id)], [result])
        return None if found is None else str(found)

    def move(
        self, task_id: str, state: State, *, fence: int, work_key: str | None = None, **more: str
    ) -> bool:
        """Change the state and fields; False when the fence is stale or the state final.

        With a `work_key`, this task's result answers whoever asks the same, for as long as its
        record is kept (`recall`).
        """
        keys = self._own_keys(task_id)
        if work_key is not None:
            keys.append(self._names.known(work_key))
        args = [str(fence), str(state), self._ttl, self._names.events(task_id), task_id]
        for name, value in more.items():
            args += [name, value]
        return bool(self._run(self._move, keys, args))

    def postpone(
        self,
        task_id: str,
        reason: Failure,
        *,
        fence: int,
        first_seconds: float,
        longest_seconds: float,
    ) -> bool:
        """End this attempt; the task is started anew after a pause, which doubles each time.

        False when the fence is stale or the state final.
        """
        args = [str(fence), self._ttl, self._names.events(task_id), task_id]
        args += [reason.code, reason.message]
        args += [str(first_seconds), str(longest_seconds)]
        return bool(self._run(self._postpone, self._own_keys(task_id), args))

    def due(self, limit: int) -> DueTasks:
        """Look at `limit` tasks, and say which of them need something: the caller has to do it."""
        keys = [self._names.open(), self._names.unacked_index(), self._names.suspects()]
        for lane in LANES:
            keys += [self._names.lane(lane), self._names.queue(lane)]
        args = [self._names.record(""), str(limit), str(LOOK_SECONDS), self._ttl, *LANES]
        found, has_more = self._run(self._due, keys, args)
        return DueTasks(
            [
                Due(task_id, verdict, json.loads(task))
                for task_id, verdict, task in json.loads(found)
            ],
            has_more=bool(has_more),
        )

    def recall(self, work_key: str) -> str | None:
        """The id of a task that has been answered for this work."""
        with mapped_errors():
            found = self._redis.get(self._names.known(work_key))
        return None if found is None else str(found)

    def pinned(self, task_id: str, number: int) -> str | None:
        """Where the bytes lie that were fetched for an image behind a URL, from 0."""
        with mapped_errors():
            found = self._redis.hget(self._names.record(task_id), _pin(number))
        return None if found is None else str(found)

    def pin(self, task_id: str, number: int, key: str) -> str:
        """Note that. Returns the key that counts, if another attempt was first."""
        return str(self._run(self._pin, [self._names.record(task_id)], [_pin(number), key]))

    def is_dead(self, task_id: str) -> bool:
        """Whether the task was put aside, and not replayed since."""
        with mapped_errors():
            return bool(self._redis.hexists(self._names.record(task_id), "dead"))

    def paid(self, task_id: str) -> None:
        """The result object that the task owed is stored."""
        self._run(self._paid, self._own_keys(task_id), [task_id])

    def cancel(self, task_id: str) -> State:
        """Revoke a waiting task at once, ask for it when it runs. Returns the state after that."""
        keys = [*self._own_keys(task_id), *(self._names.lane(lane) for lane in LANES)]
        args = [self._names.events(task_id), task_id, self._ttl, *LANES]
        return State(self._run(self._cancel, keys, args))

    def status(self, task_id: str) -> Status:
        keys = [self._names.record(task_id), *(self._names.lane(lane) for lane in LANES)]
        record, started = json.loads(self._run(self._status, keys))
        return _parse(task_id, record, dict(zip(LANES, map(int, started), strict=True)))

    def status_many(self, task_ids: Sequence[str]) -> list[Status]:
        """The status of each id, in one round trip."""
        with mapped_errors(), self._redis.pipeline(transaction=False) as pipe:
            queue_status(pipe, self._names, task_ids)
            return list(parse_statuses(task_ids, pipe.execute()))

    def task_ids(self, limit: int) -> Iterator[str]:
        """Up to `limit` ids that have a record, in no order. SCAN: costs what Redis holds."""
        prefix = self._names.record("")
        with mapped_errors():
            for index, key in enumerate(self._redis.scan_iter(match=f"{prefix}*", count=500)):
                if index >= limit:
                    return
                yield str(key).removeprefix(prefix)

    def ping(self) -> None:
        with mapped_errors():
            self._redis.ping()

    def close(self) -> None:
        self._redis.close()

    def _keys(self, task: Task) -> list[str]:
        return [self._names.record(task.id), self._names.lane(task.lane), self._names.open()]

    def _own_keys(self, task_id: str) -> list[str]:
        return [self._names.record(task_id), self._names.open()]

    def _new(self, task: Task, delay_seconds: float) -> list[str]:
        limits = self._limits
        most = [str(limits.max_waiting), str(limits.max_waiting_per_tenant or 0)]
        look, delay = str(LOOK_SECONDS), f"{delay_seconds:.6f}"
        deadline = "" if task.deadline is None else f"{task.deadline:.6f}"
        return [self._ttl, _encode_new(task), task.id, look, task.tenant, *most, delay, deadline]

    def _run(self, script: Script, keys: Sequence[str], args: Sequence[str] = ()) -> Any:
        with mapped_errors():
            try:
                # What `script(keys, args)` does, less a fifth of its time.
                return self._redis.evalsha(script.sha, len(keys), *keys, *args)
            except NoScriptError:
                return script(keys, args)


class _RetryOnce(Retry):
    """Where one connection has gone silent, the idle ones beside it have too: they are dropped.

    Else each of them would cost its next user a time-out.
    """

    pool: Callable[[], redis.ConnectionPool | None] = staticmethod(lambda: None)
    """A weak reference: a pool with nobody else to hold it closes its connections."""

    def __deepcopy__(self, _memo: object) -> Self:
        return self  # each connection would have a copy, without state to keep apart

    def call_with_retry(self, *args: Any, **more: Any) -> Any:
        try:
            return super().call_with_retry(*args, **more)
        except redis.TimeoutError:
            if (pool := self.pool()) is not None:
                pool.disconnect(inuse_connections=False)
            raise


class _Client(redis.Redis):
    """redis-py's, with a pool for each process: its own look for a fork takes the inherited lock,
    which another thread may have held."""

    def __init__(self, pools: PerProcess[redis.ConnectionPool]) -> None:
        self._pools = pools
        super().__init__(connection_pool=pools.get())

    @property
    def connection_pool(self) -> redis.ConnectionPool:
        return self._pools.get()

    @connection_pool.setter
    def connection_pool(self, _: redis.ConnectionPool) -> None:
        pass  # redis-py's constructor sets what it was given

    def close(self) -> None:
        """Other threads may finish what they are doing. A call after this connects again."""
        self._pools.close()


def connect(url: str, *, timeout_seconds: float) -> redis.Redis:
    """A client that answers or fails within `timeout_seconds` per try. Usable in a forked child.

    A connection that died while pooled is replaced once; every script here may safely run twice.
    Raises `SettingsError` for a URL that is none.
    """
    try:
        return _Client(PerProcess(partial(_new_pool, url, timeout_seconds), _close_idle))
    except ValueError:
        # Without its cause: in a traceback, that could show part of the password.
        raise SettingsError("url is not redis://user:password@host:port/db") from None


def _new_pool(url: str, timeout_seconds: float) -> redis.ConnectionPool:
    # Sockets and redis-py import something at the first connection. With a fork in the middle of
    # that, the child would wait for the import for ever: so it is done here, where nobody forks.
    "localhost".encode("idna")
    redis.Connection()  # type: ignore[no-untyped-call]
    retry = _RetryOnce(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
    pool = redis.ConnectionPool.from_url(
        url,
        decode_responses=True,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        socket_keepalive=True,
        retry=retry,
    )
    retry.pool = weakref.ref(pool)
    return pool


def _close_idle(pool: redis.ConnectionPool) -> None:
    pool.disconnect(inuse_connections=False)


def encode_task(task: Task) -> str:
    return _ENCODER.encode(dump(task))


def _encode_new(task: Task) -> str:
    text = encode_task(task)
    size = len(text.encode())
    if size > MAX_TASK_BYTES:
        raise InvalidTask(f"the task takes {size} bytes as JSON, the limit is {MAX_TASK_BYTES}")
    return text


def queue_status(pipe: Any, names: Names, task_ids: Iterable[str]) -> None:
    """Queue the commands whose replies `parse_statuses` reads, on a sync or asyncio pipeline."""
    for lane in LANES:
        pipe.hget(names.lane(lane), "started")
    for task_id in task_ids:
        pipe.hgetall(names.record(task_id))


def parse_statuses(task_ids: Sequence[str], replies: Sequence[Any]) -> Iterator[Status]:
    started = {
        lane: int(reply or NOTHING_STARTED) for lane, reply in zip(LANES, replies, strict=False)
    }
    for task_id, record in zip(task_ids, replies[len(LANES) :], strict=True):
        yield _parse(task_id, record, started)


@contextmanager
def mapped_errors() -> Iterator[None]:
    """Redis's errors as ours; nothing of redis-py leaves this door."""
    try:
        yield
    except (redis.RedisError, OSError) as exc:
        raise BrokerUnavailable(f"Redis: {type(exc).__name__}: {exc}") from exc


def _parse(task_id: str, record: Mapping[str, str], started: Mapping[Lane, int]) -> Status:
    # Of a foreign sender's task a worker may have claimed the message and not yet begun.
    if "state" not in record:
        return Status(id=task_id, state=State.UNKNOWN)
    state = State(record["state"])
    task = json.loads(record["task"])
    lane = Lane(task.get("lane", Lane.INTERACTIVE))
    is_waiting = state in (State.PENDING, State.RETRY) and "due" not in record
    return Status(
        id=task_id,
        state=state,
        kind=task["kind"],
        lane=lane,
        attempt=int(record.get("attempt", 0)),
        position=max(0, int(record.get("seq", 0)) - started[lane] - 1) if is_waiting else None,
        generated_tokens=int(record.get("tokens", 0)),
        max_new_tokens=int(record["max"]) if "max" in record else None,
        is_cancel_requested="cancel" in record,
        submitted_at=_seconds(record, "at"),
        started_at=_seconds(record, "t0"),
        finished_at=_seconds(record, "t1"),
        store_seconds=_seconds(record, "store"),
        failure=_failure(record),
        result_key=result_key(task_id),
    )


def _full(reply: Any, limits: QueueLimits) -> QueueFull | None:
    """The refusal that a reply of `CREATE` means, if any."""
    if reply is None or reply[0] != FULL:
        return None
    _, what, num_waiting, rate = reply
    most = limits.max_waiting if what == "lane" else limits.max_waiting_per_tenant
    # A twentieth of the queue: long enough to matter, short enough not to leave workers idle.
    seconds = (most or 0) / 20 / float(rate) if float(rate) > 0 else MAX_RETRY_AFTER_SECONDS
    return QueueFull(
        f"{num_waiting} tasks of the {what} wait already; at most {most} may",
        retry_after_seconds=min(max(seconds, MIN_RETRY_AFTER_SECONDS), MAX_RETRY_AFTER_SECONDS),
    )


def _pin(number: int) -> str:
    return f"pin:{number}"


def _found(reply: Any) -> Found | None:
    return None if reply is None else Found(State(reply[0]), reply[1] == "1")


def _seconds(record: Mapping[str, str], name: str) -> float | None:
    return float(record[name]) if name in record else None


def _failure(record: Mapping[str, str]) -> Failure | None:
    if "code" not in record:
        return None
    return Failure(
        code=record["code"],
        message=record.get("message", ""),
        retryable=record.get("retryable") == "1",
    )
