"""The Celery application: one task, a thread pool, and a model loaded before consuming begins.

With `celery_parts` the only door to Celery on the worker's side. `celery -A visionq_worker.app
worker` finds `app` here; `visionq-worker run` builds the same application with its own flags.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import sleep
from typing import TYPE_CHECKING, Any

from celery import Celery, Task, bootsteps, signals
from celery.exceptions import Ignore, Reject, TaskRevokedError
from celery.states import REVOKED
from celery.worker import state as worker_state
from kombu import Queue

from visionq.broker import tls_conf
from visionq.contract import FailureCode, Lane, Result, State, encode_new, is_task_id, read_task
from visionq.contract import Task as ImageTask
from visionq.errors import (
    InvalidTask,
    ObjectMissing,
    StorageError,
    TaskExpired,
    TaskFailed,
    UnsupportedVersion,
)
from visionq.names import TASK_NAME, result_key
from visionq.redaction import RedactingFormatter
from visionq.settings import Settings, load_settings
from visionq_worker.celery_parts import Backend, Consumer, Dispatcher, Pool, celery_options
from visionq_worker.cpu import set_up_cpu
from visionq_worker.errors import Postponed, StartError, TaskError
from visionq_worker.executor import STUB_KIND
from visionq_worker.health import Health
from visionq_worker.inspection import answers_of
from visionq_worker.leases import claimed_at
from visionq_worker.loading import load_engine
from visionq_worker.service import Service
from visionq_worker.transport import PLAIN_JSON, LaneOrder, check_kombu, register_plain_json

if TYPE_CHECKING:
    from visionq_worker.engine.request import Engine

log = logging.getLogger(__name__)

EXIT_START = 3
"""Exit code of a worker that could not start; it has taken no message."""
EXIT_BROKEN = 70
"""Exit code of a worker whose device hangs or is spoilt: its supervisor has to start it anew."""
EXIT_STUCK = 75
"""Exit code of a worker whose connections or event loop stand still although Redis takes writes."""
GIVE_BACK_SECONDS = 5.0
"""How long such a worker has, beyond `retry_seconds`, to put its tasks back into the queue."""


class ServiceStep(bootsteps.StartStopStep):
    """Opens the service before the consumer exists and closes it after the pool has finished."""

    label = "visionq"

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._service: Service = worker.app.visionq_service
        pool = worker.pool_cls.__module__
        if not pool.endswith(".thread"):
            log.critical(
                "cannot start: visionq needs the thread pool; start it with"
                " `celery worker --pool threads`"
            )
            raise SystemExit(EXIT_START)
        worker.pool_cls = Pool
        # Not in a `stop` of this step: Celery starts, and so stops, steps without a dependency in
        # any order, and tasks that still run in the pool need the engine.
        signals.worker_shutdown.connect(self._close, sender=worker, weak=False)
        signals.worker_shutting_down.connect(self._limit_grace, weak=False)

    def start(self, worker: Any) -> None:
        # Celery notes a SIGTERM and looks at it when it consumes; loading can take minutes.
        finish_later = signal.signal(signal.SIGTERM, _leave_at_once)
        try:
            self._service.open()
            self._service.listen(worker.hostname, answers_of(worker))
        except StartError as error:
            log.critical("cannot start: %s", error)
            raise SystemExit(EXIT_START) from error
        finally:
            signal.signal(signal.SIGTERM, finish_later)

    def _close(self, **_: Any) -> None:
        self._service.close()

    def _limit_grace(self, **_: Any) -> None:
        """Told to stop: no more is claimed, and what is in hand has so long to be finished."""
        seconds = self._service.settings.worker.grace_seconds
        log.info("told to stop: %d tasks in hand, %g s for them", self._service.stop(), seconds)
        leaving = threading.Timer(seconds, self._service.leave)
        leaving.daemon = True
        leaving.start()


def _leave_at_once(*_: object) -> None:
    log.info("told to stop while starting; no message was taken")
    raise SystemExit(0)


def build_app(settings: Settings, load: Callable[[], Engine] | None = None) -> Celery:
    """The application for these settings. `load` makes the engine, if not the settings' model."""
    check_kombu()
    if not set_up_cpu(settings.engine.cpu_threads, settings.engine.cpu_wait):
        log.debug("torch was imported before: engine.cpu_threads and engine.cpu_wait do nothing")
    register_plain_json()
    for set_up in (signals.after_setup_logger, signals.after_setup_task_logger):
        set_up.connect(_redact)
    names = settings.broker.names()
    url = settings.broker.address().celery_url
    backend = f"{Backend.__module__}:{Backend.__name__}+{url}"
    app = Celery("visionq", broker=url, backend=backend, set_as_current=False)
    queues = [names.queue(lane) for lane in Lane]
    service = Service(
        settings,
        load or (lambda: _load(settings)),
        on_stuck=lambda health, reason: leave_stuck(service, health, reason),
    )
    app.visionq_service = service
    app.conf.update(
        _conf(settings),
        task_queues=[Queue(name, routing_key=name) for name in queues],
        task_default_queue=names.queue(Lane.INTERACTIVE),
        result_backend_transport_options={"global_keyprefix": names.celery_prefix()},
        control_exchange=names.control_exchange(),
        event_exchange=names.event_exchange(),
        broker_transport="visionq_worker.transport:Transport",
        broker_transport_options={
            "broker": settings.broker.address(),
            "queue_order_strategy": partial(LaneOrder, bulk_share=settings.worker.bulk_share),
            "leases": service.leases,
            "waker": service.waker,
            "gate": service.may_claim,
            "pulse": service.pulse,
            "claim_outage": service.claim_outage,
            "canvas_queues": frozenset(settings.worker.canvas_queues),
            "default_queue": names.queue(Lane.INTERACTIVE),
            "socket_timeout": 5,
            "socket_connect_timeout": settings.broker.timeout_seconds,
            "socket_keepalive": True,
            "health_check_interval": 5,
        },
    )
    app.events.dispatcher_cls = f"{Dispatcher.__module__}:{Dispatcher.__name__}"
    app.steps["worker"].add(ServiceStep)
    app.task(
        bind=True,
        name=TASK_NAME,
        throws=(TaskFailed, TaskExpired),
        # A canvas may lead back to this task; what it is called with is checked when it comes.
        typing=False,
        # Celery logs what a task returns; the model's text is not for logs.
        resultrepr_maxsize=1,
    )(run)
    return app


