"""Rows of the fault matrix in which the object store fails."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import monotonic, sleep

from tests.faults.oracle import Report
from tests.faults.requirements import (
    require_few_duplicates,
    require_no_own_exits,
    require_none_failed,
)
from tests.faults.scene import Scene, World
from tests.faults.store_faults import StoreFault
from visionq.records import LOOK_SECONDS

OPERATIONS = (frozenset({"GET"}), frozenset({"PUT"}), frozenset({"GET", "PUT"}))
"""By which the store misbehaves, one after the other."""
FAULTS = (
    StoreFault(kind="status", status=503, code="SlowDown"),
    StoreFault(kind="status", status=429, code=""),
    StoreFault(kind="status", status=404, code=""),
    StoreFault(kind="status", status=400, code="Unheard"),
    StoreFault(kind="status", status=400, code="ExpiredToken"),
    StoreFault(kind="status", status=403, code="AccessDenied"),
    StoreFault(kind="status", status=403, code="RequestTimeTooSkewed"),
    StoreFault(kind="status", status=404, code="NoSuchBucket"),
    StoreFault(kind="hang_up"),
    StoreFault(kind="mute"),
    StoreFault(kind="lost"),
    StoreFault(kind="cut", share=0.01),
    StoreFault(kind="cut", share=1 / 3),
    StoreFault(kind="cut", share=2 / 3),
    StoreFault(kind="stalled", share=1 / 3),
    StoreFault(kind="slow"),
    StoreFault(kind="wrong"),
    StoreFault(kind="page"),
    StoreFault(kind="portal"),
    StoreFault(kind="chunked_cut"),
)
BACK_SECONDS = LOOK_SECONDS + 10.0
"""Within which all is done when the store behaves again: time-outs of a second, pauses of 2.4, and
a record's next look, where a message was acked later than its task's pause was over."""


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


def store_misbehaves(world: World) -> Report:
    """Row 43: GETs fail in every way, then PUTs, then both; then any mix of ways.

    The bucket's HEAD works all the time.
    """
    settings = {"VISIONQ_STORAGE__TIMEOUT_SECONDS": "1"}
    with world.scene("store-misbehaves", settings=settings) as scene:
        scene.crew.add(scene.spec(), count=2)
        back: list[float] = []
        for what, misbehave in _ways(scene):
            scene.events.note(what)
            misbehave()
            seconds, rate = world.pick((1.5, 8.0), (4.0, 8.0))
            with scene.producer.steadily(count=int(seconds * rate), per_second=rate):
                sleep(seconds)
            scene.gate.passing()
            began = monotonic()
            scene.wait_until_idle(seconds=60)
            back.append(monotonic() - began)
        report = scene.report(f"{len(back)} ways, {scene.gate.num_errors} replies")
        report.within("back after", max(back), BACK_SECONDS)
        require_few_duplicates(report)
        require_none_failed(scene, report)
        require_no_own_exits(report)
        return report


def _ways(scene: Scene) -> Iterator[tuple[str, Callable[[], None]]]:
    """What is done to the store: in the quick size two faults for each operation, and the mix."""
    faults = scene.world.pick(tuple(scene.random.sample(FAULTS, 2)), FAULTS)
    for methods in OPERATIONS:
        name = " and ".join(sorted(methods))
        for fault in faults:
            meant = replace(fault, methods=methods)
            yield f"{name}: {fault}", lambda meant=meant: scene.gate.misbehave(meant)  # type: ignore[misc]
        seed = scene.random.randrange(2**32)
        yield f"{name}: mix {seed}", lambda seed=seed, methods=methods: _mix(scene, methods, seed)  # type: ignore[misc]


def _mix(scene: Scene, methods: frozenset[str], seed: int) -> None:
    """Of each request, whatever is drawn; of two in five, nothing."""
    draw = random.Random(seed)

    def choose(method: str, _key: str) -> StoreFault | None:
        if method not in methods or draw.random() < 0.4:
            return None
        return replace(draw.choice(FAULTS), share=draw.random())

    scene.gate.misbehave_as(choose)


def _p99_seconds(scene: Scene) -> float:
    statuses = scene.client.status_many(sorted(set(scene.producer.accepted)))
    seconds = sorted(
        status.finished_at - status.submitted_at
        for status in statuses
        if status.finished_at is not None and status.submitted_at is not None
    )
    return seconds[int(0.99 * (len(seconds) - 1))] if seconds else 0.0
