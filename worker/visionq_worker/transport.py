"""Kombu's Redis transport, made to lose nothing and to survive its messages.

Stock kombu pops a message and notes it as taken by a second command; who dies in between has lost
it. Here a message is taken by one script that leaves it leased (`leases`). Stock kombu requeues
what a process still runs when its connection breaks, and may end the worker on the way; here a
lease is the process's and outlives connections. And a list element that is no Celery message goes
to the dead ones with its reason, where stock kombu lets it end the worker. Producers stay stock,
and a stock worker can drain the same queues.
"""

from __future__ import annotations

import json
import logging
from base64 import b64decode
from collections.abc import Iterable
from time import monotonic
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from redis.exceptions import NoScriptError, ResponseError

from visionq.contract import Lane
from visionq.names import TASK_NAME
from visionq_worker.health import Pulse
from visionq_worker.leases import Leases
from visionq_worker.waker import Waker

log = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
"""Between looks at empty queues when nobody wakes the channel."""
KEPT_HEADERS = ("lang", "task", "id", "root_id", "parent_id", "group", "origin")
"""What Celery needs of a message's headers, all of them strings or null. The rest is dropped: a
time limit or an ETA would be carried out, and badly, by a worker of threads."""
EMBEDDED = {"callbacks": list, "errbacks": list, "chain": list, "chord": dict}


class BadMessage(ValueError):
    """A list element that cannot be a task message; the text is the reason."""


