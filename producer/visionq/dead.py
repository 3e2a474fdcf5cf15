"""Dead letters: messages that workers have put aside, and what an operator can do about them.

A letter is either a message that nobody could read, or the message of a task with which too many
workers were lost; then the letter's id is the task's. Workers write the letters (the worker's
`lease_scripts`), keep the newest 10,000 of them, and for 30 days. Here they are listed, shown, put
back into their queues, and thrown away. The records belong to `records.py`; a replay is the one
transition that leaves a final state, and only the one that the putting aside has led to.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import compress, islice
from typing import TYPE_CHECKING, Any, Self, cast

import redis
from redis.client import NEVER_DECODE

from visionq.arguments import checked_count, settings_or_default
from visionq.connections import connect, mapped_errors
from visionq.contract import State, encode_task, is_task_id, read_task
from visionq.errors import ClientClosed, InvalidArgument, InvalidTask, TaskUnknown
from visionq.names import Names
from visionq.records import LANES, LOOK_SECONDS, state_of
from visionq.scripts import evaluate

if TYPE_CHECKING:
    from visionq.settings import Settings

PAGE_SIZE = 500
"""Letters per round trip."""

_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_AGE_SECONDS = 100 * 365 * 24 * 3600

_RAW = {NEVER_DECODE: True}
"""redis-py's way to get one reply as bytes from a client that decodes."""

