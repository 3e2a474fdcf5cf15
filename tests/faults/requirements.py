"""What rows ask of their reports beyond what is asked of every one."""

from __future__ import annotations

from tests.faults.oracle import Report
from tests.faults.scene import Scene

REDELIVERY_SLACK_SECONDS = 2.0
"""Beyond the lease: a sweep, and a turn of the queue."""
EMPTYING_SECONDS = 3.0
"""Until a worker has nothing else in hand: the longest task, and the way to it."""


def require_quick_redelivery(scene: Scene, report: Report) -> None:
    slowest = max(report.redeliveries, default=0.0)
    most = scene.lease_seconds + REDELIVERY_SLACK_SECONDS
    report.require(slowest <= most, f"redelivered after {slowest:.1f} s, more than {most:g} s")
    if report.suspects:
        report.within("suspects after", max(report.suspects), most + EMPTYING_SECONDS)


def require_no_own_exits(report: Report, *, but: int | None = None) -> None:
    """`but`: the code of exits that are right."""
    codes = [gone.code for gone in report.own_exits if gone.code != but]
    report.require(not codes, f"{len(codes)} workers ended by themselves, with {codes}")


def require_none_failed(scene: Scene, report: Report) -> None:
    statuses = scene.client.status_many(sorted(set(scene.producer.accepted)))
    failed = [status.failure.code for status in statuses if status.failure is not None]
    report.require(not failed, f"{len(failed)} tasks failed: {sorted(set(failed))}")


def require_one_run_each(scene: Scene, report: Report) -> None:
    runs = len(scene.journal.of("run"))
    report.require(runs == report.accepted, f"{runs} runs of {report.accepted} tasks")


def require_few_duplicates(report: Report, share: float = 0.0) -> None:
    """Runs without a cause, at most such a share of the tasks."""
    most = int(report.accepted * share)
    report.require(report.duplicates <= most, f"{report.duplicates} runs without a cause")
