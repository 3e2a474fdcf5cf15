"""Whether a worker lives and is ready, as a file that a probe reads.

A worker lives while its event loop turns, its engine makes progress, and it takes messages, or has
a reason not to: its hands are full, Redis or the store is away, it was told to stop. It is ready
when it could take one now.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, time

MAX_AGE_SECONDS = 15.0
"""Nothing that happens every second may be older."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """One moment. Ages in seconds; None: never yet."""

    at: float  # seconds since the epoch
    loop_age: float | None  # since the event loop turned
    claim_age: float | None  # since a message was asked for
    broker_age: float | None  # since Redis answered the housekeeping
    num_in_hand: int
    may_claim: bool
    is_full: bool
    is_engine_well: bool = True

    def why_not_live(self) -> str | None:
        if not self.is_engine_well:
            return "the engine makes no progress"
        if not _is_young(self.broker_age):
            return None  # nothing turns without Redis, and a new process would not help
        if not _is_young(self.loop_age):
            return "the event loop does not turn"
        is_busy = self.is_full or not self.may_claim
        if not is_busy and not _is_young(self.claim_age):
            return "no messages are asked for"
        return None

    def why_not_ready(self) -> str | None:
        if reason := self.why_not_live():
            return reason
        if not _is_young(self.broker_age):
            return "Redis does not answer"
        return None if self.may_claim else "the object store is away, or the worker is stopping"


class Pulse:
    """What happens in a worker, noted as it happens. Any thread."""

    def __init__(self) -> None:
        self.loop_at: float | None = None
        self.claim_at: float | None = None
        self.broker_at: float | None = None

    def loop_turned(self) -> None:
        self.loop_at = monotonic()

    def claim_sent(self) -> None:
        self.claim_at = monotonic()

    def broker_answered(self) -> None:
        self.broker_at = monotonic()

    def health(
        self, *, num_in_hand: int, may_claim: bool, is_full: bool, is_engine_well: bool
    ) -> Health:
        return Health(
            at=time(),
            loop_age=_age(self.loop_at),
            claim_age=_age(self.claim_at),
            broker_age=_age(self.broker_at),
            num_in_hand=num_in_hand,
            may_claim=may_claim,
            is_full=is_full,
            is_engine_well=is_engine_well,
        )


def write_health(file: Path, health: Health) -> None:
    """Replace the file in one step: a probe never reads half of it."""
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    partial.write_text(json.dumps(asdict(health)), encoding="utf-8")
    partial.replace(file)


def problem(file: Path, *, must_be_ready: bool) -> str | None:
    """Why the probe fails; None when all is well."""
    try:
        health = Health(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return f"there is no {file}: the worker has not started, or worker.health_file differs"
    except (OSError, ValueError, TypeError) as error:
        return f"{file} cannot be read: {error}"
    if abs(time() - health.at) > MAX_AGE_SECONDS:
        return f"{file} was last written {time() - health.at:.0f} s ago"
    return health.why_not_ready() if must_be_ready else health.why_not_live()


def _is_young(age: float | None) -> bool:
    return age is not None and age <= MAX_AGE_SECONDS


def _age(at: float | None) -> float | None:
    return None if at is None else monotonic() - at
