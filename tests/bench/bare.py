"""The measure of most bars: a Celery application as its manual shows it, with a no-op task."""

from __future__ import annotations

from typing import Any

from celery import Celery

TASK_NAME = "bench.noop"

LIKE_OURS = {
    "task_acks_late": True,
    "worker_prefetch_multiplier": 1,
}


def bare_app(url: str, queue: str = "bare", *, is_like_ours: bool = False) -> Celery:
    """Redis as broker and result backend. `is_like_ours`: late acks and prefetch 1, as we have."""
    app = Celery("bare", broker=url, backend=url, set_as_current=False)
    app.conf.update(
        task_default_queue=queue,
        broker_connection_retry_on_startup=True,
        **(LIKE_OURS if is_like_ours else {}),
    )
    app.task(name=TASK_NAME)(_noop)
    return app


def _noop(**_: Any) -> dict[str, Any]:
    """Returns what a visionq task leaves in Celery's result, so that equal values are stored."""
    key = "results/00000000-0000-0000-0000-000000000000.json"
    return {"result_key": key, "text": "a scripted answer", "value": None}
