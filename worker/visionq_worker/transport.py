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
from time import time
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from redis import Redis, RedisError

log = logging.getLogger(__name__)

MAX_DEAD = 10_000
DEAD_TTL_SECONDS = 30 * 24 * 3600
NEEDED_HEADERS = ("id", "task")


class BadMessage(ValueError):
    """A list element that cannot be a task message; the text is the reason."""


class Settler:
    """Takes messages out of the unacked store, over its own connection. Thread-safe.

    A message it cannot reach stays unacked and is delivered again later, which a finished task
    survives.
    """

    def __init__(self, client: Redis, *, unacked_key: str, index_key: str) -> None:
        self._redis = client
        self._unacked_key = unacked_key
        self._index_key = index_key

    def ack(self, tag: str) -> None:
        try:
            with self._redis.pipeline() as pipe:
                pipe.zrem(self._index_key, tag)
                pipe.hdel(self._unacked_key, tag)
                pipe.execute()
        except (RedisError, OSError) as error:
            log.warning("message %s could not be acked: %s", tag, error)

    def requeue(self, tag: str) -> None:
        """Put the message back, to be the next one taken from its queue."""
        try:
            stored = self._redis.hget(self._unacked_key, tag)
            if stored is None:
                return
            message, _exchange, queue = loads(stored)
            with self._redis.pipeline() as pipe:
                pipe.zrem(self._index_key, tag)
                pipe.hdel(self._unacked_key, tag)
                pipe.rpush(queue, dumps(message))
                pipe.execute()
        except (RedisError, OSError) as error:
            log.warning("message %s could not be put back: %s", tag, error)


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


class Channel(kombu_redis.Channel):
    """One channel to the queues. `dead_key` and `settler` are transport options."""

    QoS = QoS
    do_restore = False
    dead_key = "dead"
    settler: Settler
    from_transport_options = (*kombu_redis.Channel.from_transport_options, "dead_key", "settler")

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
            queue = bytes_to_str(key).rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            self._deliver_checked(item, queue)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _deliver_checked(self, item: bytes | str, queue: str) -> None:
        try:
            payload = self._checked(item)
        except BadMessage as error:
            self._bury(item, queue, str(error))
        else:
            self.connection._deliver(payload, queue)  # noqa: SLF001  # kombu's own way in

    def _checked(self, item: bytes | str) -> dict[str, Any]:
        """The element as a message that Celery can unpack. Raises `BadMessage`."""
        try:
            payload = loads(bytes_to_str(item))
            message = self.Message(payload, channel=self)
            headers, body = message.headers, message.decode()
        except Exception as exc:  # any fault at all in foreign bytes
            raise BadMessage(f"{type(exc).__name__}: {exc}") from exc
        missing = [name for name in NEEDED_HEADERS if not isinstance(headers.get(name), str)]
        if missing:
            raise BadMessage(f"the headers lack {', '.join(missing)}")
        # Celery's task protocol 2: arguments, keyword arguments, embedded options.
        if not isinstance(body, list) or len(body) != 3:
            raise BadMessage("the body is not [args, kwargs, options]")
        return dict(payload)

    def _bury(self, item: bytes | str, queue: str, reason: str) -> None:
        log.error("a message in %s cannot be read and goes to the dead list: %s", queue, reason)
        text = item.decode("utf-8", "replace") if isinstance(item, bytes) else item
        entry = json.dumps({"at": time(), "queue": queue, "reason": reason[:500], "message": text})
        with self.conn_or_acquire() as client, client.pipeline() as pipe:
            pipe.lpush(self.dead_key, entry)
            pipe.ltrim(self.dead_key, 0, MAX_DEAD - 1)
            pipe.expire(self.dead_key, DEAD_TTL_SECONDS)
            pipe.execute()


class Transport(kombu_redis.Transport):
    """Named in Celery's configuration as `broker_transport`; URLs stay `redis://`."""

    Channel = Channel


PRIVATE_NAMES = ("_brpop_read", "_flush_brpop_reauth", "Message", "do_restore", "QoS")


def check_kombu() -> None:
    """Raise `RuntimeError` when this kombu lacks a private name the channel leans on."""
    missing = [name for name in PRIVATE_NAMES if not hasattr(kombu_redis.Channel, name)]
    if missing:
        raise RuntimeError(f"this version of kombu has no {', '.join(missing)}")