# KEYS dead, dead-messages, dead-index, record, open, lane hashes; ARGV ttl, id, seconds until a
# look, channel, the task in the message ('': none that can be read), names of the lanes.
# Returns the outcome, and the state that was found.
#
# Whatever can go wrong does so before the first write: a script that fails half way stays half
# done. The fence rises, so that nobody from before may write. A worker that `due` has told to end
# the task looks next in LOOK_SECONDS: until then the task is in its hands. A record that has gone
# comes back with one attempt, since somebody had started it: the next one looks for an answer that
# is stored already.
REPLAY = """
local DEAD, MESSAGES, INDEX, RECORD, OPEN = unpack(KEYS, 1, 5)
local TTL, ID, LOOK, CHANNEL, FOUND_TASK = unpack(ARGV, 1, 5)
local t = redis.call('TIME')
local now = t[1] .. '.' .. string.format('%06d', t[2])

local function is_final(state)
  return state == 'SUCCESS' or state == 'FAILURE' or state == 'REVOKED' or state == 'EXPIRED'
end

local function decoded(text)
  local is_json, value = pcall(cjson.decode, text)
  return is_json and type(value) == 'table' and value or nil
end

local function what_forbids_it(state, dead, follower)
  if follower then return 'followed' end
  if not state or (dead and state == 'FAILURE') then return nil end
  if is_final(state) then return 'final' end
  if not dead then return 'alive' end
  local look = redis.call('ZSCORE', OPEN, ID)
  -- Not later than that, or a clock was set back and nobody has looked since.
  if look and tonumber(look) > tonumber(now) and look - now <= tonumber(LOOK) then
    return 'ending'
  end
end

local function wait_again(task)
  local parsed = cjson.decode(task)
  local tenant, lane = parsed.tenant or 'default', KEYS[6]
  for i = 6, #KEYS do if ARGV[i] == parsed.lane then lane = KEYS[i] end end
  local seq = redis.call('HINCRBY', lane, 'submitted', 1)
  if redis.call('HSETNX', RECORD, 'counted', tenant) == 1 then
    redis.call('HINCRBY', lane, 'waiting', 1)
    redis.call('HINCRBY', lane, 'waiting:' .. tenant, 1)
  end
  if redis.call('HSETNX', RECORD, 'at', now) == 1 then redis.call('HSET', RECORD, 'attempt', 1) end
  if redis.call('HINCRBY', RECORD, 'fence', 1) == 1 then -- as a first start does it (`START`)
    redis.call('HINCRBY', RECORD, 'fence', t[1] * 1000 + math.floor(t[2] / 1000))
  end
  redis.call('HSET', RECORD, 'state', 'PENDING', 'task', task, 'seq', seq, 'sent', '1',
    'since', now)
  redis.call('HDEL', RECORD, 'dead', 'strikes', 'retries', 'code', 'message', 'retryable', 't0',
    't1', 'due', 'cancel', 'tokens', 'store')
  redis.call('EXPIRE', RECORD, TTL)
  redis.call('EXPIRE', lane, TTL)
  redis.call('ZADD', OPEN, now + LOOK, ID)
  redis.call('EXPIRE', OPEN, TTL)
end

local letter, message = redis.call('HGET', DEAD, ID), redis.call('HGET', MESSAGES, ID)
if not letter or not message then return {'unknown', 'UNKNOWN'} end
local parsed = decoded(letter)
local queue = parsed and parsed.queue
if type(queue) ~= 'string' then return {'unknown', 'UNKNOWN'} end
local held = redis.call('HMGET', RECORD, 'state', 'dead', 'task', 'next')
local state, dead, task, follower = unpack(held)
local forbidden = what_forbids_it(state, dead, follower)
if forbidden then return {forbidden, state or 'UNKNOWN'} end
if task and not decoded(task) then task = nil end -- somebody has spoilt it
task = task or FOUND_TASK
if task ~= '' then wait_again(task) else redis.call('HDEL', RECORD, 'dead', 'strikes') end
redis.call('LPUSH', queue, message)
redis.call('HDEL', DEAD, ID)
redis.call('HDEL', MESSAGES, ID)
redis.call('ZREM', INDEX, ID)
if task ~= '' then redis.pcall('PUBLISH', CHANNEL, 'PENDING') end
return {'replayed', state or 'UNKNOWN'}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that was put aside: when (Redis's clock), why, and from which queue.

    `task_id` is None where nobody could read the message. `size` is the message's, in bytes.
    """

    id: str
    task_id: str | None
    at: float
    reason: str
    queue: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedLetter:
    """A letter with its message as text; what is no UTF-8 in it is replaced.

    `state` and `task` (JSON) are the record's; UNKNOWN and None without a record, and where they
    cannot be read.
    """

    letter: DeadLetter
    text: str
    state: State
    task: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which letters: those for which everything given is true, and all when nothing is.

    `reason` is a part of the letter's reason. Ages are by Redis's clock.
    """

    reason: str | None = None
    queue: str | None = None
    older_than_seconds: float | None = None

    def __post_init__(self) -> None:
        """Raise `InvalidArgument` for a wrong type, and for an age of more than 100 years."""
        age: object = self.older_than_seconds
        is_number = isinstance(age, int | float) and not isinstance(age, bool)
        if age is not None and not (is_number and abs(cast("float", age)) <= MAX_AGE_SECONDS):
            raise InvalidArgument(
                f"older_than_seconds must be a number, {MAX_AGE_SECONDS} at most, or None"
            )
        for text in (self.reason, self.queue):
            if text is not None and not isinstance(text, str):
                raise InvalidArgument("reason and queue must be strings, or None")

    def fits(self, letter: DeadLetter) -> bool:
        """Whether reason and queue are as wanted."""
        is_reason = self.reason is None or self.reason in letter.reason
        return is_reason and self.queue in (None, letter.queue)


EVERYTHING = Where()


class Outcome(StrEnum):
    """What has become of a replay; only after REPLAYED has anything changed."""

    REPLAYED = "replayed"
    UNKNOWN = "unknown"
    FINAL = "final"
    ALIVE = "alive"
    ENDING = "ending"
    FOLLOWED = "followed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """The outcome of one letter's replay, and the state in which its task was found."""

    id: str
    outcome: Outcome
    state: State

    @property
    def is_refused(self) -> bool:
        return self.outcome not in (Outcome.REPLAYED, Outcome.UNKNOWN)

    @property
    def message(self) -> str:
        """A sentence for the operator."""
        return {
            Outcome.REPLAYED: "back in its queue",
            Outcome.UNKNOWN: "there is no such dead letter",
            Outcome.FINAL: f"the task has ended as {self.state}, which stays",
            Outcome.ALIVE: f"the task is {self.state}: it waits or runs already",
            Outcome.ENDING: "a worker is about to end the task: try again in some seconds",
            Outcome.FOLLOWED: "the task was submitted again with its idempotency key since then",
        }[self.outcome]


