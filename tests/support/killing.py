"""Killing Valkey in tests, without what a kill may cost by itself, and pausing it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from visionq.local import LocalServers, LocalUrls

SYNC_MILLISECONDS = 10_000


def kill_valkey(servers: LocalServers) -> None:
    """SIGKILL, once everything written so far is on disk.

    What a kill may cost is a matter of its own; tests of an outage must not depend on the disk.
    """
    wait_for_disk(servers.urls)
    servers.kill("valkey")


def wait_for_disk(urls: LocalUrls) -> None:
    """With `appendfsync everysec` a killed Valkey may forget its last second or two; not this."""
    with redis.Redis.from_url(urls.broker_url) as client:
        # WAITAOF waits for the writes of its own connection, and for all that came before them.
        client.set("last-words", "1", ex=60)
        num_synced, _ = client.waitaof(1, 0, SYNC_MILLISECONDS)
    assert num_synced == 1, "the append-only file was not written"


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """The process keeps its connections and answers nothing while the block runs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
