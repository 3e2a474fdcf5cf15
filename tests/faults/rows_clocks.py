"""Rows of the fault matrix in which clocks are wrong, or are set while tasks run."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import monotonic, time
from typing import Any, cast

from tests.faults.clocks import Clock, ClockedRedis
from tests.faults.crew import Slot
from tests.faults.nursery import Nursery
from tests.faults.oracle import Report
from tests.faults.other_client import OtherClient
from tests.faults.requirements import (
    REDELIVERY_SLACK_SECONDS,
    require_few_duplicates,
    require_no_own_exits,
    require_none_failed,
    require_quick_redelivery,
)
from tests.faults.scene import Scene, World
from tests.support.waiting import wait_until
from visionq import Client, State
from visionq_worker.app import EXIT_START

SOME_MINUTES = 600
"""By so much a clock may be off where the store checks it: S3, as the embedded one, allows 15."""
HOUR = 3600
DAY = 24 * HOUR
CONCURRENCY = 4
"""Of three workers: as many tasks run when the clock jumps, and others wait behind them."""
REPORTED_SECONDS = 8.0
"""After a jump, until clients see workers again: they report every five seconds."""


@dataclass(slots=True)
class Timed:
    """Tasks whose times go by Redis's clock."""

    scene: Scene
    client: Client
    long_before: list[str] = field(default_factory=list)
    short_before: list[str] = field(default_factory=list)
    short_after: list[str] = field(default_factory=list)
    delayed: list[str] = field(default_factory=list)

    def submit_before(self, count: int) -> None:
        """Some that a jump of an hour may expire, some that it must not, some to be begun later."""
        for _ in range(count):
            self.short_before.append(self.submit(expires_in_seconds=HOUR / 2))
            self.long_before.append(self.submit(expires_in_seconds=4 * HOUR))
            self.delayed.append(self.submit(start_in_seconds=2.0))

    def submit(self, key: str | None = None, **options: Any) -> str:
        scene = self.scene
        handle = self.client.submit(
            "ask",
            scene.image,
            "What is this?",
            num_crops=1,
            max_new_tokens=20,
            idempotency_key=key or scene.producer.new_key(),
            **options,
        )
        scene.producer.accepted.append(handle.id)
        return handle.id

    def expired(self, ids: list[str]) -> int:
        states = [status.state for status in self.scene.client.status_many(ids)]
        return sum(state is State.EXPIRED for state in states)


def wrong_clocks(world: World) -> Report:
    """Row 45: clocks of workers and clients are wrong, more and more, and right again."""
    num_each, num_kills = world.pick((4, 2), (40, 12))
    with ExitStack() as stack:
        skewed = [_skewed(world, stack, seconds) for seconds in (SOME_MINUTES, -SOME_MINUTES)]
        clocks = [Clock(world.folder / f"client{seconds:+d}", seconds) for seconds in (HOUR, -HOUR)]
        scene = stack.enter_context(world.scene("wrong-clocks", concurrency=CONCURRENCY))
        spec = scene.spec()
        clients = [stack.enter_context(OtherClient(spec.env, one.env)) for one in clocks]
        scene.crew.add(spec)
        wrong = [scene.crew.add(spec, nursery=nursery)[0] for _, nursery in skewed]
        began = time()
        timed = [Timed(scene, cast("Client", client)) for client in (scene.client, *clients)]
        for number in range(num_kills):
            for one in timed:
                one.short_after += [one.submit(expires_in_seconds=60) for _ in range(num_each)]
                one.delayed += [one.submit(start_in_seconds=1.0) for _ in range(num_each)]
            scene.crew.kill(wrong[number % 2])
        for slot in wrong:
            scene.crew.wait_until_up(slot)
        _let_run(scene, wrong)
        for (clock, _), seconds in zip(skewed, (HOUR, -HOUR), strict=True):
            clock.set(seconds)
        scene.events.note("the store refuses two workers")
        scene.producer.submit(num_each)
        scene.wait_until_idle(seconds=60)
        _require_no_start(scene, skewed[0][1])
        for clock, _ in skewed:
            clock.set(0)
        scene.events.note("all clocks are right")
        _let_run(scene, wrong)
        report = scene.report(f"two clocks off, {num_kills} kill -9", patience_seconds=30)
        report.within("most seconds of a task", _most_seconds(scene, began, report), 60)
        for one in timed:
            report.require(not one.expired(one.short_after), "tasks expired by a wrong clock")
            early = [each for each in _waits(scene, one.delayed) if each < 1.0]
            report.require(not early, f"{len(early)} delayed tasks began too early")
        require_none_failed(scene, report)
        require_quick_redelivery(scene, report)
        require_few_duplicates(report)
        require_no_own_exits(report, but=EXIT_START)
        return report


def _let_run(scene: Scene, slots: list[Slot]) -> None:
    """Long tasks, until each of these workers has one in hand."""

    def all_run() -> bool:
        scene.producer.submit(tokens=100)
        return all(scene.journal.in_hand(slot.pid) for slot in slots)

    wait_until(all_run, seconds=30, what="the workers to run tasks")


