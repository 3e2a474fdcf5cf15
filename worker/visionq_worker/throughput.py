"""How fast a worker gets through its tasks, measured while it has any."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

HALF_LIFE_SECONDS = 120.0
"""After so long at work, what was measured before counts half."""


class Throughput:
    """Counts the tasks in hand, and fades. Any thread.

    Idle time is no part of it: a worker with one task an hour is not slow. With few tasks in hand
    the figure is what these have taken, and not what a full batch would reach.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._at = clock()
        self._num_running = 0
        self._busy_seconds = 0.0
        self._num_done = 0.0
        self._task_seconds = 0.0

    @contextmanager
    def task(self) -> Iterator[None]:
        """A task is in hand; it counts unless it raises."""
        with self._lock:
            began = self._pass()
            self._num_running += 1
        is_done = False
        try:
            yield
            is_done = True
        finally:
            with self._lock:
                now = self._pass()
                self._num_running -= 1
                if is_done:
                    self._num_done += 1
                    self._task_seconds += now - began

    def measured(self) -> tuple[float, float] | None:
        """Tasks per second and seconds per task; None while there was none."""
        with self._lock:
            self._pass()
            if not self._num_done or not self._busy_seconds:
                return None
            return self._num_done / self._busy_seconds, self._task_seconds / self._num_done

    def _pass(self) -> float:
        """Let the time since the last look count. Returns the time now."""
        now = self._clock()
        if self._num_running:
            passed = now - self._at
            fade = 0.5 ** (passed / HALF_LIFE_SECONDS)
            self._busy_seconds = self._busy_seconds * fade + passed
            self._num_done *= fade
            self._task_seconds *= fade
        self._at = now
        return now
