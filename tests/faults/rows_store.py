"""Rows of the fault matrix in which the object store fails."""

from __future__ import annotations

from time import monotonic, sleep

from tests.faults.oracle import Report
from tests.faults.requirements import (
    require_few_duplicates,
    require_no_own_exits,
    require_none_failed,
)
from tests.faults.scene import Scene, World


def store_errs(world: World) -> Report:
    """Row 25: nearly every third request is answered 500 or 503."""
    count, rate = world.pick((40, 20.0), (500, 20.0))
    with world.scene("store-errs") as scene:
        scene.crew.add(scene.spec(), count=2)
        scene.gate.answer_errors(0.3)
        with scene.producer.steadily(count=count, per_second=rate):
            pass
        scene.drain(patience_seconds=30)
        scene.gate.passing()
        report = scene.report(f"{scene.gate.num_errors} errors")
        report.notes.append(f"p99 {_p99_seconds(scene):.2f} s")
        require_none_failed(scene, report)
        require_no_own_exits(report)
        return report


def store_down(world: World) -> Report:
    """Row 26: the store is gone for a while; answers are kept and not made twice."""
    down_seconds = world.pick(4.0, 60.0)
    with world.scene("store-down", tokens=(50, 100)) as scene:
        scene.crew.add(scene.spec(), count=2)
        in_flight = scene.producer.submit(10)
        for task_id in in_flight:
            scene.wait_until_running(task_id)
        scene.events.note("the store is killed")
        scene.servers.kill("s3")
        scene.producer.submit(20)
        sleep(down_seconds / 2)
        middle = monotonic()
        sleep(down_seconds / 2)
        num_claimed = sum(line.at > middle for line in scene.journal.of("take"))
        scene.servers.restart("s3")
        scene.events.note("the store is back")
        report = scene.report(f"{down_seconds:g} s without the store", patience_seconds=30)
        runs = len(scene.journal.of("run"))
        report.require(runs == report.accepted, f"{runs} runs of {report.accepted} tasks")
        report.within("begun in the outage's second half", num_claimed, 20)
        require_none_failed(scene, report)
        require_no_own_exits(report)
        return report


def store_slow(world: World) -> Report:
    """Row 27: replies of the store come late, or never though it has taken the result."""
    delay_seconds = world.pick(2.0, 8.0)
    with world.scene("store-slow") as scene:
        scene.crew.add(scene.spec(), count=2)
        scene.gate.swallow_puts(world.pick(5, 50))
        scene.producer.submit(world.pick(10, 100))
        scene.wait_until_idle(seconds=60)
        scene.gate.delay(delay_seconds)
        scene.producer.submit(world.pick(5, 50))
        scene.drain(patience_seconds=30)
        scene.gate.passing()
        report = scene.report(f"replies lost, then {delay_seconds:g} s late")
        require_few_duplicates(report)
        require_none_failed(scene, report)
        require_no_own_exits(report)
        return report


def _p99_seconds(scene: Scene) -> float:
    statuses = scene.client.status_many(sorted(set(scene.producer.accepted)))
    seconds = sorted(
        status.finished_at - status.submitted_at
        for status in statuses
        if status.finished_at is not None and status.submitted_at is not None
    )
    return seconds[int(0.99 * (len(seconds) - 1))] if seconds else 0.0
