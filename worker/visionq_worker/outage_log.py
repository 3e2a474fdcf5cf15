"""What is logged of an outage: its begin, once a minute that it lasts, and its end.

Work that is tried again every second would otherwise fill the log with one line, and hide others.
"""

from __future__ import annotations

import logging
import threading
from time import monotonic

from visionq.refusals import ADVICE, is_for_good

REPEAT_SECONDS = 60.0
QUIET_SECONDS = 2.0
"""An outage is over when nothing has failed for so long: where every tenth call fails, it lasts."""


class OutageLog:
    """For one kind of work of the whole process. Thread-safe; costs nothing while all works.

    All lines are warnings, so that whoever sees the begin sees the end.
    """

    def __init__(
        self,
        log: logging.Logger,
        work: str,
        meanwhile: str,
        *,
        repeat_seconds: float = REPEAT_SECONDS,
        quiet_seconds: float = QUIET_SECONDS,
    ) -> None:
        """`work`: what fails, a noun in the singular. `meanwhile`: what is being done about it,
        what becomes of tasks, and whether to act.
        """
        self._log = log
        self._work = work
        self._meanwhile = meanwhile
        self._repeat_seconds = repeat_seconds
        self._quiet_seconds = quiet_seconds
        self._lock = threading.Lock()
        self._began: float | None = None
        self._told = 0.0
        self._works_since: float | None = None

    def failed(self, error: object, *, task_id: str | None = None) -> None:
        """The work has failed; `task_id`: over which task, if over one."""
        with self._lock:
            now = monotonic()
            self._works_since = None
            if self._began is None:
                self._began = now
                text = f"{self._work} fails"
            elif now - self._told >= self._repeat_seconds:
                text = f"{self._work} has failed for {now - self._began:.0f} s"
            else:
                return
            self._told = now
        of = f" (task {task_id})" if task_id else ""
        self._log.warning("%s%s: %s; %s", text, of, _said(error), self._meanwhile)

    def worked(self) -> None:
        """The work has been done."""
        if self._began is not None:
            self._end()

    def _end(self) -> None:
        with self._lock:
            now, began = monotonic(), self._began
            if began is None:
                return
            if self._works_since is None:
                self._works_since = now
            if now - self._works_since < self._quiet_seconds:
                return
            seconds, self._began = self._works_since - began, None
        self._log.warning("%s works again, after %.1f s; nothing to do", self._work, seconds)


def _said(error: object) -> str:
    """With what to do where it does not pass by itself."""
    said = str(error).rstrip(".")
    is_lasting = isinstance(error, BaseException) and is_for_good(error)
    return f"{said}; {ADVICE}" if is_lasting and ADVICE not in said else said
