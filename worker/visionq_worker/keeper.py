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
from visionq_worker.outage_log import OutageLog

log = logging.getLogger(__name__)

TURN_SECONDS = 1.0
TURNS_PER_LEASE = 12
SWEEP_SECONDS = 1.0
SWEEPS_PER_LEASE = 4
"""Of a short lease, so that what comes on top of it is short, too."""
RENEWALS_PER_LEASE = 3
WRITE_SECONDS = 5.0
"""Between two writes that show that Redis takes any (`health.MAX_WRITE_AGE_SECONDS`)."""
TELL_SECONDS = 5.0
"""A quarter of what it is believed for (`fleet.REPORT_TTL_SECONDS`)."""


class Keeper:
    """Starts and ends with the service; all its work is done between `start` and `stop`."""

    def __init__(
        self,
        leases: Leases,
        pulse: Pulse,
        is_engine_well: Callable[[], bool],
        write: Callable[[], None],
        tell: Callable[[], None] | None = None,
    ) -> None:
        """`write`: anything, over the connection of the leases. `tell`: what the worker can do.

        They raise redis-py's errors, `OSError` and `BrokerUnavailable`.
        """
        self._leases = leases
        self._pulse = pulse
        self._is_engine_well = is_engine_well
        self._write = write
        self._tell = tell
        self._was_engine_well = True
        self._outage = OutageLog(
            log,
            "the heartbeat",
            "it is tried again every second, and the leases of this worker's tasks are not renewed"
            " meanwhile; act if Redis does not come back by itself",
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._renews_at = 0.0
        self._sweep_seconds = min(SWEEP_SECONDS, leases.lease_seconds / SWEEPS_PER_LEASE)
        self._sweeps_at = 0.0
        self._writes_at = 0.0
        self._tells_at = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        seconds = min(TURN_SECONDS, self._leases.lease_seconds / TURNS_PER_LEASE)
        while not self._stopping.wait(seconds):
            if all([self._is_done(self._turn), self._is_done(self._check_write)]):
                self._outage.worked()

    def _is_done(self, work: Callable[[], None]) -> bool:
        try:
            work()
        except (RedisError, OSError, BrokerUnavailable) as error:
            self._outage.failed(error)
            return False
        return True

    def _check_write(self) -> None:
        """By itself: whatever else Redis refuses, it may take writes."""
        if monotonic() >= self._writes_at:
            self._write()
            self._writes_at = monotonic() + WRITE_SECONDS
            self._pulse.wrote()

    def _turn(self) -> None:
        self._leases.retry()
        if monotonic() >= self._renews_at:
            self._renew()
        if monotonic() >= self._sweeps_at:
            self._sweeps_at = monotonic() + self._sweep_seconds
            self._sweep()
        if self._tell is not None and monotonic() >= self._tells_at:
            self._tells_at = monotonic() + TELL_SECONDS
            self._tell()

    def _renew(self) -> None:
        began = monotonic()
        if not self._is_engine_well():
            if self._was_engine_well:
                log.error(
                    "the engine makes no progress: the leases of this worker's tasks are left to"
                    " end, and others take them over; restart the worker if it does not end itself"
                )
            self._was_engine_well = False
            return
        if not self._was_engine_well:
            log.warning("the engine makes progress again: leases are renewed; nothing to do")
        self._was_engine_well = True
        lost = self._leases.renew()
        self._renews_at = began + self._leases.lease_seconds / RENEWALS_PER_LEASE
        if lost:
            log.warning(
                "%d leases were lost, as this worker has not renewed them in time: their tasks run"
                " elsewhere or will, and what is made of them here is dropped; nothing to do unless"
                " it happens again and again, then look for what held the worker or Redis up",
                len(lost),
            )

    def _sweep(self) -> None:
        swept = self._leases.sweep()
        if swept.num_back:
            log.warning(
                "%d tasks whose workers no longer renew their leases are back in the queue, to be"
                " the next ones taken; find out what became of the workers",
                swept.num_back,
            )
        for task_id in swept.put_aside:
            log.error(
                "task %s is dead-lettered, and fails with worker_lost: too many workers were lost"
                " while they had it; look at it with `visionq dead show %s`, replay or purge it",
                task_id,
                task_id,
            )
