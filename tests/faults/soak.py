"""Row 37 of the fault matrix: `python -m tests.faults.soak` looks for what grows with time.

Nothing is broken. A producer keeps a bounded number of tasks waiting, two workers around the
simulated device answer them for minutes, and their resident memory and Redis's keys are looked at
every other second. Of ten tasks eight ask something new, one asks what the one before asked, and
one asks about a picture that is not there. Records live for a minute, so that Redis too can settle;
a key that is neither a task's nor one of the fixed ones makes the row red. Memory is judged over
50,000 tasks after a warm-up, by the least-squares slope over the worker's own tasks. The exit code
is 1 when the row is red.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import linear_regression
from tempfile import TemporaryDirectory
from time import monotonic

from tests.faults.crew import Slot
from tests.faults.events import keep_events
from tests.faults.memory import MEGABYTE, resident_bytes
from tests.faults.nursery import Nursery
from tests.faults.oracle import Report
from tests.faults.requirements import require_few_duplicates, require_no_own_exits
from tests.faults.scene import CutShort, Scene, World
from tests.faults.tables import as_markdown, as_text, when_and_where
from tests.support.waiting import wait_until
from visionq.contract import Lane
from visionq.local import LocalServers
from visionq.names import Names

NUM_WORKERS = 2
NUM_WARM_UP = 10_000
"""Tasks of all workers until threads, arenas and caches have grown to their size."""
NUM_TASKS = NUM_WARM_UP + 50_000
CONCURRENCY = 16
MOST_OPEN = 100
"""Tasks that are accepted and not answered, in queues and hands together."""
STEP_SECONDS = 0.001
TOKENS = (2, 6)
MISSING = "inputs/" + "0" * 64
RECORD_TTL_SECONDS = 60
"""The least that the settings allow; Celery's results and the known work live as long."""
SAMPLE_SECONDS = 2.0
FEWEST_JUDGED = 10_000
"""After the warm-up; fewer tell noise from growth no more."""
MOST_GROWTH_MB = 1.0
"""In 10,000 tasks of a worker."""

HEAD = (
    "row",
    "what",
    "tasks",
    "seconds",
    "tasks/s",
    "lost",
    "duplicated",
    "MB per 10,000 tasks",
    "RSS after warm-up / last",
    "keys of no task",
    "keys of tasks",
    "Redis after warm-up / last",
    "verdict",
)


@dataclass(frozen=True, slots=True)
class WorkerSample:
    """How many tasks a worker has done by then, and what it takes."""

    num_done: int
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A look at everything that might grow."""

    workers: tuple[WorkerSample, ...]
    num_task_keys: int
    other_keys: frozenset[str]
    redis_bytes: int

    @property
    def num_done(self) -> int:
        """Tasks of all workers."""
        return sum(worker.num_done for worker in self.workers)


@dataclass(frozen=True, slots=True)
class Soaked:
    """What came of it. `samples` are those after the warm-up, or all if it did not end."""

    report: Report
    seconds: float
    samples: Sequence[Sample]

    def slopes(self) -> list[float]:
        """By worker, MB in 10,000 of its tasks. None at all when there were too few to tell."""
        if self.report.accepted < NUM_WARM_UP + FEWEST_JUDGED:
            return []
        by_worker = zip(*(sample.workers for sample in self.samples), strict=True)
        return [slope_mb(samples) for samples in by_worker]

    def other_keys(self) -> set[str]:
        """Every key that was seen and is no task's."""
        return set().union(*(sample.other_keys for sample in self.samples))


def slope_mb(samples: Sequence[WorkerSample]) -> float:
    """MB in 10,000 tasks, by least squares."""
    tasks = [sample.num_done / 10_000 for sample in samples]
    taken = [sample.resident_bytes / MEGABYTE for sample in samples]
    return linear_regression(tasks, taken).slope


