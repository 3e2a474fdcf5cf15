"""Whether a clock elsewhere was set forward, by how this machine's elapsed time goes on."""

from __future__ import annotations

from collections.abc import Callable

from visionq.fleet import elapsed

BACK_SECONDS = 60.0
"""A clock that is further behind than that was set back; less may be a slow reply."""


class ClockSteps:
    """How far a clock can have got. Not thread-safe.

    The time between asking it and its answer is unknown; the longest so far is allowed for, so that
    a slow reply is taken for a step once at most.
    """

    def __init__(self, clock: Callable[[], float] = elapsed) -> None:
        self._clock = clock
        self._ahead: float | None = None

    def asks(self) -> tuple[float, float | None]:
        """The moment now, for `saw`, and what the other clock shows at most, if that is known."""
        now = self._clock()
        return now, None if self._ahead is None else now + self._ahead

    def saw(self, shown: float, asked_at: float) -> None:
        ahead = shown - asked_at
        if self._ahead is None or not 0 <= self._ahead - ahead <= BACK_SECONDS:
            self._ahead = ahead
