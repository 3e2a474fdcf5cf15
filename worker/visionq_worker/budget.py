"""Memory that threads share: whoever wants some waits until it is free, first come first served."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Budget:
    """So many bytes. Thread-safe.

    Who has taken some must not ask for more before giving them back: that way lies deadlock. Nobody
    overtakes, so that small wishes do not keep a large one waiting for ever.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._num_free = num_bytes
        self._queue: deque[object] = deque()
        self._changed = Condition()

    @contextmanager
    def take(self, num_bytes: int) -> Iterator[None]:
        """Have the bytes while the block runs, and wait for them. At most the whole budget."""
        assert num_bytes <= self.num_bytes, "what is never there would be waited for for ever"
        self._wait_for(num_bytes)
        try:
            yield
        finally:
            with self._changed:
                self._num_free += num_bytes
                self._changed.notify_all()

    def _wait_for(self, num_bytes: int) -> None:
        me = object()
        with self._changed:
            self._queue.append(me)
            try:
                self._changed.wait_for(lambda: self._queue[0] is me and self._num_free >= num_bytes)
                self._num_free -= num_bytes
            finally:
                self._queue.remove(me)
                self._changed.notify_all()  # the next in the queue may fit, too
