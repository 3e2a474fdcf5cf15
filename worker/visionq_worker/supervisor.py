"""A worker that is started again when it dies: `visionq-worker run --supervise`.

For machines without a process manager of their own. The parent loads nothing, so a worker whose
device is spoilt (code 70) gets a process, and a CUDA context, of its own each time.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
from collections.abc import Sequence
from time import monotonic

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
WELL_SECONDS = 60.0
"""A worker that has lived so long was well: the next pause is the first one again."""
FINAL_CODES = (0, 2)
"""Told to stop, or called in a way that no repetition makes right."""


class Supervisor:
    """Runs a command until it ends by itself or somebody tells us to stop."""

    def __init__(
        self, command: Sequence[str], *, first_pause_seconds: float = FIRST_PAUSE_SECONDS
    ) -> None:
        self._command = list(command)
        self._first_pause = first_pause_seconds
        self._pause = first_pause_seconds
        self._told: list[int] = []  # signals
        self._wake = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """The exit code of the last worker. Only in the main thread: it listens to signals."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)
        while True:
            code = self._run_once()
            if self._told or code in FINAL_CODES:
                return max(code, 0)
            log.error(
                "the worker has ended with %s and is started again in %g s; its last lines say why,"
                " and somebody has to act if it ends again and again",
                _spoken(code),
                self._pause,
            )
            self._wake.wait(self._pause)
            if self._told:
                return 0
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def _run_once(self) -> int:
        began = monotonic()
        self._child = subprocess.Popen(self._command)  # noqa: S603  # our own command line
        if self._told:  # while the child was being started
            self._child.send_signal(self._told[-1])
        code = self._child.wait()
        self._child = None
        if monotonic() - began > WELL_SECONDS:
            self._pause = self._first_pause
        return code

    def _pass_on(self, number: int, _frame: object) -> None:
        self._told.append(number)
        self._wake.set()
        if self._child is not None:
            self._child.send_signal(number)


def _spoken(code: int) -> str:
    return f"code {code}" if code >= 0 else f"signal {-code}"
