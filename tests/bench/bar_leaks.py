"""What 20,000 submits leave behind in the process and in its connections.

Celery's own `apply_async` subscribes to every task's channel and never reads the replies (169
bytes a task). A fresh process submits, and is then asked: how many channels its connections are
subscribed to by the server's CLIENT LIST, how many bytes lie unread in its sockets, and by how
much its resident memory has grown since the first 500. That the probe sees something at all is
shown by a bare `apply_async`.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.children import json_of
from tests.bench.readings import Reading, Sense
from tests.bench.rig import NAMESPACE, Rig
from tests.support.workers import environment

NUM_TASKS = 20_000
NUM_BARE_TASKS = 2000
KILOBYTE, MEGABYTE = 1024, 1024**2


def measure_leaks(rig: Rig) -> Iterator[Reading]:
    count = rig.count(NUM_TASKS)
    left = _left_by(rig, "ours", count)
    yield _reading(f"channels after {count} submits", left["num_channels"], "channels", "=", 0)
    yield _reading("unread in the sockets", left["unread_bytes"] / KILOBYTE, "KB", "<", 64)
    yield _reading("growth of the process", left["growth_bytes"] / MEGABYTE, "MB", "<", 5)
    count = rig.count(NUM_BARE_TASKS)
    left = _left_by(rig, "bare", count)
    unread = left["unread_bytes"] / KILOBYTE
    yield Reading(bar="leaks", what=f"unread after {count} apply_async", measured=unread, unit="KB")


def _left_by(rig: Rig, sort: str, count: int) -> dict[str, int]:
    rig.clear()
    command = ["-m", "tests.bench.leak_main", sort, str(count)]
    left: dict[str, int] = json_of(command, environment(rig.urls, NAMESPACE))
    return left


def _reading(what: str, measured: float, unit: str, sense: Sense, limit: float) -> Reading:
    return Reading(bar="leaks", what=what, measured=measured, unit=unit, sense=sense, limit=limit)