class DeadLetters:
    """The dead letters of one namespace. Thread-safe: redis-py pools its connections.

    Every method raises `BrokerUnavailable` when Redis cannot be reached or refuses. A call that
    was cut off may be repeated: a letter that has been dealt with is unknown then.
    """

    def __init__(self, client: redis.Redis, names: Names, *, ttl_seconds: int) -> None:
        """`ttl_seconds` is that of the records."""
        self._client = client
        self._is_closed = False
        self._names = names
        self._ttl = str(ttl_seconds)
        self._replay = client.register_script(REPLAY)

    @classmethod
    def from_settings(cls, settings: Settings | None = None) -> Self:
        """As settings.toml and the environment say, or as the settings given."""
        broker = settings_or_default(settings).broker
        client = connect(broker.address(), timeout_seconds=broker.timeout_seconds)
        return cls(client, broker.names(), ttl_seconds=broker.record_ttl_seconds)

    def list(
        self, limit: int = 100, offset: int = 0, where: Where = EVERYTHING
    ) -> tuple[DeadLetter, ...]:
        """Up to `limit` letters after the first `offset`, newest first.

        Raises `InvalidArgument` for what is of another type.
        """
        limit, offset = checked_count("limit", limit), checked_count("offset", offset)
        if not isinstance(where, Where):
            raise InvalidArgument("where must be of the type Where")
        newest_first = self._read(self._aged_ids(where)[::-1], where)
        return tuple(islice(newest_first, offset, offset + limit))

    def show(self, letter_id: str) -> OpenedLetter:
        """Raises `TaskUnknown` when there is no such letter."""
        (letter_id,) = _checked_letters([letter_id])
        letter = next(self._read([letter_id], EVERYTHING), None)
        if letter is None:
            raise TaskUnknown(f"no dead letter {letter_id}")
        with mapped_errors():
            state, task = self._redis.hmget(self._names.record(letter_id), "state", "task")
        return OpenedLetter(
            letter=letter,
            text=self._message(letter_id).decode(errors="replace"),
            state=state_of(state),
            task=_object_in(task),
        )

    def replay(self, which: Sequence[str] | Where) -> tuple[Replayed, ...]:
        """Put messages back into their queues, behind what waits there, the oldest first.

        A task's is a new attempt under the same id, if its record says that it was put aside, or
        is gone; an answer, a cancel and a deadline that has passed stay as they are. What it had
        left in the store stays until the new attempt has a result.
        """
        return tuple(self._replay_one(letter_id) for letter_id in self._ids(which))

    def purge(self, which: Sequence[str] | Where) -> tuple[str, ...]:
        """Throw letters away; their tasks' records stay. Returns the ids of those there were."""
        ids = self._ids(which)
        purged: tuple[str, ...] = ()
        for start in range(0, len(ids), PAGE_SIZE):
            page = ids[start : start + PAGE_SIZE]
            with mapped_errors(), self._redis.pipeline() as pipe:
                for letter_id in page:
                    pipe.hdel(self._names.dead(), letter_id)
                pipe.hdel(self._names.dead_messages(), *page)
                pipe.zrem(self._names.dead_index(), *page)
                there = pipe.execute()[: len(page)]
            purged += tuple(compress(page, there))
        return purged

    def close(self) -> None:
        """A later call raises `ClientClosed`."""
        self._is_closed = True
        self._client.close()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def _redis(self) -> redis.Redis:
        self._check_open()
        return self._client

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClientClosed("the dead letters were closed: open them again")

    def _ids(self, which: Sequence[str] | Where) -> Sequence[str]:
        """The letters meant, each once, the oldest first when they are not named."""
        self._check_open()
        if isinstance(which, Where):
            return [letter.id for letter in self._read(self._aged_ids(which), which)]
        return tuple(dict.fromkeys(_checked_letters(which)))

    def _aged_ids(self, where: Where) -> Sequence[str]:
        """The ids of all letters that are old enough, the oldest first."""
        latest: float | str = "+inf"
        with mapped_errors():
            if where.older_than_seconds is not None:
                seconds, micros = self._redis.time()
                latest = seconds + micros / 1e6 - where.older_than_seconds
            ids = self._redis.zrangebyscore(self._names.dead_index(), "-inf", latest)
        return cast("list[str]", ids)

    def _read(self, ids: Sequence[str], where: Where) -> Iterator[DeadLetter]:
        """Those of the letters that fit and are still there, in the order given."""
        for start in range(0, len(ids), PAGE_SIZE):
            page = ids[start : start + PAGE_SIZE]
            with mapped_errors(), self._redis.pipeline(transaction=False) as pipe:
                pipe.hmget(self._names.dead(), page)
                for letter_id in page:
                    pipe.hstrlen(self._names.dead_messages(), letter_id)
                entries, *sizes = pipe.execute()
            for letter_id, entry, size in zip(page, entries, sizes, strict=True):
                if entry is not None and where.fits(letter := _parse(letter_id, entry, size)):
                    yield letter

    def _replay_one(self, letter_id: str) -> Replayed:
        names = self._names
        keys = [*self._own_keys(), names.record(letter_id), names.open()]
        keys += [names.lane(lane) for lane in LANES]
        task = _task_in(self._message(letter_id), letter_id) or ""
        args = [self._ttl, letter_id, str(LOOK_SECONDS), names.events(letter_id), task, *LANES]
        with mapped_errors():
            outcome, state = evaluate(self._redis, self._replay, keys, args)
        return Replayed(id=letter_id, outcome=Outcome(outcome), state=state_of(state))

    def _message(self, letter_id: str) -> bytes:
        """The message as it was sent, which may be no UTF-8; empty when it is gone."""
        command = ("HGET", self._names.dead_messages(), letter_id)
        with mapped_errors():
            message = self._redis.execute_command(*command, **_RAW)  # type: ignore[no-untyped-call]
        return message or b""

    def _own_keys(self) -> tuple[str, str, str]:
        return self._names.dead(), self._names.dead_messages(), self._names.dead_index()


