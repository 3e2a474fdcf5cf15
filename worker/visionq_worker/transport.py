"""Kombu's Redis transport, made to survive its messages and the loss of a connection.

It differs from the stock one in three places. A list element that is no Celery message goes to
the dead list with its reason; stock kombu lets it end the worker, and it is gone. A lost
connection does not requeue what this process is still running; stock kombu starts every running
task a second time, and with several in flight fails on the way and ends the worker. And acks go
over a connection of their own: the channel that delivered a message may be closed by the time the
task is done. Producers stay stock; claims and redelivery are kombu's own.
"""

from __future__ import annotations

import json
import logging
import queue
from collections.abc import Callable, Iterable
from functools import partial
from time import time
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from redis import Redis, RedisError

from visionq.contract import Lane
from visionq.names import TASK_NAME

log = logging.getLogger(__name__)

MAX_DEAD = 10_000
DEAD_TTL_SECONDS = 30 * 24 * 3600
KEPT_HEADERS = ("lang", "task", "id", "root_id", "parent_id", "group", "origin")
"""What Celery needs of a message's headers, all of them strings or null. The rest is dropped: a
time limit or an ETA would be carried out, and badly, by a worker of threads."""
EMBEDDED = {"callbacks": list, "errbacks": list, "chain": list, "chord": dict}


class BadMessage(ValueError):
    """A list element that cannot be a task message; the text is the reason."""


class Settler:
    """Takes messages out of the unacked store, over its own connection. Thread-safe.

    What Redis does not hear is kept and said again by `retry`. Should this process end before
    that, the message is delivered again, which a finished task survives.
    """

    def __init__(self, client: Redis, *, unacked_key: str, index_key: str) -> None:
        self._redis = client
        self._unacked_key = unacked_key
        self._index_key = index_key
        self._unheard: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def ack(self, tag: str) -> None:
        """The message is done with."""
        self._say(partial(self._remove, tag))

    def requeue(self, tag: str) -> None:
        """Put the message back, to be the next one taken from its queue."""
        self._say(partial(self._put_back, tag))

    def retry(self) -> None:
        """Say again what was not heard."""
        for _ in range(self._unheard.qsize()):
            self._say(self._unheard.get())

    def _say(self, command: Callable[[], None]) -> None:
        try:
            command()
        except (RedisError, OSError) as error:
            log.warning("a message could not be settled yet: %s", error)
            self._unheard.put(command)

    def _remove(self, tag: str, *, queue_key: str | None = None, message: str = "") -> None:
        # A transaction only where a message would be lost without: its replies cost as much again,
        # and a tag that stays in the index alone is removed by kombu's next look.
        with self._redis.pipeline(transaction=queue_key is not None) as pipe:
            pipe.hdel(self._unacked_key, tag)
            pipe.zrem(self._index_key, tag)
            if queue_key is not None:
                pipe.rpush(queue_key, message)
            pipe.execute()

    def _put_back(self, tag: str) -> None:
        stored = self._redis.hget(self._unacked_key, tag)
        if stored is not None:
            message, _exchange, queue_key = loads(stored)
            self._remove(tag, queue_key=queue_key, message=dumps(message))


