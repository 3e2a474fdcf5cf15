"""The negative control: a plain Celery worker on kombu's stock Redis transport.

Configured as well as it can be (late acks, no prefetch, fast sweeps, timeouts on every socket), it
takes the same messages from the same queues and writes results of the same names. A harness in
which it does not lose tasks would prove nothing about ours.
"""

from __future__ import annotations

import json
from time import sleep
from typing import Any

from celery import Celery
from kombu import Queue

from tests.faults.journal import Writer
from tests.faults.spec import WorkerSpec
from visionq.contract import Lane
from visionq.names import TASK_NAME, Names, result_key
from visionq.objects import ObjectStore
from visionq.settings import Settings


def stock_app(settings: Settings, spec: WorkerSpec, journal: Writer) -> Celery:
    names = Names(settings.broker.namespace)
    store = ObjectStore(settings.storage.address())
    app = Celery("stock", broker=settings.broker.url.get_secret_value(), set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_acks_on_failure_or_timeout=True,
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_queues=[Queue(names.queue(lane), routing_key=names.queue(lane)) for lane in Lane],
        broker_transport_options=transport_options(names, spec.lease_seconds),
    )

    def run(self: Any, *, task: dict[str, Any]) -> None:
        task_id = str(self.request.id)
        journal.write("take", task_id)
        journal.write("run", task_id)
        sleep(spec.step_seconds * task.get("options", {}).get("max_new_tokens", 1))
        result = {"task_id": task_id, "worker": self.request.hostname}
        store.put(result_key(task_id), json.dumps(result).encode(), "application/json")
        journal.write("done", task_id)

    app.task(bind=True, name=TASK_NAME)(run)
    return app


def transport_options(names: Names, lease_seconds: float) -> dict[str, Any]:
    return {
        "visibility_timeout": lease_seconds,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 10,
        "unacked_key": f"{names.namespace}:stock-unacked",
        "unacked_index_key": f"{names.namespace}:stock-unacked-index",
        "unacked_mutex_key": f"{names.namespace}:stock-unacked-mutex",
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 5,
    }
