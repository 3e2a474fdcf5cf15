"""What a worker's user of Redis may not do: asked before there is something to do.

A user can be limited to some keys and some commands (`ACL SETUSER`), and what that refuses it
refuses for good. Each kind of key, each command and each script is tried in a way that changes
nothing, or only a key of this moment. `visionq.refusals` says which errors are such refusals, and
`SECURITY.md` what a user needs.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError, ResponseError

from visionq import dead, fleet, record_scripts
from visionq.connections import mapped_errors
from visionq.contract import Lane
from visionq.refusals import is_for_good
from visionq_worker import lease_scripts

if TYPE_CHECKING:
    from redis import Redis

    from visionq.names import Names

PROBE = "probe"
REPLY_SECONDS = 5.0
"""For the reply to a subscription."""
PRIORITIES = ("\x06\x163", "\x06\x166", "\x06\x169")
"""kombu's endings of a queue's name, for messages of other priorities."""

_KEY = "KEY"
"""Stands for the key that is tried: a string, so that commands of other types change nothing."""
COMMANDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "EXISTS": (_KEY,),
        "GET": (_KEY,),
        "TTL": (_KEY,),
        "EXPIRE": (_KEY, "1"),
        "TIME": (),
        "HGET": (_KEY, PROBE),
        "HMGET": (_KEY, PROBE),
        "HGETALL": (_KEY,),
        "HVALS": (_KEY,),
        "HEXISTS": (_KEY, PROBE),
        "HSET": (_KEY, PROBE, ""),
        "HSETNX": (_KEY, PROBE, ""),
        "HINCRBY": (_KEY, PROBE, "0"),
        "HDEL": (_KEY, PROBE),
        "LINDEX": (_KEY, "0"),
        "LLEN": (_KEY,),
        "LPUSH": (_KEY, ""),
        "RPUSH": (_KEY, ""),
        "RPOP": (_KEY,),
        "ZADD": (_KEY, "LT", "0", PROBE),
        "ZCARD": (_KEY,),
        "ZRANGE": (_KEY, "0", "0"),
        "ZRANGEBYSCORE": (_KEY, "0", "0", "LIMIT", "0", "1"),
        "ZREM": (_KEY, PROBE),
        "ZREMRANGEBYRANK": (_KEY, "1", "0"),
        "ZREMRANGEBYSCORE": (_KEY, "1", "0"),
        "ZSCORE": (_KEY, PROBE),
        # Not in scripts: Celery's results and kombu's bindings.
        "SETEX": (_KEY, "1", ""),
        "SADD": (_KEY, ""),
        "SMEMBERS": (_KEY,),
        "PUBLISH": ("CHANNEL", ""),
        "DEL": (_KEY,),
    }
)
"""What a worker's scripts and its own commands are, but for SET, each with harmless arguments."""

# KEYS a key that is not there; ARGV the commands, in JSON. Returns [command, error]... in JSON.
# Without a string in its place the key would be written by the others, so they are not tried where
# SET is refused.
_TRY_COMMANDS = """
local refused = {}
local function try(command)
  local reply = redis.pcall(unpack(command))
  local is_error = type(reply) == 'table' and reply.err
  if is_error then refused[#refused + 1] = {command[1], reply.err} end
  return not is_error
end
if try({'SET', KEYS[1], '', 'EX', 1}) then
  for _, command in ipairs(cjson.decode(ARGV[1])) do try(command) end
end
return cjson.encode(refused)
"""


@dataclass(frozen=True, slots=True)
class Forbidden:
    """Patterns of keys that may not be used: of the namespace, and beside it. And channels beside
    it, on which Celery's control commands, answers to them and events go.
    """

    own: tuple[str, ...]
    results: tuple[str, ...]
    control: tuple[str, ...]

    @property
    def beside(self) -> tuple[str, ...]:
        return (*self.results, *self.control)


@dataclass(frozen=True, slots=True)
class Tried:
    """Commands that are refused for good, each with the reason; and why nothing is written now."""

    refused: Mapping[str, str]
    passing: str | None