def _redact(logger: logging.Logger, **_: Any) -> None:
    """Of Celery's command line; `visionq-worker` has set up its own logging."""
    for handler in logger.handlers:
        if not isinstance(handler.formatter, RedactingFormatter):
            handler.setFormatter(RedactingFormatter(handler.formatter or logging.Formatter()))


def _load(settings: Settings) -> Engine:
    seconds = settings.worker.retry_seconds + GIVE_BACK_SECONDS
    return load_engine(settings.model, settings.engine, on_broken=lambda: leave_broken(seconds))


def leave_broken(seconds: float) -> None:
    """Take no more messages and leave when the tasks in hand are given back.

    After so many seconds in any case, by a way that waits for nobody.
    """
    log.critical(
        "the device is out of order: the tasks in hand are given back, and the worker ends with"
        " code %d in %.1f s at the latest; its supervisor has to start it anew",
        EXIT_BROKEN,
        seconds,
    )
    worker_state.should_stop = EXIT_BROKEN
    leaving = threading.Timer(seconds, os._exit, (EXIT_BROKEN,))
    leaving.daemon = True
    leaving.start()


def leave_stuck(service: Service, health: Health, reason: str) -> None:
    """End this process, because a new one could do what it cannot.

    What is in hand may be finished as long as it could be reported; else others have it by now.
    """
    seconds = service.settings.worker.grace_seconds if health.may_report else 0.0
    num_in_hand = service.stop()
    log.critical(
        "%s; the worker ends with code %d, for its supervisor to start it anew, in %g s at the"
        " latest, and gives back what is left of %d tasks: nothing to do unless it happens again",
        reason,
        EXIT_STUCK,
        seconds,
        num_in_hand,
    )
    worker_state.should_stop = EXIT_STUCK
    leaving = threading.Timer(seconds, service.leave, (EXIT_STUCK,))
    leaving.daemon = True
    leaving.start()


