"""Notices when a step does not end: a device that hangs says nothing by itself."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

log = logging.getLogger(__name__)


class Watchdog:
    """Calls `on_hang` once, from its own thread, when what is watched lasts too long."""

    def __init__(self, seconds: float, on_hang: Callable[[], None]) -> None:
        self._seconds = seconds
        self._on_hang = on_hang
        self._started: float | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="visionq-watchdog", daemon=True)
        self._thread.start()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The block has to end within the time given."""
        self._started = monotonic()
        try:
            yield
        finally:
            self._started = None

    def close(self) -> None:
        self._closing.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(self._seconds / 4):
            started = self._started
            if started is not None and monotonic() - started > self._seconds:
                log.critical(
                    "a step has lasted for %.1f s, and is taken for one that never ends: the engine"
                    " is given up; act if this happens again after a restart, with these stacks of"
                    " all threads:\n%s",
                    monotonic() - started,
                    _stacks(),
                )
                self._on_hang()
                return


def _stacks() -> str:
    """Where every thread is, for the log: Celery's stderr is no file that faulthandler takes."""
    frames = sys._current_frames()  # noqa: SLF001 documented, in spite of its name
    return "\n".join(
        f"thread {thread.name}:\n" + "".join(traceback.format_stack(frames[thread.ident]))
        for thread in threading.enumerate()
        if thread.ident in frames
    )
