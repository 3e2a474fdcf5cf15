"""Writes that count only once replicas have them: Redis's WAIT.

Replication is asynchronous: a primary that dies takes with it what its replicas have not received
yet, also what it has answered already. WAIT returns how many replicas have everything up to the
last write of its own connection, so it travels behind the write, in the same pipeline. A connection
that has written nothing gets a count that says nothing; so there is always a write of our own
before it, which comes after all that the script before it has found or written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from visionq.errors import NotReplicated, SettingsError

SHARE_OF_TIMEOUT = 0.75
"""Of the time for one reply, the most that WAIT may take: its reply has to arrive in time, too."""
KEY_TTL_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """How many must have a write (0: nobody is asked), and seconds to wait for one reply."""

    num: int = 0
    timeout_seconds: float = 2.0

    def __post_init__(self) -> None:
        """Raise `SettingsError` for a number of replicas that is none."""
        if isinstance(self.num, bool) or not isinstance(self.num, int) or self.num < 0:
            raise SettingsError("replicas_to_confirm must be a whole number, and 0 at least")

    @property
    def wait_seconds(self) -> float:
        return self.timeout_seconds * SHARE_OF_TIMEOUT

    def queue_wait(self, pipe: Any, key: str) -> None:
        """Queue two commands; the second one's reply is how many replicas have all of it."""
        pipe.set(key, "", ex=KEY_TTL_SECONDS)
        # 0 would wait for ever.
        pipe.wait(self.num, max(1, round(self.wait_seconds * 1000)))

    def require(self, num_confirmed: int, advice: str = "") -> None:
        """Raise `NotReplicated` where these are too few. `advice`: what the caller may do."""
        if num_confirmed < self.num:
            raise NotReplicated(
                f"{num_confirmed} of {self.num} replicas of Redis have confirmed the write within "
                f"{self.wait_seconds:g} s (broker.replicas_to_confirm){advice}"
            )


NO_REPLICAS = Replicas()