def scripts() -> dict[str, str]:
    """Every script that a worker, a client or an operator runs, by its name."""
    modules: Iterable[ModuleType] = (record_scripts, lease_scripts, fleet, dead)
    return {
        f"{module.__name__.rpartition('.')[2]}.{name}": text
        for module in modules
        for name, text in vars(module).items()
        if isinstance(text, str) and "redis.call" in text and not name.startswith("_")
    }


def forbidden_keys(client: Redis, names: Names, canvas_queues: Iterable[str]) -> Forbidden:
    """Try each kind of key. Raises `BrokerUnavailable`."""
    database = client.connection_pool.connection_kwargs.get("db") or 0
    own = _refused(client, list(_own(names)))
    results = _refused(client, list(_results(names, canvas_queues)))
    control = _refused(client, list(_control(names, database)))
    channel = names.control_topic(database)
    return Forbidden(own, results, (*control, *_unheard(client, channel)))


def try_commands(client: Redis, names: Names) -> Tried:
    """Try each command that a worker uses. Raises `BrokerUnavailable`."""
    refused = _refused_outside_scripts(client, names)
    if not {"EVAL", "EVALSHA"} & refused.keys():
        task_id = str(uuid.uuid4())
        words = {_KEY: names.record(task_id), "CHANNEL": names.events(task_id)}
        commands = [
            [name, *(words.get(word, word) for word in args)] for name, args in COMMANDS.items()
        ]
        with mapped_errors():
            found: Any = client.eval(_TRY_COMMANDS, 1, words[_KEY], json.dumps(commands))
        replies = {name: str(error) for name, error in json.loads(found)}
    else:
        replies = {}
    refused |= {name: said for name, said in replies.items() if _is_missing(said)}
    passing = replies.get("SET")
    return Tried(refused, None if "SET" in refused else passing)


def broken_scripts(client: Redis) -> dict[str, str]:
    """Scripts that this server cannot compile, with the reason. Raises `BrokerUnavailable`."""
    texts = scripts()
    with mapped_errors(), client.pipeline(transaction=False) as pipe:
        for text in texts.values():
            # Compiled, and not run.
            pipe.eval(f"local function _()\n{text}\nend", 0)
        replies = pipe.execute(raise_on_error=False)
    return {
        name: str(reply)
        for name, reply in zip(texts, replies, strict=True)
        if isinstance(reply, ResponseError) and "compiling" in str(reply).lower()
    }


def _is_missing(said: str) -> bool:
    """Whether a command is forbidden or unknown, or does not know an option of ours."""
    return is_for_good(ResponseError(said)) or "syntax error" in said


def _refused_outside_scripts(client: Redis, names: Names) -> dict[str, str]:
    """Of those that scripts are run with, and that no script can run."""
    refused = {}
    tries: Mapping[str, tuple[Any, ...]] = {
        "PING": (),
        "EVAL": ("return 1", 0),
        "EVALSHA": ("0" * 40, 0),
        # The waker's. Redis before 7 knows no blocking commands in scripts.
        "BLMOVE": (names.record(PROBE), names.record(PROBE), "RIGHT", "RIGHT", "0.01"),
    }
    with mapped_errors():
        for name, args in tries.items():
            try:
                client.execute_command(name, *args)  # type: ignore[no-untyped-call]
            except ResponseError as error:
                if is_for_good(error):
                    refused[name] = str(error)
        with client.pipeline(transaction=True) as pipe:
            try:
                pipe.execute_command("EXISTS", names.clock())  # type: ignore[no-untyped-call]
                pipe.execute()
            except ResponseError as error:
                # Without MULTI, what is refused is EXEC. EXISTS is tried elsewhere.
                if "multi" in str(error).lower():
                    refused["MULTI"] = str(error)
    return refused


