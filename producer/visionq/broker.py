"""Putting tasks into the queue: Celery's own message, published by kombu. The door to both.

The message is built by Celery (`as_task_v2`) and routed by kombu, so any Celery worker and tool
reads it. What is left out is `apply_async`'s per-task extras: with the Redis result backend it
subscribes to every task's channel and never reads the replies of those nobody waits for.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

from celery import Celery
from kombu.connection import ConnectionPool
from kombu.exceptions import KombuError, OperationalError
from kombu.pools import ProducerPool
from redis import RedisError

from visionq.broker_urls import BrokerAddress, as_address
from visionq.connections import NoHashTag, WrongServer
from visionq.contract import Lane, Task, dump
from visionq.errors import BrokerUnavailable, HashTagMissing
from visionq.names import TASK_NAME, Names
from visionq.per_process import PerProcess
from visionq.redaction import redacted
from visionq.refusals import broker_error
from visionq.tls import tls_advice

MAX_PRODUCERS = 10
"""Threads that publish at once; a further one waits for its turn."""

BATCH_SIZE = 1000
"""Messages per round trip of `publish_many`."""

_SENT_AGAIN = MappingProxyType(
    {
        **{name: name for name in ("callbacks", "errbacks", "chain", "chord")},
        **{name: name for name in ("root_id", "parent_id", "group_index", "ignore_result")},
        "group": "group_id",
    }
)
"""What a message carries besides its task, and Celery's word for it where one is built."""


class _Connections(ConnectionPool):  # type: ignore[misc]
    """kombu's, usable in a forked child too: redis-py sees the fork and connects anew."""

    close_after_fork = False


class _Producers(ProducerPool):  # type: ignore[misc]
    """As `_Connections`."""

    close_after_fork = False


class _Doors:
    """An application, which builds messages, and a pool of connections, which is empty yet."""

    def __init__(self, broker: BrokerAddress, timeout_seconds: float) -> None:
        self.app = Celery("visionq-producer", broker=broker.celery_url, set_as_current=False)
        self.app.conf.update(
            task_serializer="json",
            broker_transport="visionq.channels:Transport",
            broker_transport_options={
                "broker": broker,
                "socket_timeout": timeout_seconds,
                "socket_connect_timeout": timeout_seconds,
                "socket_keepalive": True,
                # kombu would try to connect for ever
                "max_retries": 0,
            },
        )
        connection = self.app.connection_for_write()
        # What Celery and kombu import when they are first used, and build for good.
        _ = self.app.amqp, connection.get_transport_cls()
        self.producers = _Producers(
            _Connections(connection, limit=MAX_PRODUCERS), limit=MAX_PRODUCERS
        )

    def close(self) -> None:
        self.producers.force_close_all()
        self.producers.connections.force_close_all()
        self.app.close()


class Publisher:
    """Publishes tasks to their lane's queue. Thread-safe: producers come from a pool.

    The pool is our own. Celery's is shared by all apps of the process with the same URL, and is
    left open when an app is closed.

    Both methods raise `BrokerUnavailable`; after that it is uncertain whether the message is in
    the queue, and publishing the same task again is safe.
    """

    def __init__(
        self, broker: str | BrokerAddress, names: Names, *, timeout_seconds: float
    ) -> None:
        self._names = names
        address = as_address(broker).for_namespace(names.namespace)
        self._doors = PerProcess(partial(_Doors, address, timeout_seconds), _Doors.close)

    def publish(self, task: Task, options: Mapping[str, Any] | None = None) -> None:
        """`options`: Celery's, of the message that a foreign sender had sent (`_SENT_AGAIN`)."""
        self._send(lambda app, producer: self._publish(app, producer, task, options or {}))

    def publish_again(self, task_id: str, task: Mapping[str, Any], options: object) -> None:
        """The same for a task as its record has it, whatever version that is of."""
        given = options if isinstance(options, Mapping) else {}
        lane = str(task.get("lane", Lane.INTERACTIVE))
        self._send(
            lambda app, producer: self._publish_one(app, producer, task_id, lane, task, given)
        )

    def publish_many(self, tasks: Sequence[Task]) -> None:
        """`publish` for many tasks, one round trip per `BATCH_SIZE`."""
        self._send(partial(self._publish_many, tasks))

    def close(self) -> None:
        """As redis-py's: a call after this connects again."""
        self._doors.close()

    def _send(self, send: Callable[[Celery, Any], None]) -> None:
        """Once more where the server was the primary no longer: it has taken nothing, or refused
        what came after it."""
        with _mapped_errors(), self._doors.use() as doors:
            try:
                self._send_once(doors, send)
            except (RedisError, KombuError) as error:
                if not isinstance(error, WrongServer) and not isinstance(
                    error.__cause__, WrongServer
                ):
                    raise
                self._send_once(doors, send)

    def _send_once(self, doors: _Doors, send: Callable[[Celery, Any], None]) -> None:
        with doors.producers.acquire(block=True) as producer:
            send(doors.app, producer)

    def _publish_many(self, tasks: Sequence[Task], app: Celery, producer: Any) -> None:
        if not producer.supports_batch_publish:
            raise BrokerUnavailable("kombu has switched batch publishing off for this broker")
        with producer.batch(max_size=BATCH_SIZE):
            for task in tasks:
                self._publish(app, producer, task)

    def _publish(
        self,
        app: Celery,
        producer: Any,
        task: Task,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._publish_one(app, producer, task.id, task.lane, dump(task), options)

    def _publish_one(
        self,
        app: Celery,
        producer: Any,
        task_id: str,
        lane: str,
        task: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        message = app.amqp.as_task_v2(
            task_id,
            TASK_NAME,
            kwargs={"task": task},
            # The reprs would copy the question into the headers, for every tool to show.
            argsrepr="()",
            kwargsrepr="{}",
            **{_SENT_AGAIN[name]: value for name, value in options.items() if name in _SENT_AGAIN},
        )
        producer.publish(
            message.body,
            exchange="",
            routing_key=self._names.queue(lane),
            serializer="json",
            headers=message.headers,
            **message.properties,
        )


def tls_conf(url: str) -> dict[str, Any]:
    """Celery's settings for `rediss://`, which without them checks no certificate.

    Empty for `redis://`.
    """
    if not url.startswith("rediss://"):
        return {}
    check = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    return {"broker_use_ssl": check, "redis_backend_use_ssl": check}


@contextmanager
def _mapped_errors() -> Iterator[None]:
    try:
        yield
    except NoHashTag as exc:
        raise HashTagMissing(str(exc)) from exc
    except (KombuError, OperationalError, RedisError, OSError) as exc:
        if isinstance(exc.__cause__, NoHashTag):  # of a batch
            raise HashTagMissing(str(exc.__cause__)) from exc
        said = redacted(f"{type(exc).__name__}: {exc}")
        if advice := tls_advice(exc):
            said = f"{said.rstrip('.')}; {advice}"
        raise broker_error(exc, f"publishing failed: {said}") from exc