class QoS(kombu_redis.QoS):
    """Settles messages through the process's settler and not through the channel."""

    def ack(self, delivery_tag: str) -> None:
        self.channel.settler.ack(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        settler = self.channel.settler
        settle = settler.requeue if requeue else settler.ack
        settle(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Kombu's periodic look at what is overdue; the time to repeat ourselves, too."""
        self.channel.settler.retry()
        super().restore_visible(*args, **kwargs)


class Channel(kombu_redis.Channel):
    """One channel to the queues. `dead_key` and `settler` are transport options."""

    QoS = QoS
    do_restore = False
    dead_key = "dead"
    settler: Settler
    _commands: Any = None
    from_transport_options = (*kombu_redis.Channel.from_transport_options, "dead_key", "settler")

    def _create_client(self, asynchronous: bool = False) -> Any:
        """A client for one command or many, over the channel's pool: always the same one.

        Kombu makes one for each command, with a table of some 170 reply parsers in it; to take a
        message would cost more for that than for the round trip.
        """
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._commands is None or self._commands.connection_pool is not self.pool:
            self._commands = super()._create_client()
        return self._commands

    def _brpop_read(self, **options: Any) -> bool:
        """Read the answer to the pending BRPOP; True when a message was taken from a queue.

        Kombu's own version, but for the check between reading and delivering.
        """
        try:
            try:
                answer = self.client.parse_response(self.client.connection, "BRPOP", **options)
            except self.connection_errors:
                # The next poll reconnects.
                self.client.connection.disconnect()
                raise
            if not answer:
                raise kombu_redis.Empty
            key, item = answer
            queue_name = bytes_to_str(key).rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue_name)
            self._deliver_checked(item, queue_name)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _deliver_checked(self, item: bytes | str, queue_name: str) -> None:
        try:
            payload = self._checked(item)
        except BadMessage as error:
            self._bury(item, queue_name, str(error))
        else:
            self.connection._deliver(payload, queue_name)  # noqa: SLF001  # kombu's own way in

    def _checked(self, item: bytes | str) -> dict[str, Any]:
        """The element as a message that Celery can unpack. Raises `BadMessage`."""
        try:
            payload = loads(bytes_to_str(item))
            message = self.Message(payload, channel=self)
            headers, body = message.headers, message.decode()
        except Exception as exc:  # any fault at all in foreign bytes
            raise BadMessage(f"{type(exc).__name__}: {exc}") from exc
        _check_body(body)
        return {**payload, "headers": _checked_headers(headers)}

    def _bury(self, item: bytes | str, queue_name: str, reason: str) -> None:
        log.error(
            "a message in %s cannot be run and goes to the list %s: %s",
            queue_name,
            self.dead_key,
            reason,
        )
        text = item.decode("utf-8", "replace") if isinstance(item, bytes) else item
        entry = {"at": time(), "queue": queue_name, "reason": reason[:500], "message": text}
        with self.conn_or_acquire() as client, client.pipeline() as pipe:
            pipe.lpush(self.dead_key, json.dumps(entry))
            pipe.ltrim(self.dead_key, 0, MAX_DEAD - 1)
            pipe.expire(self.dead_key, DEAD_TTL_SECONDS)
            pipe.execute()


def _checked_headers(headers: dict[str, Any]) -> dict[str, Any]:
    """Those that Celery needs. Raises `BadMessage`, also for a task that is not ours."""
    kept = {name: headers.get(name) for name in KEPT_HEADERS}
    wrong = [name for name, value in kept.items() if not isinstance(value, str | None)]
    if wrong:
        raise BadMessage(f"the headers {', '.join(wrong)} are no strings")
    if kept["task"] != TASK_NAME or not kept["id"]:
        raise BadMessage(f"the task is {str(kept['task'])[:80]!r}, not {TASK_NAME}, or has no id")
    return {**kept, "retries": 0, "timelimit": [None, None], "ignore_result": False}


def _check_body(body: object) -> None:
    """Celery's task protocol 2: arguments, keyword arguments, embedded. Raises `BadMessage`."""
    if not isinstance(body, list) or len(body) != 3:
        raise BadMessage("the body is not [args, kwargs, embedded]")
    args, kwargs, embedded = body
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise BadMessage("the arguments are no list, or the keyword arguments no object")
    if not isinstance(embedded, dict):
        raise BadMessage("what is embedded is no object")
    for name, kind in EMBEDDED.items():
        if embedded.get(name) is not None and not isinstance(embedded[name], kind):
            raise BadMessage(f"the embedded {name} is no {kind.__name__}")


class InteractiveFirst:
    """The order in which queues are looked at, in the interface of kombu's cycles."""

    def __init__(self, queues: Iterable[str] = ()) -> None:
        self._queues = sorted(queues, key=_rank)

    def update(self, queues: Iterable[str]) -> None:
        self._queues = sorted(queues, key=_rank)

    def consume(self, num_queues: int) -> list[str]:
        return self._queues[:num_queues]

    def rotate(self, last_used: str) -> None:
        """A queue that was served stays where it is: the order is one of rank, not of turns."""


def _rank(queue_name: str) -> tuple[int, str]:
    lanes = [str(lane) for lane in Lane]
    lane = queue_name.rpartition(".")[2]
    return (lanes.index(lane) if lane in lanes else len(lanes), queue_name)


class Transport(kombu_redis.Transport):
    """Named in Celery's configuration as `broker_transport`; URLs stay `redis://`."""

    Channel = Channel


PRIVATE_NAMES = (
    "_brpop_read",
    "_create_client",
    "_flush_brpop_reauth",
    "Message",
    "do_restore",
    "pool",
    "QoS",
)


def check_kombu() -> None:
    """Raise `RuntimeError` when this kombu lacks a private name the channel leans on."""
    missing = [name for name in PRIVATE_NAMES if not hasattr(kombu_redis.Channel, name)]
    if missing:
        raise RuntimeError(f"this version of kombu has no {', '.join(missing)}")
