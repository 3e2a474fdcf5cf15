"""Whether the object store takes anything: while it does not, no more tasks are claimed."""

from __future__ import annotations

import logging
import threading

log = logging.getLogger(__name__)


class StoreGate:
    """Shut by whoever finds the store away, opened by the housekeeping that finds it back."""

    def __init__(self) -> None:
        self._is_shut = threading.Event()

    @property
    def is_open(self) -> bool:
        return not self._is_shut.is_set()

    def shut(self) -> None:
        if not self._is_shut.is_set():
            log.warning("the object store is away: no more tasks are claimed")
        self._is_shut.set()

    def open(self) -> None:
        if self._is_shut.is_set():
            log.warning("the object store is back")
        self._is_shut.clear()
