"""How long to wait before what has failed for now is tried again."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 2.0


def pauses(seconds: float) -> Iterator[float]:
    """Pauses in seconds, each twice as long as the one before, which end `seconds` from now.

    Each is taken after a try has failed: there is none when that itself has used the time up.
    """
    return _until(monotonic() + seconds)


def _until(ends_at: float) -> Iterator[float]:
    pause = FIRST_SECONDS
    while (left := ends_at - monotonic()) > 0:
        yield min(pause, left)
        pause = min(2 * pause, LONGEST_SECONDS)
