"""Whether the object store works: while it does not, no more tasks are claimed.

What fails for one key alone keeps nobody waiting but its task. So before the gate is shut, the
store is asked for the same of an object of our own, and it opens when that works again. The HEAD of
the bucket says too little for either: a store can answer it and neither give nor take an object.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from visionq.errors import BucketMissing, StorageDenied, StorageError, WrongClock
from visionq_worker.store_probe import Extent, extent, try_beside

if TYPE_CHECKING:
    from visionq.objects import ObjectStore
    from visionq.store_replies import Asked

log = logging.getLogger(__name__)


class StoreGate:
    """Shut by whoever finds the store away, opened by the housekeeping that finds it back."""

    def __init__(self) -> None:
        self._is_shut = threading.Event()
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._causes: dict[tuple[str, str], Asked] = {}
        self._is_operators = False

    @property
    def is_open(self) -> bool:
        return not self._is_shut.is_set()

    def shut(self, error: StorageError | None = None) -> None:
        """`error`: why; until the same works, the gate stays shut."""
        with self._lock:
            if error is not None and error.asked is not None:
                self._causes[error.asked.operation, error.asked.folder] = error.asked
            self._report(error)
            self._is_shut.set()

    def shut_if_away(self, error: StorageError, store: ObjectStore) -> None:
        """Shut, unless the store does for another key what it has not done for this one."""
        is_ours = error.asked is None or error.asked.bucket == store.bucket
        is_mute = error.status is None and is_ours  # nothing was answered: no key is to blame
        if not self.is_open or is_mute:
            self.shut(error)
            return
        # One thread asks for all; the others' tasks are postponed as well.
        if self._asking.acquire(blocking=False):
            try:
                if extent(store, error) is Extent.STORE:
                    self.shut(error)
            finally:
                self._asking.release()

    def probe(self, store: ObjectStore) -> None:
        """Open if the store does again what it did not do. Raises what it answers instead."""
        with self._lock:
            causes = list(self._causes.values())
        if not causes:
            store.check_bucket()
        for asked in causes:
            try_beside(store, asked)
        self.open()

    def open(self) -> None:
        with self._lock:
            if self._is_shut.is_set():
                log.warning("the object store is back")
            self._causes.clear()
            self._is_operators = False
            self._is_shut.clear()

    def _report(self, error: StorageError | None) -> None:
        """Log it once: as an error what somebody has to mend, also when that is found later."""
        if isinstance(error, StorageDenied | BucketMissing | WrongClock):
            if not self._is_operators:
                log.error(
                    "%s: no more tasks are claimed and those accepted are kept, until somebody "
                    "mends the credentials, the policy, the bucket or the clock; then they go on",
                    error,
                )
            self._is_operators = True
        elif not self._is_shut.is_set():
            log.warning("the object store is away: no more tasks are claimed")
