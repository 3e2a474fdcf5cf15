"""Whether a scene kept the promise: each task whose submit returned has one result that stands.

Compares what the producer knows to be accepted with what the store has taken, what workers wrote
down about themselves, and what is left in Redis. Pure but for the reading of Redis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import redis

from tests.faults.crew import Exit
from tests.faults.gate import Put
from tests.faults.journal import Line
from tests.faults.spec import Sort
from visionq.contract import Lane
from visionq.names import Names
from visionq_worker.lease_scripts import SUSPECT_STRIKES


@dataclass(slots=True, kw_only=True)
class Report:
    """What is told of a scene. `complaints` make its row red."""

    accepted: int
    lost: list[str]
    changed: list[str]
    duplicates: int
    redeliveries: list[float]
    suspects: list[float]
    """As `redeliveries`, of tasks with which more than one worker died."""
    own_exits: list[Exit]
    leftovers: dict[str, int]
    faults: str = ""
    notes: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    events: str = ""

    @property
    def is_green(self) -> bool:
        return not self.complaints

    def require(self, condition: bool, complaint: str) -> None:
        if not condition:
            self.complaints.append(complaint)

    def within(self, what: str, value: float, most: float) -> None:
        """A figure and its bound; told in any case."""
        self.notes.append(f"{what} {value:.3g}")
        self.require(value <= most, f"{what} is {value:.3g}, more than {most:.3g}")


def find_lost(accepted: Iterable[str], puts: Mapping[str, list[Put]]) -> list[str]:
    return sorted(set(accepted) - set(puts))


def find_changed(puts: Mapping[str, list[Put]]) -> list[str]:
    """Tasks whose result was replaced by another one. The same bytes again are a retry."""
    return sorted(
        task_id for task_id, stored in puts.items() if len({put.digest for put in stored}) > 1
    )


def count_duplicates(lines: Iterable[Line], excused: Mapping[str, int]) -> int:
    """Runs of the engine beyond one for each task, each worker lost with it, each postponement."""
    runs, allowed = Counter[str](), Counter(excused)
    for line in lines:
        if line.what == "run":
            runs[line.task_id] += 1
        elif line.what == "later":
            allowed[line.task_id] += 1
    return sum(max(0, count - 1 - allowed[task_id]) for task_id, count in runs.items())


def find_redeliveries(
    lines: Sequence[Line], exits: Iterable[Exit]
) -> tuple[list[float], list[float]]:
    """Seconds from a worker's death to the next start of each task that died with it.

    Apart from them those of suspects, with which others had died before: they wait until a worker
    has nothing else in hand.
    """
    takes: dict[str, list[Line]] = {}
    for line in lines:
        if line.what == "take":
            takes.setdefault(line.task_id, []).append(line)
    deaths: Counter[str] = Counter()
    seconds: tuple[list[float], list[float]] = ([], [])
    for gone in sorted(exits, key=lambda gone: gone.at):
        for task_id in gone.in_hand:
            deaths[task_id] += 1
            later = [take.at for take in takes[task_id] if take.at > gone.at]
            if later:
                seconds[deaths[task_id] >= SUSPECT_STRIKES].append(min(later) - gone.at)
    return sorted(seconds[0]), sorted(seconds[1])


def find_leftovers(raw: redis.Redis, names: Names, sort: Sort) -> dict[str, int]:
    """What is still in a queue, in somebody's hands or waiting to be ended, by key."""
    keys = [names.queue(lane) for lane in Lane]
    if sort == "ours":
        keys += [names.unacked(), names.unacked_index(), names.leases(), names.open()]
        keys += [f"{names.lane(lane)}:line" for lane in Lane]
    else:  # which knows no records
        keys += [f"{names.namespace}:stock-unacked", f"{names.namespace}:stock-unacked-index"]
    sizes = {key: size_of(raw, key) for key in keys}
    return {key: size for key, size in sizes.items() if size}


def size_of(raw: redis.Redis, key: str) -> int:
    """Elements of a list, hash or sorted set; 0 where there is none."""
    kind = str(raw.type(key))
    if kind == "list":
        return int(raw.llen(key))
    if kind == "hash":
        return int(raw.hlen(key))
    return int(raw.zcard(key)) if kind == "zset" else 0