def _skewed(world: World, stack: ExitStack, seconds: int) -> tuple[Clock, Nursery]:
    clock = Clock(world.folder / f"clock{seconds:+d}", seconds)
    return clock, stack.enter_context(Nursery(clock.env))


def _waits(scene: Scene, ids: list[str]) -> list[float]:
    """Seconds from each submit to its start, by the records."""
    statuses = scene.client.status_many(ids)
    return [(one.started_at or 0.0) - (one.submitted_at or 0.0) for one in statuses]


def _most_seconds(scene: Scene, began: float, report: Report) -> float:
    """The longest of all durations that records and results tell; none may be out of its order."""
    ids = sorted(set(scene.producer.accepted))
    seconds = [0.0]
    for status in scene.client.status_many(ids):
        result = scene.client.result(status.id)
        times = (began - 1, status.submitted_at, status.started_at, status.finished_at, time() + 1)
        pairs = list(pairwise(one or 0.0 for one in times))
        report.require(all(a <= b for a, b in pairs), f"times of {status.id}: {times}")
        timings = result.timings
        told = [timings.queue_seconds, timings.fetch_seconds, timings.prepare_seconds]
        told += [timings.prefill_seconds, timings.decode_seconds, status.store_seconds]
        seconds += [one for one in told if one is not None]
        report.require(
            abs(result.finished_at - (status.finished_at or 0.0)) < 60,
            f"{status.id} has ended at {result.finished_at}, and at {status.finished_at}",
        )
    report.require(min(seconds) >= 0, "a duration is below 0")
    return max(seconds)


def _require_no_start(scene: Scene, nursery: Nursery) -> None:
    """A worker that the store refuses for its clock does not start, and says why."""
    (slot,) = scene.crew.add(scene.spec(), nursery=nursery, is_awaited=False)
    slot.is_kept = False
    gone = scene.crew.wait_until_gone(slot.pid)
    assert gone.code == EXIT_START, f"it has ended with {gone.code}"
    log = (Path(slot.spec.folder) / slot.spec.log_name).read_text()
    assert "clock is wrong" in log, log


def redis_clock_jumps(world: World) -> Report:
    """Row 44: Redis's clock jumps by an hour, and at that moment a worker is killed."""
    offsets = world.pick((HOUR, 0), (HOUR, 0, -HOUR, 0, HOUR, -HOUR, 0))
    num_each, count = world.pick((4, 20), (12, 80))
    with (
        ClockedRedis(world.folder / "clocked-servers") as server,
        world.scene(
            "redis-clock-jumps",
            concurrency=CONCURRENCY,
            tokens=(30, 80),
            broker_url=server.url,
            record_ttl_seconds=DAY,
        ) as scene,
    ):
        slots = scene.crew.add(scene.spec(), count=3)
        timed, reported = Timed(scene, scene.client), 0.0
        for number, offset in enumerate(offsets):
            with scene.producer.steadily(count=count, per_second=10):
                key = scene.producer.new_key()
                first = timed.submit(key, expires_in_seconds=4 * HOUR)
                running = scene.producer.submit(3 * CONCURRENCY, tokens=200)
                pid = scene.wait_until_running(running[-1])
                timed.submit_before(num_each)
                server.set_clock(offset)
                scene.events.note(f"Redis's clock is {offset} s ahead")
                scene.crew.kill(next(slot for slot in slots if slot.pid == pid))
                assert timed.submit(key, expires_in_seconds=4 * HOUR) == first
                timed.short_after += [timed.submit(expires_in_seconds=60) for _ in range(num_each)]
                reported = max(reported, _seconds_to_reports(timed))
            scene.drain(patience_seconds=20)
            assert not scene._unsettled(), f"tasks wait after jump {number}"
        report = scene.report(f"{len(offsets)} jumps of an hour, as many kill -9")
        report.within("workers seen after", reported, REPORTED_SECONDS)
        slowest = max(report.redeliveries + report.suspects, default=0.0)
        # A jump is no reason to take tasks from those who live: each lease counts from it anew.
        most = 2 * scene.lease_seconds + REDELIVERY_SLACK_SECONDS
        report.within("redelivered after", slowest, most)
        report.notes.append(f"{timed.expired(timed.short_before)} expired by a jump")
        wrong = timed.expired(timed.short_after + timed.long_before)
        report.require(not wrong, f"{wrong} tasks expired before their time")
        require_few_duplicates(report)
        require_no_own_exits(report)
        return report


def _seconds_to_reports(timed: Timed) -> float:
    """Until a client knows again that there are workers."""
    began, waiting = monotonic(), timed.submit(start_in_seconds=REPORTED_SECONDS)
    status = timed.scene.client.status
    wait_until(lambda: status(waiting).has_workers, seconds=60, what="workers to be seen")
    return monotonic() - began
