"""Kombu's Redis transport, made to lose nothing and to survive its messages.

Stock kombu pops a message and notes it as taken by a second command; who dies in between has lost
it. Here a message is taken by one script that leaves it leased (`leases`). Stock kombu requeues
what a process still runs when its connection breaks, and may end the worker on the way; here a
lease is the process's and outlives connections. And of a list element nothing but what was read and
checked (`incoming`) is handed on, where stock kombu lets a malformed one end the worker. Producers
stay stock, and a stock worker can drain the same queues.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable
from time import monotonic
from typing import Any

from kombu import serialization
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from redis.exceptions import NoScriptError, ResponseError

from visionq import channels
from visionq.contract import Lane
from visionq.names import TASK_NAME
from visionq_worker.health import Pulse
from visionq_worker.incoming import Order, Refusal, Unreadable, read_element
from visionq_worker.lease_scripts import UNREAD
from visionq_worker.leases import Leases, claimed_at
from visionq_worker.waker import Waker

log = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
"""Between looks at empty queues when nobody wakes the channel."""
PLAIN_JSON = "application/x-visionq+json"
"""Content type of the bodies that are handed on. Of `application/json` kombu would decode objects
with `__type__` in them into dates and UUIDs, or fail at it."""


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


class Channel(channels.Channel):
    """One channel to the queues. What is declared here is given by transport options.

    `gate`: says whether messages may be claimed now. `canvas_queues`: those that a message's canvas
    may go to. `default_queue`: where it goes when it names none.
    """

    QoS = QoS
    do_restore = False
    leases: Leases
    waker: Waker
    gate: Any
    pulse: Pulse
    canvas_queues: Collection[str]
    default_queue: str
    _sleeps_until = 0.0
    _commands: Any = None
    from_transport_options = (
        *channels.Channel.from_transport_options,
        "leases",
        "waker",
        "gate",
        "pulse",
        "canvas_queues",
        "default_queue",
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
        """Hand a new message on, built from what was read of this one, or dead-letter it."""
        found = read_element(
            message,
            now=claimed_at(claim),
            canvas_queues=self.canvas_queues,
            default_queue=self.default_queue,
        )
        if isinstance(found, Order) and claim.startswith(UNREAD):
            # Redis does not know whose message it is: workers that it took down would not count.
            reason = "half a surrogate pair in it, or it is nested too deeply"
            found = Refusal(id=found.id, code="invalid_task", reason=reason)
        if isinstance(found, Unreadable):
            self._dead_letter(claim, queue_name, found.reason)
            return
        try:
            self.connection._deliver(build_message(found, queue_name, claim), queue_name)  # noqa: SLF001  # kombu's own way in
        except (MemoryError, *self.connection_errors):
            self.leases.give_back(claim)
            raise
        except Exception as error:
            # kombu and Celery get nothing foreign. Whatever they fail at, it must not be the end
            # of the worker: the next one would get the same message.
            log.exception("a message in %s could not be handed on", queue_name)
            virtual.QoS.ack(self.qos, claim)
            reason = f"Celery failed at it: {type(error).__name__}: {error}"
            self._dead_letter(claim, queue_name, reason, found.id)

    def _dead_letter(self, claim: str, queue_name: str, reason: str, task_id: str = "") -> None:
        log.error("a message in %s cannot be run: %s", queue_name, reason)
        self.leases.put_aside(claim, reason, task_id)


def build_message(found: Order | Refusal, queue_name: str, claim: str) -> dict[str, Any]:
    """A message of ours for kombu, from an order or a refusal; its body is for `app.run`.

    Celery settles what it knows by the claim, and not by the sender's delivery tag: the message may
    be delivered again while this delivery still runs.
    """
    headers: dict[str, Any] = {
        "lang": "py",
        "task": TASK_NAME,
        "id": found.id,
        "root_id": None,
        "parent_id": None,
        "group": found.group,
        "group_index": found.group_index,
        "retries": 0,
        "timelimit": [None, None],
        "ignore_result": False,
        "argsrepr": "()",
        "kwargsrepr": "{}",
    }
    if isinstance(found, Order):
        headers |= {
            "root_id": found.root_id,
            "parent_id": found.parent_id,
            "ignore_result": found.ignores_result,
        }
        kwargs: dict[str, Any] = {"task": found.task}
        if found.deadline is not None:
            kwargs["deadline"] = found.deadline
        if found.delay_seconds:
            lane = queue_name.rpartition(".")[2]
            kwargs |= {"delay_seconds": found.delay_seconds, "lane": lane}
    else:
        refusal = {"code": found.code, "reason": found.reason, "is_letter": found.is_letter}
        kwargs = {"refusal": refusal}
    return {
        "body": json.dumps([[], kwargs, found.canvas.as_embedded()]),
        "content-type": PLAIN_JSON,
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": {
            "correlation_id": found.id,
            "delivery_tag": claim,
            "delivery_info": {"exchange": "", "routing_key": queue_name},
            "delivery_mode": 2,
            "priority": 0,
        },
    }


def register_plain_json() -> None:
    """Make `PLAIN_JSON` known to kombu's registry, which is the process's."""
    serialization.register(
        "visionq-json", json.dumps, json.loads, PLAIN_JSON, content_encoding="utf-8"
    )


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


class Transport(channels.Transport):
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
