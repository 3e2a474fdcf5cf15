"""Knowing at once that a queue has something, without taking anything out of it.

A thread for each queue blocks in Redis until its queue is not empty, and then writes to a pipe
that the worker's event loop watches. The blocking command moves the queue's next element onto its
own place, which changes nothing and cannot be lost half way.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterable

from redis import Redis, RedisError

log = logging.getLogger(__name__)

BLOCK_SECONDS = 2
"""How long one command waits. The client's own timeout has to be longer."""
PAUSE_SECONDS = 0.5
"""After an error."""


class Waker:
    """Wakes once for each `arm`, when one of the queues is not empty. Thread-safe."""

    def __init__(self, client: Redis, queues: Iterable[str]) -> None:
        self._redis = client
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._armed = threading.Event()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, args=(name,), name=f"waker {name}", daemon=True)
            for name in queues
        ]

    def fileno(self) -> int:
        """Readable after a wake; `clear` makes it quiet again."""
        return self._reader

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def arm(self) -> None:
        """Somebody has found all queues empty, and wants to know when that changes."""
        self._armed.set()

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 4096)

    def stop(self) -> None:
        """The threads end with their current command; the pipe stays open for them."""
        self._stopping.set()
        self._armed.set()

    def _watch(self, name: str) -> None:
        while not self._stopping.is_set():
            self._armed.wait()
            try:
                is_there = self._redis.blmove(name, name, BLOCK_SECONDS, "RIGHT", "RIGHT")
            except (RedisError, OSError) as error:
                log.debug("waiting for %s: %s", name, error)
                self._stopping.wait(PAUSE_SECONDS)
                continue
            if is_there is not None and not self._stopping.is_set():
                self._armed.clear()
                self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # nobody has read thousands of earlier ones
            os.write(self._writer, b"!")
