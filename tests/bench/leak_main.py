"""Submits many tasks in a fresh process and prints what that has left behind, as JSON.

`python -m tests.bench.leak_main ours|bare COUNT`; the broker comes from the environment.
"""

from __future__ import annotations

import array
import fcntl
import gc
import json
import os
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import redis

from tests.bench.bare import TASK_NAME, bare_app
from tests.bench.sample import KIND, QUESTION
from visionq import Client
from visionq.settings import Settings, load_settings

KEY = "inputs/" + "ab" * 32
NUM_WARM_UP = 500


def main() -> None:
    sort, count = sys.argv[1], int(sys.argv[2])
    settings = load_settings()
    url = settings.broker.url.get_secret_value()
    with _submitting(sort, settings) as submit:
        _repeat(submit, NUM_WARM_UP)
        before = _resident_bytes()
        _repeat(submit, count)
        report = {
            "num_channels": _num_channels(url),
            "unread_bytes": _unread_bytes(),
            "growth_bytes": _resident_bytes() - before,
        }
    print(json.dumps(report))


@contextmanager
def _submitting(sort: str, settings: Settings) -> Iterator[Callable[[], object]]:
    """One submit of ours, or one `apply_async` whose result nobody keeps."""
    if sort == "ours":
        with Client.from_settings(settings) as client:
            yield lambda: client.submit(KIND, KEY, QUESTION)
    else:
        with bare_app(settings.broker.url.get_secret_value()) as app:
            noop = app.tasks[TASK_NAME]
            yield lambda: noop.apply_async(kwargs={"task": QUESTION})


def _repeat(submit: Callable[[], object], count: int) -> None:
    for _ in range(count):
        submit()


def _num_channels(url: str) -> int:
    """Channels and patterns to which connections of this process are subscribed."""
    ours = {str(port) for port in _local_ports()}
    with redis.Redis.from_url(url, decode_responses=True) as raw:
        clients: list[dict[str, Any]] = raw.client_list()
    kept = [client for client in clients if client["addr"].rpartition(":")[2] in ours]
    return sum(int(client[kind]) for client in kept for kind in ("sub", "psub", "ssub"))


def _local_ports() -> set[int]:
    return {entry.laddr.port for entry in psutil.Process().net_connections("tcp")}


def _unread_bytes() -> int:
    """Bytes in the receive queues of this process's sockets (SIOCINQ, which is FIONREAD)."""
    return sum(_queued(int(entry.name)) for entry in Path("/proc/self/fd").iterdir())


def _queued(descriptor: int) -> int:
    count = array.array("i", [0])
    with suppress(OSError):
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
            fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]


def _resident_bytes() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    main()
