"""What a worker says of itself to Celery's tools, in their words.

Without the arguments of tasks, which hold questions, and without any setting that is not listed
here, since the others may hold a password.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from celery.worker import state

from visionq.names import TASK_NAME

SHOWN_SETTINGS = (
    "accept_content",
    "control_exchange",
    "event_exchange",
    "result_expires",
    "result_serializer",
    "task_acks_late",
    "task_default_queue",
    "task_serializer",
    "timezone",
    "worker_concurrency",
    "worker_pool",
    "worker_prefetch_multiplier",
)
NUM_TRIES = 5
"""At a set that the event loop changes while it is read."""


def answers_of(worker: Any) -> dict[str, Callable[[Mapping[str, Any]], object]]:
    """By the name of Celery's command, for a running Celery worker."""
    answers: dict[str, Callable[[], object]] = {
        "ping": lambda: {"ok": "pong"},
        "active": lambda: _described(state.active_requests, worker.hostname),
        "reserved": lambda: _described(_waiting(), worker.hostname),
        "scheduled": list,
        "revoked": list,
        "registered": lambda: [TASK_NAME],
        "active_queues": lambda: [
            dict(queue.as_dict(recurse=True)) for queue in worker.app.conf.task_queues
        ],
        "conf": lambda: {name: worker.app.conf[name] for name in SHOWN_SETTINGS},
        "stats": lambda: _stats(worker),
    }
    return {name: _without_arguments(answer) for name, answer in answers.items()}


def _without_arguments(answer: Callable[[], object]) -> Callable[[Mapping[str, Any]], object]:
    return lambda _arguments: answer()


def _stats(worker: Any) -> dict[str, Any]:
    return {
        **worker.info(),  # how many tasks, the process's id, for how long
        "prefetch_count": worker.concurrency,
        "pool": {"implementation": "threads", "max-concurrency": worker.concurrency},
        "broker": {"transport": "redis"},
    }


def _waiting() -> list[Any]:
    """Taken by this worker, and not yet begun."""
    active = {id(request) for request in _copied(state.active_requests)}
    return [one for one in _copied(state.reserved_requests) if id(one) not in active]


def _described(requests: Iterable[Any], node: str) -> list[dict[str, Any]]:
    return [
        {
            "id": request.id,
            "name": request.name,
            "args": [],
            "kwargs": {},
            "type": request.name,
            "hostname": node,
            "time_start": request.time_start,
            "acknowledged": request.acknowledged,
            "delivery_info": {"redelivered": None, "priority": None},
            "worker_pid": os.getpid(),
        }
        for request in _copied(requests)
    ]


def _copied(requests: Iterable[Any]) -> list[Any]:
    for _ in range(NUM_TRIES):
        try:
            return list(requests)
        except RuntimeError:  # changed by the event loop meanwhile
            continue
    return []
