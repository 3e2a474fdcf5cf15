"""Rows of the fault matrix in which clocks are wrong, or are set while tasks run."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from tests.faults.clocks import ClockedRedis
from tests.faults.oracle import Report
from tests.faults.requirements import (
    REDELIVERY_SLACK_SECONDS,
    require_few_duplicates,
    require_no_own_exits,
)
from tests.faults.scene import Scene, World
from tests.support.waiting import wait_until
from visionq import State

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
        handle = scene.client.submit(
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


def redis_clock_jumps(world: World) -> Report:
    """Row 44: Redis's clock jumps by an hour, and at that moment a worker is killed."""
    offsets = world.pick((HOUR, 0), (HOUR, 0, -HOUR, 0, 0, HOUR, -HOUR, 0))
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
        timed, reported = Timed(scene), 0.0
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
