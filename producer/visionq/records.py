"""The record of each task in Redis: one hash, every transition one Lua script (`record_scripts`).

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
    print      of a key's first task: the fingerprint of what the key is for
    retry_of   the task before it with its key    next   the one after it; of the first: the newest
    store      seconds the result took to be stored
    claim      the claim of its message that was made last (the worker's `leases`)
    strikes    workers that were lost with it            dead  why it was put aside
    retries    times it was postponed    due             not to be started before that time
    owes       "1" while a state that is final lacks its result object
    result     the result, from when it was decided until its object is known to be stored
    counted    its tenant, while it counts among those that wait in its lane
    pin:<n>    the key in the store of image n, from 0, that was fetched from a URL
    celery     what a foreign message says besides its task, as JSON, if it has to be sent again

A state that is final never changes, but for the replay of a dead letter (`dead`). Of two attempts
that believe they own a task, the one whose result is decided here first is right, and whoever takes
the task over stores the same bytes. Every key has a TTL. Tasks that have not ended, or owe an
object, stand in the set `open` by the time when a worker's reconciler should look at them; those
whose message should be in a queue stand in the lane's `line`, too, by since when.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import redis
from redis.exceptions import NoScriptError

from visionq import record_scripts
from visionq.connections import mapped_errors
from visionq.contract import (
    CONTRACT_VERSION,
    DEFAULT_TENANT,
    Failure,
    FailureCode,
    Lane,
    Result,
    State,
    Status,
    Task,
    encode_new,
    encode_task,
)
from visionq.errors import (
    BrokerUnavailable,
    IdempotencyConflict,
    NotReplicated,
    QueueFull,
    SettingsError,
    UnsupportedVersion,
    VisionqError,
)
from visionq.names import Names, result_key
from visionq.replication import NO_REPLICAS, Replicas
from visionq.scripts import evaluate, queue_calls

if TYPE_CHECKING:
    from redis.commands.core import Script

LANES = tuple(Lane)
NOTHING_STARTED = "0"
FOUND, CONFLICT, CLOCK = "FOUND", "CONFLICT", "CLOCK"
"""What a reply of `CREATE` begins with, where it did not create; the fourth is FULL."""
LOOK_SECONDS = 10
"""How long a message may take to follow its record, and how soon a task that may be lost is looked
at."""
CANCELLED_SECONDS = 3600
"""For how long a cancel of an unknown id is remembered."""
MAX_CANCELLED = 10_000
"""How many of those are, the newest."""
MIN_RETRY_AFTER_SECONDS = 1.0
MAX_RETRY_AFTER_SECONDS = 60.0


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


Verdict = Literal["publish", "expire", "bury", "write", "unsupported"]


@dataclass(frozen=True, slots=True)
class Due:
    """A task that needs something from outside: what, and the task as its record has it.

    "publish": its message is lost, or its pause is over. "expire": nobody has started it before its
    deadline. "bury": it was put aside. "write": it has ended without a result object.
    "unsupported": it is of a newer version, and no worker that reads it has reported for a while.
    `celery`: what its message has to say besides, where a foreign sender's had; None where a task
    that is to end has its message still in the queue.
    """

    task_id: str
    verdict: Verdict
    task: dict[str, Any]
    celery: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class DueTasks:
    """What one look has found, and whether the next one may find more at once."""

    tasks: list[Due]
    has_more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An idempotency key: the id of its first task, and the fingerprint of what it is for."""

    first_id: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Found:
    """The record that was already there when a task was to be created: the newest of its key.

    `state`: UNKNOWN where the record is gone, None for one that is unknown here: such a task may go
    on, so it is no reason for another try. `task`: as its record has it, JSON, where its message
    may not be out.
    """

    state: State | None
    was_sent: bool
    task_id: str
    task: str | None = None

    @property
    def needs_message(self) -> bool:
        """Whether the submit that made it may have failed before its message was out."""
        return self.state is State.PENDING and not self.was_sent

    @property
    def is_over(self) -> bool:
        """Whether it has ended, and not with an answer: a key may be used for another try."""
        return self.state in (State.FAILURE, State.REVOKED, State.EXPIRED, State.UNKNOWN)


class ClockWasSet(BrokerUnavailable):
    """Redis's clock was set while the task was submitted: submit it again."""