def _checked_letters(which: object) -> list[str]:
    """Ids of letters: strings of any form. Raises `InvalidArgument`."""
    if isinstance(which, Iterable) and not isinstance(which, str):
        letters = list(which)
        if all(isinstance(one, str) and _SURROGATE.search(one) is None for one in letters):
            return letters
    raise InvalidArgument("dead letters are named by a list of their ids, or by a Where")


def _parse(letter_id: str, entry: str, size: int) -> DeadLetter:
    """The letter; one whose entry somebody has spoilt is still listed, and can be purged."""
    try:
        data = json.loads(entry)
        found = (float(data["at"]), str(data["reason"]), str(data["queue"]))
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        found = (0.0, "the entry of this letter is damaged", "")
    at, reason, queue = found
    task_id = letter_id if is_task_id(letter_id) else None
    return DeadLetter(id=letter_id, task_id=task_id, at=at, reason=reason, queue=queue, size=size)


def _object_in(text: object) -> dict[str, Any] | None:
    try:
        data = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _task_in(message: bytes, task_id: str) -> str | None:
    """The task that a Celery message carries, as its record has it; None when it has none."""
    try:
        _, kwargs, _ = json.loads(base64.b64decode(json.loads(message)["body"]))
        return encode_task(read_task(kwargs["task"], task_id=task_id))
    except (ValueError, LookupError, TypeError, RecursionError, InvalidTask):
        return None
