"""How long to wait before what has failed for now is tried again."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 2.0


def pauses(seconds: float) -> Iterator[float]:
    """Pauses in seconds, each twice as long as the one before, which end `seconds` from now.

    Nothing is left of a time that is up: then the last try was made.
    """
    ends_at = monotonic() + seconds
    pause = FIRST_SECONDS
    while (left := ends_at - monotonic()) > 0:
        yield min(pause, left)
        pause = min(2 * pause, LONGEST_SECONDS)
