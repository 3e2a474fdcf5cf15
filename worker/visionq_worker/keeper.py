"""A worker's housekeeping: holds its leases, gives back what others hold no longer, and tells what
the worker can do.

One thread. The leases of a process whose engine makes no progress are not renewed: its tasks are
better off with another. What fails because Redis is away is tried again at the next turn.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic

from redis import RedisError

from visionq.errors import BrokerUnavailable
from visionq_worker.health import Pulse
from visionq_worker.leases import Leases

log = logging.getLogger(__name__)

TURN_SECONDS = 1.0
TURNS_PER_LEASE = 12
SWEEP_SECONDS = 1.0
SWEEPS_PER_LEASE = 4
"""Of a short lease, so that what comes on top of it is short, too."""
RENEWALS_PER_LEASE = 3
TELL_SECONDS = 5.0
"""A quarter of what it is believed for (`fleet.REPORT_TTL_SECONDS`)."""


class Keeper:
    """Starts and ends with the service; all its work is done between `start` and `stop`."""

    def __init__(
        self,
        leases: Leases,
        pulse: Pulse,
        is_engine_well: Callable[[], bool],
        write_health: Callable[[], None] | None = None,
        tell: Callable[[], None] | None = None,
    ) -> None:
        self._leases = leases
        self._pulse = pulse
        self._is_engine_well = is_engine_well
        self._write_health = write_health
        self._tell = tell
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._renews_at = 0.0
        self._sweep_seconds = min(SWEEP_SECONDS, leases.lease_seconds / SWEEPS_PER_LEASE)
        self._sweeps_at = 0.0
        self._tells_at = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        seconds = min(TURN_SECONDS, self._leases.lease_seconds / TURNS_PER_LEASE)
        while not self._stopping.wait(seconds):
            try:
                self._turn()
            except (RedisError, OSError, BrokerUnavailable) as error:
                log.warning("housekeeping waits for Redis: %s", error)
            if self._write_health is not None:
                self._write_health()

    def _turn(self) -> None:
        self._leases.retry()
        if monotonic() >= self._renews_at:
            self._renew()
        if monotonic() >= self._sweeps_at:
            self._sweeps_at = monotonic() + self._sweep_seconds
            self._sweep()
            self._pulse.broker_answered()
        if self._tell is not None and monotonic() >= self._tells_at:
            self._tells_at = monotonic() + TELL_SECONDS
            self._tell()

    def _renew(self) -> None:
        began = monotonic()
        if not self._is_engine_well():
            log.error("the engine makes no progress: the leases are left to end")
            return
        lost = self._leases.renew()
        self._renews_at = began + self._leases.lease_seconds / RENEWALS_PER_LEASE
        if lost:
            log.warning("%d leases were lost; their tasks may run elsewhere", len(lost))

    def _sweep(self) -> None:
        swept = self._leases.sweep()
        if swept.num_back:
            log.warning("%d tasks of lost workers are back in the queue", swept.num_back)
        for task_id in swept.put_aside:
            log.error("task %s is put aside: too many workers were lost with it", task_id)