class QoS(kombu_redis.QoS):
    """Settles messages through the process's leases and not through the channel."""

    restore_at_shutdown = False

    def append(self, message: Any, delivery_tag: str) -> None:
        # The claim has written down already what kombu would note here.
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        self.channel.leases.ack(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        leases = self.channel.leases
        settle = leases.give_back if requeue else leases.ack
        settle(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Kombu's look at what is overdue; the keeper's sweep does that."""


class Channel(kombu_redis.Channel):
    """One channel to the queues. `leases`, `waker`, `gate` and `pulse` are transport options.

    `gate`: says whether messages may be claimed now.
    """

    QoS = QoS
    do_restore = False
    leases: Leases
    waker: Waker
    gate: Any
    pulse: Pulse
    _sleeps_until = 0.0
    _commands: Any = None
    from_transport_options = (
        *kombu_redis.Channel.from_transport_options,
        "leases",
        "waker",
        "gate",
        "pulse",
    )

    def wake(self) -> None:
        """There is something in the queues."""
        self._sleeps_until = 0.0

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

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """Note which queue an exchange feeds: for producers, who note it for themselves, too."""
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)
        except ResponseError as error:
            # Redis is full, or cannot write. Messages are taken out of a queue without that.
            log.warning("the queue %s is not bound: %s", queue, error)

    def _brpop_start(self, timeout: float | None = None) -> None:  # noqa: ARG002  # kombu's
        """Send the claim, where kombu would send BRPOP, unless there is nothing to be had."""
        if monotonic() < self._sleeps_until or not self.gate():
            return
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        keys = [self._q_for_pri(name, step) for step in self.priority_steps for name in queues]
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        self.client.connection.send_command(*self.leases.claim_command(keys))
        self.pulse.claim_sent()

    def _brpop_read(self, **options: Any) -> bool:
        """Read the answer to the claim; True when a message was taken from a queue."""
        try:
            try:
                answer = self.client.parse_response(self.client.connection, "EVALSHA", **options)
            except NoScriptError:
                self.leases.load_claim()
                raise kombu_redis.Empty from None
            except ResponseError as error:
                # A Redis that is full, or cannot write, refuses the claim, and a later one may not.
                log.warning("nothing can be claimed: %s", error)
                self._sleeps_until = monotonic() + IDLE_SECONDS
                raise kombu_redis.Empty from None
            except self.connection_errors:
                # The next poll reconnects.
                self.client.connection.disconnect()
                raise
            if not answer:
                self._sleeps_until = monotonic() + IDLE_SECONDS
                self.waker.arm()
                raise kombu_redis.Empty
            key, message, claim, is_suspect = answer
            claim, queue_name = bytes_to_str(claim), bytes_to_str(key).rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue_name)
            self.leases.took(claim, is_suspect=bool(is_suspect))
            self._deliver_checked(message, queue_name, claim)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _deliver_checked(self, message: bytes, queue_name: str, claim: str) -> None:
        try:
            payload = self._checked(message)
        except BadMessage as error:
            log.error("a message in %s cannot be run: %s", queue_name, error)
            self.leases.put_aside(claim, str(error))
            return
        # Celery settles what it knows by this tag: the claim, and not the message, which may be
        # delivered again while this delivery still runs.
        payload["properties"]["delivery_tag"] = claim
        self.connection._deliver(payload, queue_name)  # noqa: SLF001  # kombu's own way in

    def _checked(self, item: bytes) -> dict[str, Any]:
        """The element as a message that Celery can unpack. Raises `BadMessage`."""
        try:
            payload = json.loads(item)
            headers, body = payload.get("headers") or {}, _usual_body(payload)
            if body is None:
                body = self.Message(payload, channel=self).decode()
        except Exception as exc:  # any fault at all in foreign bytes
            raise BadMessage(f"{type(exc).__name__}: {exc}") from exc
        _check_body(body)
        return {**payload, "headers": _checked_headers(headers)}


def _usual_body(payload: dict[str, Any]) -> Any:
    """The body as it mostly comes; None for any other, and for one with values of kombu's own.

    Kombu decodes it once more for Celery. Doing so here, too, would cost as much as taking the
    message from Redis.
    """
    form = (payload.get("content-type"), payload.get("content-encoding"))
    properties, headers = payload["properties"], payload["headers"]
    is_usual = form == ("application/json", "utf-8") and not headers.get("compression")
    if not is_usual or properties.get("body_encoding") != "base64":
        return None
    body = b64decode(payload["body"])
    return None if b"__type__" in body else json.loads(body)


def _checked_headers(headers: object) -> dict[str, Any]:
    """Those that Celery needs. Raises `BadMessage`, also for a task that is not ours."""
    if not isinstance(headers, dict):
        raise BadMessage("the headers are no object")
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


class LaneOrder:
    """The order in which queues are looked at, in the interface of kombu's cycles.

    By the rank of their lanes, but now and then the other way round: so bulk tasks have
    `bulk_share` of the looks at least, however many interactive ones there are.
    """

    def __init__(self, queues: Iterable[str] = (), *, bulk_share: float = 0.0) -> None:
        self._queues = sorted(queues, key=_rank)
        self._bulk_share = bulk_share
        self._due = 0.0

    def update(self, queues: Iterable[str]) -> None:
        self._queues = sorted(queues, key=_rank)

    def consume(self, num_queues: int) -> list[str]:
        is_bulks_turn = self._due >= 1.0
        return (self._queues[::-1] if is_bulks_turn else self._queues)[:num_queues]

    def rotate(self, last_used: str) -> None:  # noqa: ARG002  # kombu hands it over
        """A message was taken from this queue."""
        self._due = self._due % 1.0 + self._bulk_share


def _rank(queue_name: str) -> tuple[int, str]:
    lanes = [str(lane) for lane in Lane]
    lane = queue_name.rpartition(".")[2]
    return (lanes.index(lane) if lane in lanes else len(lanes), queue_name)


class Transport(kombu_redis.Transport):
    """Named in Celery's configuration as `broker_transport`; URLs stay `redis://`."""

    Channel = Channel

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        super().register_with_event_loop(connection, loop)
        options = connection.client.transport_options
        waker: Waker = options["waker"]
        pulse: Pulse = options["pulse"]

        def wake() -> None:
            waker.clear()
            for channel in self.cycle._channels:  # noqa: SLF001  # kombu has no other list of them
                channel.wake()

        loop.add_reader(waker.fileno(), wake)
        # The loop's next turn looks at the queues; without an event there might be none.
        loop.call_repeatedly(IDLE_SECONDS, pulse.loop_turned)


PRIVATE_NAMES = (
    "_brpop_start",
    "_brpop_read",
    "_create_client",
    "_flush_brpop_reauth",
    "_q_for_pri",
    "_queue_bind",
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