def main() -> int:
    wanted = _arguments(sys.argv[1:])
    seed = wanted.seed if wanted.seed is not None else random.randrange(1_000_000)
    print(f"seed {seed}", flush=True)
    with (
        TemporaryDirectory(prefix="visionq-soak.") as folder,
        LocalServers(Path(folder, "servers")) as servers,
        Nursery() as nursery,
    ):
        world = World(servers=servers, nursery=nursery, folder=Path(folder), seed=seed)
        try:
            soaked = play(world, count=wanted.count)
        except CutShort as error:
            keep_events(error.report.events, wanted.events, "row-37")
            print(f"RED: {error}")
            return 1
        where = when_and_where(servers)
    if not soaked.report.is_green:
        keep_events(soaked.report.events, wanted.events, "row-37")
    table = [HEAD, _cells(soaked)]
    print("\n".join(["", as_text(table), where, *soaked.report.complaints]))
    if wanted.markdown is not None:
        wanted.markdown.write_text(f"## {where}\n\nSeed {seed}.\n\n{as_markdown(table)}\n")
    return 0 if soaked.report.is_green else 1


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--count", type=int, default=NUM_TASKS, help="tasks (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of all that is drawn; default: another each time")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument("--events", type=Path, metavar="FOLDER", help="for the log of a red run")
    return parser.parse_args(given)


def play(world: World, *, count: int = NUM_TASKS) -> Soaked:
    """So many tasks for two workers, and what grew. Raises `CutShort`."""
    with world.scene(
        "soak",
        lease_seconds=5.0,
        concurrency=CONCURRENCY,
        tokens=TOKENS,
        record_ttl_seconds=RECORD_TTL_SECONDS,
        settings={"VISIONQ_WORKER__REUSE": "true"},  # as it is by default; tests turn it off
    ) as scene:
        slots = scene.crew.add(replace(scene.spec(), step_seconds=STEP_SECONDS), count=NUM_WORKERS)
        began = monotonic()
        samples = [_look(scene, slots) for _ in _every_so_often(scene, count)]
        _wait_until_open(scene, at_most=0)
        seconds = monotonic() - began
        samples.append(_look(scene, slots))
        soaked = Soaked(
            report=scene.report_of_results("none"),
            seconds=seconds,
            samples=[each for each in samples if each.num_done >= NUM_WARM_UP] or samples,
        )
        _judge(soaked, scene)
        return soaked


def _every_so_often(scene: Scene, count: int) -> Iterator[None]:
    """Submit so many tasks; comes back to the caller whenever it is time for a sample."""
    due = monotonic()
    for number in range(count):
        _wait_until_open(scene, at_most=MOST_OPEN - 1)
        _submit(scene, number)
        if monotonic() >= due:
            yield
            due = monotonic() + SAMPLE_SECONDS


def _wait_until_open(scene: Scene, *, at_most: int) -> None:
    wait_until(
        lambda: len(scene.producer.accepted) - scene.gate.num_stored <= at_most,
        seconds=60,
        what="the workers to keep up",
    )


def _submit(scene: Scene, number: int) -> None:
    """Of ten, one like the one before, and one that must fail."""
    match number % 10:
        case 9:
            scene.producer.submit(image=MISSING)
        case 8:
            scene.producer.submit(word=f"Number {number - 1}.")
        case _:
            scene.producer.submit(word=f"Number {number}.")


def _look(scene: Scene, slots: Sequence[Slot]) -> Sample:
    keys = set(scene.raw.scan_iter(count=1000))
    other_keys = {key for key in keys if not key.startswith(_prefixes_of_tasks(scene.names))}
    memory: dict[str, int] = scene.raw.info("memory")
    return Sample(
        workers=tuple(
            WorkerSample(scene.journal.count("done", pid=slot.pid), resident_bytes(slot.pid))
            for slot in slots
        ),
        num_task_keys=len(keys) - len(other_keys),
        other_keys=frozenset(other_keys),
        redis_bytes=memory["used_memory"],
    )


def _prefixes_of_tasks(names: Names) -> tuple[str, ...]:
    """Of the keys that a task leaves behind until their TTL is over."""
    return names.record(""), names.known(""), names.celery_result("")


def _fixed_keys(names: Names) -> set[str]:
    """Those that a namespace has however many tasks there were; most of them come and go."""
    keys = {names.open(), names.workers(), names.unacked(), names.unacked_index(), names.leases()}
    keys |= {names.clock(), names.write_check()}
    for lane in Lane:
        queue = names.queue(lane)
        keys |= {queue, names.lane(lane), f"{names.lane(lane)}:line"}
        keys |= {f"_kombu.binding.{queue}", f"_kombu.binding_permanent.{queue}"}
    return keys


def _judge(soaked: Soaked, scene: Scene) -> None:
    report = soaked.report
    num_again = sum(len(puts) > 1 for puts in scene.gate.puts().values())
    report.require(not num_again, f"{num_again} results were stored more than once")
    require_few_duplicates(report)
    require_no_own_exits(report)
    strange = soaked.other_keys() - _fixed_keys(scene.names)
    report.require(not strange, f"keys that belong to no task: {sorted(strange)[:5]}")
    for slope in soaked.slopes():
        report.require(slope < MOST_GROWTH_MB, f"a worker grows by {slope:.2f} MB in 10,000 tasks")


def _cells(soaked: Soaked) -> tuple[str, ...]:
    report, first, last = soaked.report, soaked.samples[0], soaked.samples[-1]
    most_keys = max(each.num_task_keys for each in soaked.samples)
    return (
        "37",
        "soak",
        str(report.accepted),
        f"{soaked.seconds:.0f}",
        f"{report.accepted / soaked.seconds:.0f}",
        str(len(report.lost)),
        str(report.duplicates),
        ", ".join(f"{slope:+.2f}" for slope in soaked.slopes()) or "too few tasks",
        ", ".join(
            f"{_mb(one.resident_bytes)} / {_mb(other.resident_bytes)}"
            for one, other in zip(first.workers, last.workers, strict=True)
        ),
        str(len(soaked.other_keys())),
        str(most_keys),
        f"{_mb(first.redis_bytes)} / {_mb(last.redis_bytes)}",
        "green" if report.is_green else "RED",
    )


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / MEGABYTE:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