def run(
    self: Task,
    *,
    task: object = None,
    deadline: float | None = None,
    delay_seconds: float = 0.0,
    lane: str | None = None,
    refusal: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The Celery task, with what the transport has read of its message (`build_message`).

    `deadline`: seconds since the epoch, where the message has such an option. `delay_seconds`:
    until the task may start. `lane`: where it waits then, if it does not say so itself. `refusal`:
    why the message is not run.
    """
    service: Service = self.app.visionq_service
    task_id = str(self.request.id)
    if refusal is not None:
        return _refuse(self, task_id, **refusal)
    canvas = celery_options(self.request)
    try:
        with service.throughput.task():
            if delay_seconds and isinstance(task, dict) and lane in tuple(Lane):
                task = {"lane": lane, **task}
            result = _execute(self, task, deadline, delay_seconds, canvas)
    except UnsupportedVersion as error:
        result = _defer(self, task, error, canvas)
    except Postponed as error:
        raise _back(self, error) from error
    return _tell_celery(self, task_id, result)


def _defer(self: Task, data: object, error: UnsupportedVersion, canvas: str | None) -> State:
    """Leave a newer task to a worker that reads it: raises `Ignore`. Its state if it has ended.

    It goes with its message as that was sent; the reconciler ends it when there is no such worker.
    """
    service: Service = self.app.visionq_service
    task_id = str(self.request.id)
    try:
        state = service.executor.other_state(task_id)
    except Postponed as postponed:
        raise _back(self, postponed) from postponed
    if state.is_final:
        return state
    log.info("task %s is left to a newer worker: %s", task_id, error)
    lane = self.request.delivery_info["routing_key"].rpartition(".")[2]
    told = {"lane": lane, **data} if isinstance(data, dict) else {}
    claim = self.request.properties["delivery_tag"]
    task = json.dumps({**told, "id": task_id})
    service.leases.defer(claim, error.version, task, canvas or "{}")
    raise Ignore


def _back(self: Task, error: Postponed) -> Ignore | Reject:
    """What to raise for a task that is to be started again later."""
    service: Service = self.app.visionq_service
    if error.is_strike:
        service.leases.strike(self.request.properties["delivery_tag"], str(error))
    if error.is_noted or error.is_strike:
        return Ignore()
    sleep(service.settings.worker.retry_seconds)
    return Reject(str(error), requeue=True)


def _execute(
    self: Task, data: object, deadline: float | None, delay_seconds: float, canvas: str | None
) -> Result | State:
    """Answer the task, or leave it to its record until it may start: then raises `Ignore`."""
    service: Service = self.app.visionq_service
    executor, task_id = service.executor, str(self.request.id)
    try:
        task = _read(task_id, data, deadline)
    except UnsupportedVersion:
        raise
    except InvalidTask as error:
        return executor.refuse(task_id, error)
    if not delay_seconds:
        if canvas is not None:
            executor.keep_options(task_id, canvas)
        return executor.execute(task)
    start_at = claimed_at(self.request.properties["delivery_tag"]) + delay_seconds
    if task.deadline is not None and task.deadline <= start_at:
        message = "the deadline comes before the time of its start"
        return executor.end(task, TaskError(FailureCode.EXPIRED, message))
    # Kept in any case: whoever sent it knows of no record, and is to be told by Celery's result.
    executor.keep_options(task_id, canvas or "{}")
    if ended := executor.delay(task, delay_seconds):
        return ended
    raise Ignore


def _read(task_id: str, data: object, deadline: float | None) -> ImageTask:
    task = read_task(data, task_id=task_id)
    if deadline is None or (task.deadline is not None and task.deadline <= deadline):
        return task
    task = replace(task, deadline=deadline)
    encode_new(task)  # which adds to its size
    return task


def _refuse(self: Task, task_id: str, *, code: str, reason: str, is_letter: bool) -> dict[str, Any]:
    """End a message that cannot be run, so that whoever waits for it is told.

    A task that the same id has a record of is not this message's to end: it is sent again from the
    record, if need be.
    """
    service: Service = self.app.visionq_service
    log.error(
        "the message of task %s is refused: %s; the task fails, or its message is dead-lettered:"
        " mend whoever sent it",
        task_id,
        reason,
    )
    claim = self.request.properties["delivery_tag"]
    try:
        # Only such an id can have a record.
        state = service.executor.other_state(task_id) if is_task_id(task_id) else State.UNKNOWN
        if state is not State.UNKNOWN and (is_letter or not state.is_final):
            service.leases.put_aside(claim, reason, task_id)
            raise Ignore
        if is_letter:
            self.backend.mark_as_failure(task_id, TaskFailed(reason, code), request=self.request)
            service.leases.put_aside(claim, reason, task_id)
            raise Ignore
        error = TaskError(FailureCode(code), reason)
        stub = ImageTask(id=task_id, kind=STUB_KIND, images=())
        result = state if state.is_final else service.executor.end(stub, error)
    except UnsupportedVersion as error:
        result = _defer(self, None, error, None)
    except Postponed as error:
        raise _back(self, error) from error
    return _tell_celery(self, task_id, result)


def _tell_celery(self: Task, task_id: str, outcome: Result | State) -> dict[str, Any]:
    """End the Celery task so that `AsyncResult(id)` says the same as the record."""
    state = outcome if isinstance(outcome, State) else outcome.state
    if state is State.REVOKED:
        # `mark_as_revoked` would leave those waiting who wait for the end of a chain.
        self.backend.mark_as_failure(
            task_id,
            TaskRevokedError("cancelled"),
            request=self.request,
            store_result=not self.request.ignore_result,
            call_errbacks=False,
            state=REVOKED,
        )
        raise Ignore
    if not isinstance(outcome, Result):
        # A second delivery of a task that is done; the first may have ended before it told Celery.
        outcome = _stored(self, task_id)
    if outcome.failure is not None:
        failure = outcome.failure
        if state is State.EXPIRED:
            raise TaskExpired(failure.message)
        raise TaskFailed(failure.message, failure.code, failure.retryable)
    return {"result_key": result_key(task_id), "text": outcome.text, "value": outcome.value}


def _stored(self: Task, task_id: str) -> Result:
    service: Service = self.app.visionq_service
    try:
        return service.executor.stored_result(task_id)
    except (ObjectMissing, InvalidTask) as error:
        raise Ignore from error
    except StorageError as error:  # who waits is told when the store is back
        raise _back(self, Postponed(str(error))) from error


def _conf(settings: Settings) -> dict[str, Any]:
    return {
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json", PLAIN_JSON],
        "result_expires": settings.broker.record_ttl_seconds,
        "task_acks_late": True,
        # A failure is a stored result: it is acked like an answer.
        "task_acks_on_failure_or_timeout": True,
        "worker_pool": "threads",
        "worker_consumer": f"{Consumer.__module__}:{Consumer.__name__}",
        **tls_conf(settings.broker.address().server_url),
        "worker_concurrency": settings.worker.concurrency,
        "worker_prefetch_multiplier": 1,
        "worker_hijack_root_logger": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # Celery's revoke would ack a message behind the record's back, and a message that is no
        # command would end the worker. `control` listens instead.
        "worker_enable_remote_control": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
    }


def __getattr__(name: str) -> Any:
    """`app`, built when Celery's command line asks for it: importing this module reads nothing."""
    if name == "app":
        globals()["app"] = build_app(load_settings())
        return globals()["app"]
    raise AttributeError(name)
