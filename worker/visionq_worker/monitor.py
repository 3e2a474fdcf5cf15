"""Watches a worker from a thread that waits for nobody: writes its health down, and sees it stuck.

The heartbeat's thread may wait for Redis, or for the resolution of a name, for as long as an outage
lasts; a probe would take a file that it no longer writes for a dead worker. So that file is written
here. What stands still is Redis's doing or the worker's own: to tell the one from the other, a
write is tried over a new connection, each time by a thread of its own, since it may wait as well.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from redis import RedisError

from visionq.errors import VisionqError
from visionq_worker.errors import StartError
from visionq_worker.health import Health, Pulse, write_health

log = logging.getLogger(__name__)

TURN_SECONDS = 1.0
FRESH_SECONDS = 5.0
"""Between two writes over new connections: a fleet in trouble must not be Redis's trouble, too."""


class Monitor:
    """Starts and ends with the service."""

    def __init__(
        self,
        pulse: Pulse,
        look: Callable[[], Health],
        write_freshly: Callable[[], None],
        *,
        file: Path | None = None,
        on_stuck: Callable[[Health, str], None] | None = None,
    ) -> None:
        """`write_freshly`: over a connection opened for that, resolved anew; raises what it likes
        of redis-py's, the system's and our errors. `on_stuck` is called once, with the reason.
        """
        self._pulse = pulse
        self._look = look
        self._write_freshly = write_freshly
        self._file = file
        self._on_stuck = on_stuck
        self._is_writable = True
        self._fresh: threading.Thread | None = None
        self._fresh_at = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """A write over a new connection that is under way is not waited for."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(TURN_SECONDS):
            self._turn()

    def _turn(self) -> None:
        health = self._look()
        if self._file is not None:
            self._write(self._file, health)
        if health.trouble() is None:
            self._pulse.forget_fresh()
        elif monotonic() >= self._fresh_at and not (self._fresh and self._fresh.is_alive()):
            self._fresh_at = monotonic() + FRESH_SECONDS
            self._fresh = threading.Thread(target=self._try_freshly, name="fresh", daemon=True)
            self._fresh.start()
        if self._on_stuck is not None and (reason := health.why_stuck()):
            on_stuck, self._on_stuck = self._on_stuck, None
            on_stuck(health, reason)

    def _try_freshly(self) -> None:
        try:
            self._write_freshly()
        except (RedisError, OSError, VisionqError, StartError) as error:
            self._pulse.forget_fresh()
            log.debug("Redis takes no write over a new connection either: %s", error)
        else:
            self._pulse.wrote_freshly()

    def _write(self, file: Path, health: Health) -> None:
        try:
            write_health(file, health)
        except OSError as error:
            if self._is_writable:  # it is said once, and not every second
                log.warning(
                    "the health file cannot be written: %s; it is tried every second, and probes"
                    " fail meanwhile: make room, or let the worker write %s",
                    error,
                    file,
                )
            self._is_writable = False
        else:
            if not self._is_writable:
                log.warning("the health file is written again; nothing to do")
            self._is_writable = True
