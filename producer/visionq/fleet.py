"""What workers tell of themselves, and what follows for a task that is yet to be submitted.

Each worker writes one field of the hash `workers` every few seconds, with the time of Redis's
clock before it; what is older than `REPORT_TTL_SECONDS` is of a worker that has gone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from visionq.connections import mapped_errors
from visionq.contract import Lane
from visionq.newer_scripts import REPORT_TTL_SECONDS as REPORT_TTL_SECONDS
from visionq.records import LANES
from visionq.scripts import evaluate

if TYPE_CHECKING:
    import redis

    from visionq.names import Names

KNOWN_SECONDS = 60.0
"""How long a client goes by what it has found once."""

# KEYS workers; ARGV owner, report, ttl. Who has told nothing for so long is dropped. What a clock
# told that was set back since is believed for as long from now on, and not until then.
TELL = """
local now = tonumber(redis.call('TIME')[1])
redis.call('HSET', KEYS[1], ARGV[1], now .. ' ' .. ARGV[2])
local told = redis.call('HGETALL', KEYS[1])
for i = 1, #told, 2 do
  local at, report = string.match(told[i + 1], '^(%d+) (.*)$')
  at = tonumber(at or 0)
  if at < now - ARGV[3] then redis.call('HDEL', KEYS[1], told[i])
  elseif at > now then redis.call('HSET', KEYS[1], told[i], now .. ' ' .. report) end
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
"""

# KEYS workers, lane hashes; ARGV ttl. Returns the reports, how many wait in each lane, the time.
LOOK = """
local now = tonumber(redis.call('TIME')[1])
local reports, waiting = {}, {}
for _, told in ipairs(redis.call('HVALS', KEYS[1])) do
  local at, report = string.match(told, '^(%d+) (.*)$')
  if at and math.abs(now - at) <= tonumber(ARGV[1]) then reports[#reports + 1] = report end
end
for i = 2, #KEYS do
  local n = redis.call('HMGET', KEYS[i], 'submitted', 'started')
  waiting[i - 1] = math.max(0, (tonumber(n[1] or '0')) - (tonumber(n[2] or '0')))
end
local time = redis.call('TIME')
return {reports, waiting, time[1] .. '.' .. string.format('%06d', time[2])}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """One worker, by itself. What it has not measured yet is None.

    `tasks_per_second` counts only the time in which it had any. `seconds_per_task` is from a task's
    start to its end. `max_num_crops`: see `visionq.kinds.at_most`. `urls_allowed`: whether images
    behind https URLs are fetched; an older worker does not tell. `contract_version`: the newest
    that it reads.
    """

    model: str
    model_revision: str | None
    max_context_tokens: int
    concurrency: int
    max_num_crops: int | None = None
    tasks_per_second: float | None = None
    seconds_per_task: float | None = None
    urls_allowed: bool | None = None
    contract_version: int = 1


@dataclass(frozen=True, slots=True)
class Fleet:
    """All workers at one moment, and how many tasks wait in each lane.

    As a position, the number of those that wait may be too high: cancelled tasks are counted until
    their turn has come.
    """

    workers: tuple[WorkerReport, ...]
    waiting: Mapping[Lane, int]

    @property
    def min_context_tokens(self) -> int | None:
        """What fits into this fits wherever the task is run."""
        return min((one.max_context_tokens for one in self.workers), default=None)

    @property
    def max_context_tokens(self) -> int | None:
        """What does not fit into this fits nowhere."""
        return max((one.max_context_tokens for one in self.workers), default=None)

    @property
    def takes_urls(self) -> bool:
        """Whether a worker may fetch an image behind a URL, if any is alive."""
        return not self.workers or any(one.urls_allowed is not False for one in self.workers)

    @property
    def min_num_crops(self) -> int | None:
        """No model is given fewer than this of what is asked for; None: each gets all of it."""
        return min((one for one in self._bounds if one is not None), default=None)

    @property
    def max_num_crops(self) -> int | None:
        """No model is given more than this; None: one gets all of it."""
        return None if None in self._bounds else max(filter(None, self._bounds), default=None)

    @property
    def _bounds(self) -> list[int | None]:
        return [one.max_num_crops for one in self.workers]

    def seconds_until_done(self, lane: Lane) -> float | None:
        """For a task submitted now; None until the workers have measured anything.

        What waits in the lanes before its own, and there before it, comes first.
        """
        rates = [one.tasks_per_second for one in self.workers if one.tasks_per_second]
        taken = [one.seconds_per_task for one in self.workers if one.seconds_per_task is not None]
        if not rates or not taken:
            return None
        num_before = sum(self.waiting[one] for one in LANES[: LANES.index(lane) + 1])
        return num_before / sum(rates) + sum(taken) / len(taken)


_BOOT_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)


def elapsed() -> float:
    """Seconds by a clock that nobody sets; on Linux by one that goes on while a machine sleeps."""
    return time.monotonic() if _BOOT_CLOCK is None else time.clock_gettime(_BOOT_CLOCK)


class Fleets:
    """Writes and reads what workers tell. Thread-safe. Raises `BrokerUnavailable`."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self._redis = client
        self._key = names.workers()
        self._lanes = [names.lane(lane) for lane in LANES]
        self._tell = client.register_script(TELL)
        self._look = client.register_script(LOOK)
        self._known: tuple[float, Fleet] | None = None
        self._redis_ahead_seconds = 0.0

    def tell(self, owner: str, report: WorkerReport) -> None:
        """For workers: write, or write anew, what this one tells."""
        with mapped_errors():
            told = json.dumps(asdict(report))
            args = [owner, told, str(REPORT_TTL_SECONDS)]
            evaluate(self._redis, self._tell, [self._key], args)

    def look(self) -> Fleet:
        """What there is now, in one round trip."""
        with mapped_errors():
            keys = [self._key, *self._lanes]
            found = evaluate(self._redis, self._look, keys, [str(REPORT_TTL_SECONDS)])
        reports, waiting, now = found
        # Its last act: all that the call took before that, a new connection say, is of no account.
        self._redis_ahead_seconds = float(now) - elapsed()
        fleet = Fleet(
            tuple(filter(None, map(_report, reports))),
            dict(zip(LANES, map(int, waiting), strict=True)),
        )
        self._known = (elapsed(), fleet)
        return fleet

    def now(self) -> float:
        """Seconds since the epoch by Redis's clock, as it went `KNOWN_SECONDS` ago at the earliest.

        The clock of this machine may be wrong by any amount.
        """
        self.known()
        return elapsed() + self._redis_ahead_seconds

    def known(self) -> Fleet:
        """As it was `KNOWN_SECONDS` ago at the earliest."""
        known, now = self._known, elapsed()
        if known is None or now - known[0] > KNOWN_SECONDS:
            return self.look()
        return known[1]


def _report(text: str) -> WorkerReport | None:
    """Of a newer worker, what is known here; None for what is no report.

    One that somebody has spoilt must not keep all clients from submitting.
    """
    known = WorkerReport.__dataclass_fields__
    try:
        told = json.loads(text)
        report = WorkerReport(**{name: value for name, value in told.items() if name in known})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    counts = [report.max_context_tokens, report.concurrency, report.max_num_crops or 1]
    counts.append(report.contract_version)
    rates = (report.tasks_per_second or 0.0, report.seconds_per_task or 0.0)
    is_sound = all(isinstance(one, int) for one in counts)
    return report if is_sound and all(isinstance(one, int | float) for one in rates) else None
