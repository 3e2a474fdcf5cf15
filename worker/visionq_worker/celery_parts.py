"""Celery's consumer, events, thread pool and result backend, each with one thing done otherwise."""

from __future__ import annotations

import json
import logging
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from time import sleep
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.backends.redis import RedisBackend
from celery.concurrency.thread import TaskPool
from celery.events.dispatcher import EventDispatcher
from celery.exceptions import Reject
from celery.states import SUCCESS
from celery.worker.consumer import Consumer as CeleryConsumer
from redis import RedisError

from visionq.connections import connect
from visionq.refusals import is_for_good

if TYPE_CHECKING:
    from visionq_worker.leases import Leases
    from visionq_worker.outage_log import OutageLog

log = logging.getLogger(__name__)

RECONNECT_PAUSES = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": 2.0}
"""Seconds between tries to connect to a Redis that is away, in kombu's words."""
REFUSED_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8)
"""Seconds between tries to store Celery's result in a Redis that refuses it."""
FORBIDDEN_SECONDS = 1.0
"""Between tries while access rules forbid a worker everything."""

MAX_UNSENT_EVENTS = 100
"""Heartbeats and the like that Redis did not take; the newest are kept."""

SENT_ON = ("root_id", "parent_id", "group", "group_index", "ignore_result")
CANVAS = ("callbacks", "errbacks", "chain", "chord")


def celery_options(request: Any) -> str | None:
    """What a message says besides its task, as JSON; None when that is what every message says.

    A task that is sent again from its record has to be sent with these.
    """
    said = {name: getattr(request, name) for name in CANVAS if getattr(request, name)}
    for name in SENT_ON:
        value = getattr(request, name)
        # A task of no other one is its own root.
        is_usual = value is None or value is False or (name == "root_id" and value == request.id)
        if not is_usual:
            said[name] = value
    return json.dumps(said) if said else None


