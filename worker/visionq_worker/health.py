"""Whether a worker lives and is ready, as a file that a probe reads.

Ready: it could take a message now. Live: nothing is wrong with it that a new process would mend.
While Redis takes no writes a new process could do no more than this one, so an outage, however
long, leaves a worker live. It is not live when its own connections or its event loop have stood
still although Redis takes writes over new connections (`monitor`), or when its engine makes no
progress.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, time

MAX_AGE_SECONDS = 15.0
"""Nothing that happens every second may be older."""
MAX_WRITE_AGE_SECONDS = 15.0
"""Since Redis took the worker's last write, of one every five seconds (`keeper.WRITE_SECONDS`).

A reply that is lost, or a failover of some seconds, takes no worker out of service.
"""
STUCK_SECONDS = 30.0
"""For how long new connections must have worked, and the worker's own not, before it is given up.

A half-open connection is noticed and replaced within 15 s, Celery's pauses included.
"""
STUCK_TIMEOUTS = 6
"""The same in time-outs, where `broker.timeout_seconds` is long: so many tries may be under way."""


def stuck_seconds(timeout_seconds: float) -> float:
    """`STUCK_SECONDS`, or more where one time-out of a connection is long."""
    return max(STUCK_SECONDS, STUCK_TIMEOUTS * timeout_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """One moment. Ages in seconds; None: never yet."""

    at: float  # seconds since the epoch
    loop_age: float | None  # since the event loop turned
    claim_age: float | None  # since a claim was answered, be it that Redis refused it
    accepted_age: float | None  # since a claim was not refused
    write_age: float | None  # since Redis took a write over the worker's own connection
    fresh_for: float | None  # how long it has taken them over new connections; None: not tried
    num_in_hand: int
    may_claim: bool
    is_full: bool
    is_engine_well: bool = True
    stuck_seconds: float = STUCK_SECONDS

    def why_not_live(self) -> str | None:
        if not self.is_engine_well:
            return "the engine makes no progress"
        return self.why_stuck()

    @property
    def may_report(self) -> bool:
        """Whether what is in hand can be reported to Redis."""
        return _is_young(self.write_age, MAX_WRITE_AGE_SECONDS)

    def why_stuck(self) -> str | None:
        """What stands still although Redis takes writes over new connections."""
        if self.fresh_for is None or self.fresh_for < self.stuck_seconds:
            return None
        trouble = self.trouble()
        if trouble is None:
            return None
        return f"{trouble}, and over new connections it has taken writes for {self.fresh_for:.0f} s"

    def trouble(self) -> str | None:
        """What stands still, be it Redis's doing or the worker's."""
        if not self.may_report:
            return f"Redis has taken no write of this worker's {_lasting(self.write_age)}"
        if not _is_young(self.loop_age):
            return f"the event loop has not turned {_lasting(self.loop_age)}"
        if self._should_claim and not _is_young(self.claim_age):
            return f"Redis has answered no claim for messages {_lasting(self.claim_age)}"
        return None

    def why_not_ready(self) -> str | None:
        if reason := self.why_not_live() or self.trouble():
            return reason
        if self._should_claim and not _is_young(self.accepted_age):
            return f"Redis has refused all claims for messages {_lasting(self.accepted_age)}"
        if self.may_claim:
            return None
        return "the object store is away, a task has to run alone, or the worker is stopping"

    @property
    def _should_claim(self) -> bool:
        return self.may_claim and not self.is_full


class Pulse:
    """What happens in a worker, noted as it happens. Any thread."""

    def __init__(self) -> None:
        self.loop_at: float | None = None
        self.claim_at: float | None = None
        self.accepted_at: float | None = None
        self.write_at: float | None = None
        self._fresh: tuple[float, float] | None = None  # the first and the last time

    def loop_turned(self) -> None:
        self.loop_at = monotonic()

    def claim_accepted(self) -> None:
        """Redis has answered a claim, with a message or without one."""
        self.claim_at = self.accepted_at = monotonic()

    def claim_refused(self) -> None:
        """Redis has refused a claim, as it would over any other connection."""
        self.claim_at = monotonic()

    def wrote(self) -> None:
        """Redis has taken a write over the worker's own connection."""
        self.write_at = monotonic()

    def wrote_freshly(self) -> None:
        """The same over a new connection."""
        now = monotonic()
        self._fresh = (self._fresh[0] if self._fresh else now, now)

    def forget_fresh(self) -> None:
        """A write over a new connection has failed, or there is no need for any."""
        self._fresh = None

    def health(
        self,
        *,
        num_in_hand: int,
        may_claim: bool,
        is_full: bool,
        is_engine_well: bool,
        stuck_seconds: float = STUCK_SECONDS,
    ) -> Health:
        fresh = self._fresh
        return Health(
            at=time(),
            loop_age=_age(self.loop_at),
            claim_age=_age(self.claim_at),
            accepted_age=_age(self.accepted_at),
            write_age=_age(self.write_at),
            fresh_for=fresh[1] - fresh[0] if fresh else None,
            num_in_hand=num_in_hand,
            may_claim=may_claim,
            is_full=is_full,
            is_engine_well=is_engine_well,
            stuck_seconds=stuck_seconds,
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


def _is_young(age: float | None, most: float | None = None) -> bool:
    return age is not None and age <= (MAX_AGE_SECONDS if most is None else most)


def _lasting(age: float | None) -> str:
    return "yet" if age is None else f"for {age:.0f} s"


def _age(at: float | None) -> float | None:
    return None if at is None else monotonic() - at
