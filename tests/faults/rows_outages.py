"""The row of the fault matrix in which Redis is away for longer than anybody waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from time import monotonic, sleep

from tests.faults.acts import write_at_once
from tests.faults.oracle import Report
from tests.faults.scene import Scene, World
from tests.support.killing import paused
from tests.support.waiting import wait_until
from tests.support.workers import running_worker
from visionq_worker.health import MAX_WRITE_AGE_SECONDS, problem

LOOK_SECONDS = 0.2
NOTICE_SECONDS = MAX_WRITE_AGE_SECONDS + 3.0
"""After which `ready` fails: the file is a second old at most, and the machine may be busy."""
READY_SECONDS = 15.0
"""After the outage: a time-out that is under way, Celery's pause, and a look of the heartbeat's."""

WARNINGS_PER_OUTAGE = 15
"""And as many for each minute: what stands still says so once, and once a minute."""


def away_for_long(world: World) -> Report:
    """Row 47: Redis is killed, and paused, under `--supervise`: nothing is started again."""
    away_seconds = world.pick(20.0, 120.0)
    with world.scene("away-for-long") as scene:
        folder = Path(scene.spec().folder)
        file, log = folder / "health.json", folder / "supervised.log"
        env = {**scene.spec().env, "VISIONQ_WORKER__HEALTH_FILE": str(file)}
        with running_worker(env, log, "--supervise") as supervisor:
            wait_until(lambda: _ready(file) is None, seconds=READY_SECONDS, what="the worker")
            born, dead, noticed, backs = _children(supervisor.pid), set[str](), [], []
            for begin in HARMS:
                _do_tasks(scene)
                began = monotonic()
                with begin(scene):
                    noticed.append(_look_on(file, began, away_seconds, dead))
                began = monotonic()
                wait_until(lambda: _ready(file) is None, seconds=60, what="ready to be back")
                backs.append(monotonic() - began)
                _do_tasks(scene)
            still_there = _children(supervisor.pid)
        report = scene.report(f"{len(HARMS)} times {away_seconds:g} s without Redis")
        report.require(not dead, f"live has failed: {sorted(dead)}")
        num_warnings = log.read_text().count(" WARNING ")
        most = len(HARMS) * WARNINGS_PER_OUTAGE * (1 + away_seconds / 60)
        report.require(num_warnings <= most, f"{num_warnings} warnings in the log")
        report.require(born == still_there, "the worker was started again")
        report.within("ready fails after", max(noticed), NOTICE_SECONDS)
        report.within("ready again after", max(backs), READY_SECONDS)
        return report


@contextmanager
def _killed(scene: Scene) -> Iterator[None]:
    write_at_once(scene)
    scene.events.note("Redis is killed")
    scene.servers.kill("valkey")
    try:
        yield
    finally:
        scene.servers.restart("valkey")
        scene.events.note("Redis is back")


@contextmanager
def _paused(scene: Scene) -> Iterator[None]:
    scene.events.note("Redis is paused")
    with paused(scene.servers.pid("valkey")):
        yield
    scene.events.note("Redis goes on")


HARMS: tuple[Callable[[Scene], AbstractContextManager[None]], ...] = (_killed, _paused)


def _do_tasks(scene: Scene) -> None:
    scene.producer.submit(3)
    scene.wait_until_idle(seconds=60)


def _ready(file: Path) -> str | None:
    return problem(file, must_be_ready=True)


def _look_on(file: Path, began: float, seconds: float, dead: set[str]) -> float:
    """Probe through the outage. Returns when `ready` failed first; `dead` gets what `live` said."""
    noticed = float("inf")
    while monotonic() - began < seconds:
        if reason := problem(file, must_be_ready=False):
            dead.add(reason)
        if _ready(file) is not None:
            noticed = min(noticed, monotonic() - began)
        sleep(LOOK_SECONDS)
    return noticed


def _children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()