class Consumer(CeleryConsumer):  # type: ignore[misc]
    """Comes back soon after an outage, of which it logs little, and listens to no other worker.

    Celery's pauses between two tries to connect grow to half a minute, and no setting changes that.
    Its gossip and mingle, which only flags switch off, hand anybody's messages to the event loop,
    which does not outlive those that it cannot unpack.
    """

    def __init__(
        self, *args: Any, worker_options: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        # At every lost connection it says that tasks are cancelled or sent again; none is here.
        # Celery lets all warnings of the kind through when it sets logging up, which is before.
        warnings.filterwarnings("ignore", message=r"\s*In Celery 5\.1 we introduced")
        alone = {"without_gossip": True, "without_mingle": True}
        super().__init__(*args, worker_options={**(worker_options or {}), **alone}, **options)

    def ensure_connected(self, conn: Any) -> Any:
        connect = partial(conn.ensure_connection, **RECONNECT_PAUSES)
        outage: OutageLog = self.app.visionq_service.connect_outage

        def ensure_connection(_: object, *args: Any, **options: Any) -> Any:
            """With a log of ours in place of Celery's, which has a line for each try."""
            connected = connect(lambda error, _: outage.failed(error), *args, **options)
            outage.worked()
            return connected

        conn.ensure_connection = ensure_connection
        return super().ensure_connected(conn)


class Dispatcher(EventDispatcher):  # type: ignore[misc]
    """Keeps some of the events that could not be sent.

    Celery keeps them all until there is a new connection. Where access rules forbid the channel,
    that is never, and each heartbeat is one more.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._outbound_buffer: deque[Any] = deque(maxlen=MAX_UNSENT_EVENTS)


class Backend(RedisBackend):  # type: ignore[misc]
    """Results in Redis, written without reading first, and by a Redis that was full, too.

    Celery looks whether a success is stored already, lest a late attempt overwrites it. Here no
    late attempt gets so far, its fence being stale. And where Redis refuses the success, Celery
    would store a failure; here it is asked again for `sum(REFUSED_PAUSES)` seconds, unless its
    access rules forbid it, and then gone without: the task's record and its result object say what
    became of it. An answer's message is settled in the same step, which spares a round trip.
    """

    _is_reported = False

    def _create_client(self, **_: Any) -> Any:
        """Ours, which finds the primary; what Celery has read from its URL is for its logs."""
        broker = self.app.visionq_service.settings.broker
        return connect(broker.address(), timeout_seconds=broker.timeout_seconds, gives_text=False)

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **_: Any,
    ) -> Any:
        meta = self._get_result_meta(
            result=result, state=state, traceback=traceback, request=request
        )
        meta["task_id"] = task_id
        key, value = self.get_key_for_task(task_id), self.encode(meta)
        claim = _claim_done(request) if state == SUCCESS else None
        for pause in REFUSED_PAUSES:
            try:
                self._write_when_allowed(key, value, state, claim)
            except RedisError as error:
                if is_for_good(error):
                    self._report_once(key, error)
                    break
                self._outage.failed(error, task_id=task_id)
                sleep(pause)
            else:
                self._outage.worked()
                break
        else:
            log.error(
                "Celery's result of task %s is not stored, as Redis refused it for %g s: its"
                " AsyncResult stays PENDING, while its record and its result object are right; act"
                " if Redis is full, and have whoever waits for it use visionq's status",
                task_id,
                sum(REFUSED_PAUSES),
            )
        return result

    @property
    def _outage(self) -> OutageLog:
        """Celery makes a backend for each thread; an outage is the process's."""
        outage: OutageLog = self.app.visionq_service.celery_outage
        return outage

    def _write_when_allowed(self, key: str, value: str, state: str, claim: str | None) -> None:
        """Where access rules forbid all that the worker does, it waits until they do so no longer:
        its message could not be settled either. Raises what Redis says of Celery's result only.
        """
        leases: Leases = self.app.visionq_service.leases
        while True:
            try:
                return self._write(key, value, state, claim)
            except RedisError as error:
                if not is_for_good(error) or leases.may_settle():
                    raise
            sleep(FORBIDDEN_SECONDS)

    def _report_once(self, key: str, error: RedisError) -> None:
        """It is so for all tasks."""
        if not self._is_reported:
            log.error(
                "Redis does not allow this worker to store Celery's results, as %s: %s; tasks are"
                " answered all the same, and AsyncResult stays PENDING: allow it"
                " (SECURITY.md, ACL SETUSER) if you use that",
                key,
                error,
            )
        self._is_reported = True

    def _write(self, key: str, value: str, state: str, claim: str | None) -> None:
        if claim is None:
            self._set_with_state(key, value, state)
            return
        leases: Leases = self.app.visionq_service.leases
        # Celery's own patience with a Redis that is away, as `_set_with_state` has it.
        self.ensure(leases.ack_with_result, (claim, key, value, self.expires))


def _claim_done(request: Any) -> str | None:
    """The claim that ends with this success; None where Celery has more to do for a sender."""
    if request is None or request.chord:
        return None
    properties: Mapping[str, str] = request.properties or {}
    return properties.get("delivery_tag")


class Pool(TaskPool):  # type: ignore[misc]
    """Threads that settle a task's message themselves, in any case, and before Celery does.

    Celery would do it in its event loop: when Redis is slow, and many tasks end at once, the loop
    would come to the replies of its claims when their leases are over. And it loses an exception of
    its own tracing, which need not be the task's: an errback of a foreign sender may be none. The
    message would stay claimed, and its slot taken, for as long as the worker lives.
    """

    def on_apply(self, target: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return super().on_apply(partial(self._trace, target), *args, **options)

    def _trace(
        self, target: Callable[..., Any], task: Any, task_id: str, request: Any, *args: Any
    ) -> Any:
        """What Celery's tracing returns: is it a failure, what came out, seconds.

        If a task is not done after a failure of the tracing itself, its record says so, and the
        reconciler sends it again.
        """
        try:
            outcome = target(task, task_id, request, *args)
        except Exception as error:
            log.exception(
                "Celery could not end task %s: what its message asks for besides, a chain or an"
                " errback, may be malformed; the task's own record and result are right: mend"
                " whoever sent it",
                task_id,
            )
            outcome = 1, _as_failure(error), 0.0
        if not _is_rejected(outcome):
            self.app.visionq_service.leases.ack(request["properties"]["delivery_tag"])
        return outcome


def _is_rejected(outcome: Any) -> bool:
    """Whether the message goes back, which is Celery's to do."""
    is_failed, value, _ = outcome
    error = value.exception if is_failed else None
    return isinstance(error.exc if isinstance(error, ExceptionWithTraceback) else error, Reject)


def _as_failure(error: Exception) -> ExceptionInfo:
    try:
        raise RuntimeError(f"Celery could not end the task: {error}") from None
    except RuntimeError:
        return ExceptionInfo(internal=True)
