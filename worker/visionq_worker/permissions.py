"""Which keys of Redis a worker may not write: asked before there is something to write.

A user of Redis can be limited to some keys (`ACL SETUSER`), and what that refuses it refuses for
good. Each kind of key is tried by a command that changes nothing, or only a key of this moment.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from visionq.contract import Lane
from visionq.records import mapped_errors

if TYPE_CHECKING:
    from redis import Redis

    from visionq.names import Names

PROBE = "probe"
REPLY_SECONDS = 5.0
"""For the reply to a subscription."""
PRIORITIES = ("", "\x06\x163", "\x06\x166", "\x06\x169")
"""kombu's endings of a queue's name, for messages of other priorities."""


@dataclass(frozen=True, slots=True)
class Forbidden:
    """Patterns of keys that may not be written: of the namespace, and beside it."""

    own: tuple[str, ...]
    beside: tuple[str, ...]


def is_for_good(error: Exception) -> bool:
    """Whether Redis refuses by its access rules, which no waiting changes."""
    is_in_script = isinstance(error, ResponseError) and "ACL failure" in str(error)
    return isinstance(error, NoPermissionError) or is_in_script


def forbidden_keys(client: Redis, names: Names, canvas_queues: Iterable[str]) -> Forbidden:
    """Try each kind of key. Raises `BrokerUnavailable`."""
    database = client.connection_pool.connection_kwargs.get("db") or 0
    own, beside = list(_own(names)), list(_beside(names, database, canvas_queues))
    refused = _refused(client, own), _refused(client, beside)
    return Forbidden(refused[0], (*refused[1], *_unheard(client, names.control_topic(database))))


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


def _refused(client: Redis, tried: list[tuple[str, tuple[Any, ...]]]) -> tuple[str, ...]:
    with mapped_errors(), client.pipeline(transaction=False) as pipe:
        for _, command in tried:
            pipe.execute_command(*command)  # type: ignore[no-untyped-call]
        replies = pipe.execute(raise_on_error=False)
    # A Redis that is full, say, refuses for now: that keeps no worker from starting.
    refused = {
        pattern: None
        for (pattern, _), reply in zip(tried, replies, strict=True)
        if isinstance(reply, RedisError) and is_for_good(reply)
    }
    return tuple(refused)


def _own(names: Names) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Pattern and command for each kind of key under the namespace."""
    task_id = str(uuid.uuid4())
    hashes = [names.unacked(), names.leases(), names.workers(), names.dead(), names.dead_messages()]
    for key in (*hashes, *(names.lane(lane) for lane in Lane)):
        yield key, ("HDEL", key, PROBE)
    lines = [f"{names.lane(lane)}:line" for lane in Lane]
    for key in (names.open(), names.cancelled(), names.unacked_index(), names.dead_index(), *lines):
        yield key, ("ZREM", key, PROBE)
    for queue in (names.queue(lane) for lane in Lane):
        for ending in PRIORITIES:
            # As the waker does it: onto its own place.
            key = queue + ending
            yield queue, ("LMOVE", key, key, "RIGHT", "RIGHT")
    yield names.suspects(), ("LREM", names.suspects(), 1, PROBE)
    for key in (names.draining(), names.clock()):
        yield key, ("SETRANGE", key, 0, "")
    yield names.newer("*"), ("ZREM", names.newer(PROBE), PROBE)
    yield names.record("*"), ("HDEL", names.record(task_id), PROBE)
    yield names.known("*"), ("SETRANGE", names.known(PROBE), 0, "")
    yield f"channel {names.events('*')}", ("PUBLISH", names.events(task_id), "")


def _beside(
    names: Names, database: int, canvas_queues: Iterable[str]
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The same for what Celery and kombu name; in a namespace of its own most of it lies there."""
    results = names.celery_result("*")
    result = names.celery_result(str(uuid.uuid4()))
    yield results, ("SET", result, "", "EX", 1)
    yield f"channel {results}", ("PUBLISH", result, "")
    yield "_kombu.binding.*", ("SREM", f"_kombu.binding.{PROBE}", PROBE)
    reply_queue = names.control_reply_queue(str(uuid.uuid4()))
    yield names.control_reply_queue("*"), ("LREM", reply_queue, 1, PROBE)
    events = names.event_topic(database, PROBE)  # an empty message is none to whoever listens
    yield f"channel {names.event_topic(database, '*')}", ("PUBLISH", events, "")
    for queue in canvas_queues:
        yield queue, ("LREM", queue, 1, PROBE)
        groups = f"{names.celery_prefix()}celery-taskset-meta-"
        yield f"{groups}*", ("SETRANGE", f"{groups}{uuid.uuid4()}", 0, "")