@dataclass(frozen=True, slots=True)
class New:
    """A task that is to have a record. `expiry_seconds`: from now until its deadline."""

    task: Task
    delay_seconds: float = 0.0
    key: Key | None = None
    expiry_seconds: float | None = None

    def as_retry(self) -> New:
        """The same with an id of its own."""
        return replace(self, task=replace(self.task, id=str(uuid.uuid4())))


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """How many tasks may wait in a lane, and how many of one tenant (None: as many as it likes)."""

    max_waiting: int = 100_000
    max_waiting_per_tenant: int | None = None

    def __post_init__(self) -> None:
        """Raise `SettingsError` for a limit that is no number above 0."""
        own = self.max_waiting_per_tenant
        for limit in (self.max_waiting, 1 if own is None else own):
            if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
                raise SettingsError("max_waiting and max_waiting_per_tenant are numbers above 0")


DEFAULT_LIMITS = QueueLimits()

UNREADABLE = Failure(
    code=FailureCode.UNSUPPORTED_VERSION,
    message="the record of the task is damaged, or of a newer version of visionq than this one",
)
"""Stands in the status of a task whose state is unknown for that reason."""


class Records:
    """Synchronous access to the records. Thread-safe: redis-py pools its connections.

    Every method raises `BrokerUnavailable` when Redis cannot be reached or refuses. Those that a
    caller relies on afterwards (`create`, `create_many`, `cancel`, a final `move`) raise
    `NotReplicated` where too few replicas have confirmed it in time: at the primary it is done, and
    the same call again asks again.
    """

    def __init__(
        self,
        client: redis.Redis,
        names: Names,
        *,
        ttl_seconds: int,
        limits: QueueLimits = DEFAULT_LIMITS,
        replicas: Replicas = NO_REPLICAS,
    ) -> None:
        self._redis = client
        self._replicas = replicas
        self._limits = limits
        self._names = names
        self._ttl = str(ttl_seconds)
        self._create = client.register_script(record_scripts.CREATE)
        self._start = client.register_script(record_scripts.START)
        self._restore = client.register_script(record_scripts.RESTORE)
        self._progress = client.register_script(record_scripts.PROGRESS)
        self._decide = client.register_script(record_scripts.DECIDE)
        self._decide_owed = client.register_script(record_scripts.DECIDE_OWED)
        self._move = client.register_script(record_scripts.MOVE)
        self._pin = client.register_script(record_scripts.PIN)
        self._keep_options = client.register_script(record_scripts.KEEP_OPTIONS)
        self._postpone = client.register_script(record_scripts.POSTPONE)
        self._paid = client.register_script(record_scripts.PAID)
        self._due = client.register_script(record_scripts.DUE)
        self._cancel = client.register_script(record_scripts.CANCEL)
        self._withdraw = client.register_script(record_scripts.WITHDRAW)
        self._status = client.register_script(record_scripts.STATUS)

    def create(
        self,
        task: Task,
        *,
        delay_seconds: float = 0.0,
        key: Key | None = None,
        expiry_seconds: float | None = None,
    ) -> Found | None:
        """Write the record of a new task. Returns the one already there, or None.

        With a delay its message is not to be sent: the reconciler does it when the time has come.
        Of a key whose newest task `is_over`, that one is returned as long as the new task has the
        id of the key's first one; with an id of its own it becomes the newest.
        Raises `InvalidTask` when the task is too large to travel in a message, `QueueFull`,
        `IdempotencyConflict`, and `ClockWasSet` when its deadline is not that many seconds ahead.
        """
        new = New(task, delay_seconds, key, expiry_seconds)
        reply, confirmed = self._run_confirmed(self._create, self._keys(task, key), self._args(new))
        if refusal := _refusal(reply, self._limits):
            raise refusal
        found = _found(reply)
        if found is None or not found.is_over:
            self._replicas.require(confirmed)
        return found

    def create_many(self, all_new: Sequence[New]) -> list[tuple[Task, Found | None]]:
        """`create` for many tasks, pipelined: all of them, or none when a refusal is raised.

        Returns each task with what was found; one that is a retry has an id of its own then.
        """
        given = list(all_new)
        replies, confirmed = self._create_all(all_new)
        refusal = self._first_refusal(replies)
        retries = [n for n, reply in enumerate(replies) if (one := _found(reply)) and one.is_over]
        if retries and refusal is None:
            for number in retries:
                given[number] = given[number].as_retry()
            again, confirmed = self._create_all([given[number] for number in retries])
            for number, reply in zip(retries, again, strict=True):
                replies[number] = reply
            refusal = self._first_refusal(again)
        made = [new for new, reply in zip(given, replies, strict=True) if reply is None]
        if refusal is not None:
            self.take_back(made)
            raise refusal
        try:
            self._replicas.require(confirmed)
        except NotReplicated:
            # Of a key's task, somebody else may have been told meanwhile that it is accepted.
            self.take_back([new for new in made if new.key is None])
            raise
        return [(new.task, _found(reply)) for new, reply in zip(given, replies, strict=True)]

    def _create_all(self, all_new: Sequence[New]) -> tuple[list[Any], int]:
        """The replies, and how many replicas have confirmed all of it."""
        with mapped_errors(), self._redis.pipeline(transaction=False) as pipe:
            calls = [(self._keys(new.task, new.key), self._args(new)) for new in all_new]
            queue_calls(pipe, self._create, calls)
            if not self._replicas.num:
                return pipe.execute(), 0
            self._replicas.queue_wait(pipe, self._names.replicated())
            *replies, _, confirmed = pipe.execute()
            return replies, confirmed

    def _first_refusal(self, replies: Iterable[Any]) -> VisionqError | None:
        refusals = (_refusal(reply, self._limits) for reply in replies)
        return next((refusal for refusal in refusals if refusal), None)

    def take_back(self, made: Sequence[New]) -> None:
        """Remove the records of tasks that were not accepted after all, and still wait.

        The latest first: of a key's tasks, each then finds the one before it as it was.
        """
        with mapped_errors(), self._redis.pipeline(transaction=False) as pipe:
            calls = []
            for new in reversed(made):
                first_id = [new.key.first_id] if new.key else []
                calls.append((self._keys(new.task, new.key), [new.task.id, *first_id]))
            queue_calls(pipe, self._withdraw, calls)
            pipe.execute()

    def mark_sent(self, task_ids: Iterable[str]) -> None:
        """Note that the messages are out, so that submitting again sends no second one."""
        with mapped_errors(), self._redis.pipeline(transaction=False) as pipe:
            for task_id in task_ids:
                pipe.eval(record_scripts.MARK_SENT, 1, self._names.record(task_id))
            pipe.execute()

    def start(self, task: Task, *, owner: str, max_new_tokens: int) -> Attempt:
        """Begin an attempt, unless the task is already final (then the fence is 0).

        A task without a record gets one. Raises `UnsupportedVersion` for a record in a state that
        only a newer worker knows.
        """
        reply = self._begin(task, owner, max_new_tokens, makes_record=True)
        assert reply is not None
        return reply

    def start_known(self, task: Task, *, owner: str, max_new_tokens: int) -> Attempt | None:
        """The same of a task that has a record; None without one, and nothing is changed."""
        return self._begin(task, owner, max_new_tokens, makes_record=False)

    def _begin(
        self, task: Task, owner: str, max_new_tokens: int, *, makes_record: bool
    ) -> Attempt | None:
        look = str(LOOK_SECONDS)
        args = [self._ttl, encode_task(task), owner, str(max_new_tokens), task.id, look]
        args += [str(CANCELLED_SECONDS), self._names.events(task.id), "1" if makes_record else "0"]
        args.append(str(CONTRACT_VERSION))
        keys = [*self._keys(task), self._names.cancelled(), self._names.workers()]
        reply: str | None = self._run(self._start, keys, args)
        if reply is None:
            return None
        state, number, fence, now, submitted, *decided = reply.split(" ", 5)
        if state == State.UNKNOWN:
            text = f"task {task.id} has a record of a newer version of visionq"
            raise UnsupportedVersion(text, CONTRACT_VERSION + 1)
        return Attempt(
            state=State(state),
            number=int(number),
            fence=int(fence),
            now=float(now),
            submitted_at=float(submitted),
            decided=decided[0] if decided else None,
        )

    def restore(
        self,
        task_id: str,
        task: str,
        result: Result,
        *,
        ttl_seconds: int | None = None,
        is_held: bool,
    ) -> bool:
        """Make the record of a task that has ended, by its result. False where there is one.

        `task`: what the record is to say of it, JSON. `is_held`: by a worker that has the task's
        message in hand, which is the caller. Without it, a task whose message anybody has claimed
        is left to him.
        """
        channel, held = self._names.events(task_id), "1" if is_held else "0"
        args = [self._ttl if ttl_seconds is None else str(ttl_seconds), channel, task_id, held]
        args += [str(result.state), "task", task, "t1", f"{result.finished_at:.6f}"]
        args += ["attempt", str(result.provenance.attempt or 1)]
        if result.usage is not None:
            args += ["tokens", str(result.usage.completion_tokens)]
        if (failure := result.failure) is not None:
            args += ["code", failure.code, "message", failure.message]
            args += ["retryable", "1" if failure.retryable else "0"]
        return bool(self._run(self._restore, self._own_keys(task_id), args))

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
        if not state.is_final:
            return bool(self._run(self._move, keys, args))
        reply, confirmed = self._run_confirmed(self._move, keys, args)
        self._replicas.require(confirmed)
        return bool(reply)

    def confirm(self) -> None:
        """Return when enough replicas have everything that was written so far."""
        if not self._replicas.num:
            return
        with mapped_errors(), self._redis.pipeline(transaction=False) as pipe:
            self._replicas.queue_wait(pipe, self._names.replicated())
            _, confirmed = pipe.execute()
        self._replicas.require(confirmed)

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
        keys += [self._names.workers(), self._names.clock()]
        args = [self._names.record(""), str(limit), str(LOOK_SECONDS), self._ttl, *LANES]
        args += [self._names.newer(""), str(CONTRACT_VERSION)]
        found, has_more = self._run(self._due, keys, args)
        return DueTasks(
            [
                Due(task_id, verdict, _decoded(task), _decoded(celery) if celery else None)
                for task_id, verdict, task, celery in json.loads(found)
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

    def keep_options(self, task_id: str, options: str) -> None:
        """Note what a foreign message says besides its task: JSON, for when it is sent again."""
        keys = [self._names.record(task_id)]
        self._run(self._keep_options, keys, [options, self._ttl])

    def is_dead(self, task_id: str) -> bool:
        """Whether the task was put aside, and not replayed since."""
        with mapped_errors():
            return bool(self._redis.hexists(self._names.record(task_id), "dead"))

    def is_first_of_key(self, task_id: str) -> bool:
        """Whether its id follows from an idempotency key, and a client has made the record."""
        with mapped_errors():
            return bool(self._redis.hexists(self._names.record(task_id), "print"))

    def paid(self, task_id: str) -> None:
        """The result object that the task owed is stored."""
        self._run(self._paid, self._own_keys(task_id), [task_id])

    def cancel(self, task_id: str) -> State:
        """Revoke a waiting task at once, ask for it when it runs. Returns the state after that.

        UNKNOWN is remembered for `CANCELLED_SECONDS`: a worker that takes a message with this id
        revokes the task instead of starting it.
        """
        return self._ask_to_end(task_id, "")

    def cancel_remembered(self, task_id: str) -> State:
        """The same for a record made of a foreign message, if its id was cancelled before that.

        Only for one that is not started at once: `start` looks by itself.
        """
        return self._ask_to_end(task_id, "remembered")

    def _ask_to_end(self, task_id: str, which: str) -> State:
        lanes = [self._names.lane(lane) for lane in LANES]
        keys = [*self._own_keys(task_id), self._names.cancelled(), *lanes]
        args = [self._names.events(task_id), task_id, self._ttl]
        args += [str(CANCELLED_SECONDS), str(MAX_CANCELLED), which, *LANES]
        reply, confirmed = self._run_confirmed(self._cancel, keys, args)
        self._replicas.require(confirmed, "; cancel the task again")
        return state_of(reply)

    def status(self, task_id: str) -> Status:
        keys = [self._names.record(task_id), self._names.workers()]
        keys += [self._names.lane(lane) for lane in LANES]
        record, started, has_workers = json.loads(self._run(self._status, keys))
        counts = dict(zip(LANES, map(int, started), strict=True))
        return _parse(task_id, record, counts, has_workers=bool(has_workers))

    def status_many(self, task_ids: Sequence[str]) -> list[Status]:
        """The status of each id, in one round trip."""
        with mapped_errors(), self._redis.pipeline(transaction=False) as pipe:
            queue_status(pipe, self._names, task_ids)
            return list(parse_statuses(task_ids, pipe.execute(raise_on_error=False)))

    def task_ids(self, limit: int) -> Iterator[str]:
        """Up to `limit` ids that have a record, in no order. SCAN: costs what Redis holds."""
        prefix = self._names.record("")
        with mapped_errors():
            if self._names.hash_tag:
                # SCAN names no key: a node that has the slot no longer would find nothing.
                self._redis.exists(self._names.open())
            for index, key in enumerate(self._redis.scan_iter(match=f"{prefix}*", count=500)):
                if index >= limit:
                    return
                yield str(key).removeprefix(prefix)

    def ping(self) -> None:
        with mapped_errors():
            self._redis.ping()

    def close(self) -> None:
        self._redis.close()

    def _keys(self, task: Task, key: Key | None = None) -> list[str]:
        of_task = [self._names.record(task.id), self._names.lane(task.lane), self._names.open()]
        return of_task if key is None else [*of_task, self._names.record(key.first_id)]

    def _own_keys(self, task_id: str) -> list[str]:
        return [self._names.record(task_id), self._names.open()]

    def _args(self, new: New) -> list[str]:
        task, limits = new.task, self._limits
        most = [str(limits.max_waiting), str(limits.max_waiting_per_tenant or 0)]
        delay = f"{new.delay_seconds:.6f}"
        deadline = "" if task.deadline is None else f"{task.deadline:.6f}"
        expiry = "" if new.expiry_seconds is None else f"{new.expiry_seconds:.6f}"
        key = [new.key.first_id, new.key.fingerprint] if new.key else []
        text = encode_new(task)
        return [self._ttl, text, task.id, task.tenant, *most, delay, deadline, expiry, *key]

    def _run(self, script: Script, keys: Sequence[str], args: Sequence[str] = ()) -> Any:
        with mapped_errors():
            return evaluate(self._redis, script, keys, args)

    def _run_confirmed(
        self, script: Script, keys: Sequence[str], args: Sequence[str] = ()
    ) -> tuple[Any, int]:
        """The script's reply, and how many replicas have what it wrote or found.

        In one round trip; without replicas to ask, as `_run`.
        """
        if not self._replicas.num:
            return self._run(script, keys, args), 0
        with mapped_errors():
            try:
                return self._run_and_wait(script, keys, args)
            except NoScriptError:
                return self._run_and_wait(script, keys, args, with_text=True)

    def _run_and_wait(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[str],
        *,
        with_text: bool = False,
    ) -> tuple[Any, int]:
        with self._redis.pipeline(transaction=False) as pipe:
            if with_text:
                queue_calls(pipe, script, [(keys, args)])
            else:
                pipe.evalsha(script.sha, len(keys), *keys, *args)
            self._replicas.queue_wait(pipe, self._names.replicated())
            reply, _, confirmed = pipe.execute()
        return reply, int(confirmed)


def queue_status(pipe: Any, names: Names, task_ids: Iterable[str]) -> None:
    """Queue the commands whose replies `parse_statuses` reads, on a sync or asyncio pipeline."""
    for lane in LANES:
        pipe.hget(names.lane(lane), "started")
    pipe.exists(names.workers())
    for task_id in task_ids:
        pipe.hgetall(names.record(task_id))


def parse_statuses(task_ids: Sequence[str], replies: Sequence[Any]) -> Iterator[Status]:
    """Of replies that may be errors, too; raises one that concerns more than a single record."""
    for reply in replies:
        if isinstance(reply, Exception) and not _is_of_other_type(reply):
            raise reply
    started = {
        lane: int(reply or NOTHING_STARTED) for lane, reply in zip(LANES, replies, strict=False)
    }
    has_workers, *records = replies[len(LANES) :]
    for task_id, record in zip(task_ids, records, strict=True):
        yield _parse(task_id, record, started, has_workers=bool(has_workers))


def _is_of_other_type(reply: object) -> bool:
    """Whether Redis holds something else under the key of a record."""
    return isinstance(reply, redis.ResponseError) and str(reply).startswith("WRONGTYPE")


def _parse(
    task_id: str, record: object, started: Mapping[Lane, int], *, has_workers: bool
) -> Status:
    """What a record says, as far as it can be read.

    A newer version's may say what is unknown here, and one that somebody has spoilt anything.
    """
    # Of a foreign sender's task a worker may have claimed the message and not yet begun.
    if isinstance(record, Mapping) and "state" not in record:
        return Status(id=task_id, state=State.UNKNOWN)
    if not isinstance(record, Mapping) or record["state"] not in State.__members__:
        return Status(id=task_id, state=State.UNKNOWN, failure=UNREADABLE)
    state = State(record["state"])
    kind, lane, tenant = _kind_lane_and_tenant(record)
    is_waiting = state in (State.PENDING, State.RETRY) and "due" not in record
    num_before = None if lane is None else _number(record, "seq") - started[lane] - 1
    return Status(
        id=task_id,
        state=state,
        kind=kind,
        lane=lane,
        attempt=_number(record, "attempt"),
        position=None if num_before is None or not is_waiting else max(0, num_before),
        generated_tokens=_number(record, "tokens"),
        max_new_tokens=_number(record, "max") if "max" in record else None,
        is_cancel_requested="cancel" in record,
        submitted_at=_seconds(record, "at"),
        started_at=_seconds(record, "t0"),
        finished_at=_seconds(record, "t1"),
        store_seconds=_seconds(record, "store"),
        failure=_failure(record),
        result_key=result_key(task_id),
        retry_of=record.get("retry_of"),
        has_workers=None if state.is_final else has_workers,
        tenant=tenant,
        source="record",
    )


def _refusal(reply: Any, limits: QueueLimits) -> VisionqError | None:
    """What a reply of `CREATE` refuses, if anything."""
    if reply is None or reply[0] == FOUND:
        return None
    if reply[0] == CLOCK:
        return ClockWasSet()
    if reply[0] == CONFLICT:
        return IdempotencyConflict(
            f"the idempotency key is in use for task {reply[1]}, which asks something else: "
            "use another key, or submit what was submitted before",
            reply[1],
        )
    _, what, num_waiting, rate = reply
    most = limits.max_waiting if what == "lane" else limits.max_waiting_per_tenant
    # A twentieth of the queue: long enough to matter, short enough not to leave workers idle.
    seconds = (most or 0) / 20 / float(rate) if float(rate) > 0 else MAX_RETRY_AFTER_SECONDS
    return QueueFull(
        f"{num_waiting} tasks of the {what} wait already; at most {most} may",
        retry_after_seconds=min(max(seconds, MIN_RETRY_AFTER_SECONDS), MAX_RETRY_AFTER_SECONDS),
    )


def _decoded(text: str) -> Any:
    """A JSON value; of a record that somebody has spoilt, its text, which is no task."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def state_of(text: object) -> State:
    """UNKNOWN for what a newer version may have written, or somebody has spoilt."""
    return State(str(text)) if text in State.__members__ else State.UNKNOWN


def _pin(number: int) -> str:
    return f"pin:{number}"


def _found(reply: Any) -> Found | None:
    if reply is None or reply[0] != FOUND:
        return None
    _, state, sent, task_id, *task = reply
    known = State(state) if state in State.__members__ else None
    return Found(known, sent == "1", task_id, task[0] if task else None)


def _kind_lane_and_tenant(
    record: Mapping[str, str],
) -> tuple[str | None, Lane | None, str | None]:
    """Of the task; None for what is unknown here."""
    try:
        task = json.loads(record.get("task", ""))
    except (ValueError, RecursionError):
        return None, None, None
    if not isinstance(task, dict):
        return None, None, None
    kind, lane = task.get("kind"), task.get("lane", Lane.INTERACTIVE)
    tenant = task.get("tenant", DEFAULT_TENANT)
    return (
        kind if isinstance(kind, str) else None,
        Lane(lane) if lane in LANES else None,
        tenant if isinstance(tenant, str) else None,
    )


def _number(record: Mapping[str, str], name: str) -> int:
    try:
        return int(record.get(name, 0))
    except ValueError:
        return 0


def _seconds(record: Mapping[str, str], name: str) -> float | None:
    try:
        return float(record[name]) if name in record else None
    except ValueError:
        return None


def _failure(record: Mapping[str, str]) -> Failure | None:
    if "code" not in record:
        return None
    return Failure(
        code=record["code"],
        message=record.get("message", ""),
        retryable=record.get("retryable") == "1",
    )