def _unheard(client: Redis, channel: str) -> tuple[str, ...]:
    """The channel, if it may not be listened to."""
    with mapped_errors(), client.pubsub() as subscription:  # type: ignore[no-untyped-call]
        try:
            subscription.subscribe(channel)
            subscription.get_message(timeout=REPLY_SECONDS)
        except RedisError as error:
            if not is_for_good(error):
                raise
            return (f"channel {channel}",)
    return ()


_COMMAND_REFUSED = "permissions to run the"
"""Said of a command, whatever its keys are: those are tried by `try_commands`."""
Try = tuple[str, tuple[Any, ...]]
"""A pattern, and a command that is refused where keys or channels of this pattern are."""


def _refused(client: Redis, tried: list[Try]) -> tuple[str, ...]:
    with mapped_errors(), client.pipeline(transaction=False) as pipe:
        for _, command in tried:
            pipe.execute_command(*command)  # type: ignore[no-untyped-call]
        replies = pipe.execute(raise_on_error=False)
    # A Redis that is full, say, refuses for now: that keeps no worker from starting.
    refused = {
        pattern: None
        for (pattern, _), reply in zip(tried, replies, strict=True)
        if isinstance(reply, RedisError)
        and is_for_good(reply)
        and _COMMAND_REFUSED not in str(reply)
    }
    return tuple(refused)


def _is_of_key(error: RedisError) -> bool:
    """Whether it is the key, or the channel, that is refused for good, and not the command."""
    return is_for_good(error) and _COMMAND_REFUSED not in str(error)


def _own(names: Names) -> Iterator[Try]:
    """Each kind of key under the namespace, to be read and to be written.

    HDEL and HGET change nothing of any key: what is no hash, they refuse as that.
    """
    task_id = str(uuid.uuid4())
    patterns = {
        key: key
        for key in (
            *(names.unacked(), names.leases(), names.workers(), names.dead()),
            *(names.dead_messages(), names.open(), names.cancelled(), names.unacked_index()),
            *(names.dead_index(), names.suspects(), names.draining(), names.clock()),
            *(names.lane(lane) for lane in Lane),
            *(f"{names.lane(lane)}:line" for lane in Lane),
            *(names.queue(lane) for lane in Lane),
        )
    }
    patterns |= {names.record("*"): names.record(task_id), names.known("*"): names.known(PROBE)}
    patterns |= {names.newer("*"): names.newer(PROBE), names.write_check(): names.write_check()}
    for lane in Lane:
        for ending in PRIORITIES:
            key = names.queue(lane) + ending
            yield names.queue(lane), ("HDEL", key, PROBE)
    for pattern, key in patterns.items():
        yield pattern, ("HDEL", key, PROBE)
        yield pattern, ("HGET", key, PROBE)
    yield f"channel {names.events('*')}", ("PUBLISH", names.events(task_id), "")


def _results(names: Names, canvas_queues: Iterable[str]) -> Iterator[Try]:
    """What Celery and kombu name: in a namespace of its own most of it lies there."""
    results, result = names.celery_result("*"), names.celery_result(str(uuid.uuid4()))
    yield results, ("HDEL", result, PROBE)
    yield f"channel {results}", ("PUBLISH", result, "")
    queue = names.queue(Lane.INTERACTIVE)
    for kind in ("binding", "binding_permanent"):
        bindings = names.binding(queue).replace("binding", kind, 1)
        yield f"_kombu.{kind}.*", ("HDEL", bindings, PROBE)
    for queue in canvas_queues:
        yield queue, ("HDEL", queue, PROBE)
        groups = f"{names.celery_prefix()}celery-taskset-meta-"
        yield f"{groups}*", ("HDEL", f"{groups}{uuid.uuid4()}", PROBE)


def _control(names: Names, database: int) -> Iterator[Try]:
    reply_queue = names.control_reply_queue(str(uuid.uuid4()))
    yield names.control_reply_queue("*"), ("HDEL", reply_queue, PROBE)
    events = names.event_topic(database, PROBE)  # an empty message is none to whoever listens
    yield f"channel {names.event_topic(database, '*')}", ("PUBLISH", events, "")
