"""What rows do to a scene, and what they wait for in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from tests.faults.crew import Exit
from tests.faults.disk import fill_disk, make_room
from tests.faults.journal import Line
from tests.faults.scene import Scene
from tests.faults.spec import WorkerSpec
from tests.support.waiting import wait_until
from visionq.errors import BrokerUnavailable


def spec_with(scene: Scene, **changes: object) -> WorkerSpec:
    return replace(scene.spec(), **changes)  # type: ignore[arg-type]


def first_take(scene: Scene, task_id: str) -> Line:
    takes = wait_until(
        lambda: scene.journal.of("take", task_id=task_id), seconds=30, what="a task to be taken"
    )
    return takes[0]


def first_exit_within(scene: Scene, pid: int, *, seconds: float) -> Exit | None:
    """How the process ended, if it did."""
    with suppress(AssertionError):
        return scene.crew.wait_until_gone(pid, seconds=seconds)
    return None


def restart_redis(scene: Scene, down_seconds: float) -> None:
    """SIGKILL, a pause, and a start with the same data."""
    scene.events.note("Redis is killed")
    scene.servers.kill("valkey")
    sleep(down_seconds)
    scene.servers.restart("valkey")
    write_at_once(scene)
    scene.events.note("Redis is back")


@contextmanager
def redis_setting(scene: Scene, name: str, value: str) -> Iterator[None]:
    """Set while the block runs."""
    held: dict[str, Any] = scene.raw.config_get(name)  # type: ignore[assignment]
    scene.raw.config_set(name, value)
    try:
        yield
    finally:
        scene.raw.config_set(name, held[name])


@contextmanager
def full_disk_of_redis(scene: Scene) -> Iterator[None]:
    """Its append-only file cannot grow while the block runs."""
    pid = scene.servers.pid("valkey")
    fill_disk(pid, file_bytes=_size_of_log(pid))
    try:
        yield
    finally:
        make_room(pid)


def _size_of_log(pid: int) -> int:
    """Of the append-only file that this Valkey has open."""
    opened = Path(f"/proc/{pid}/fd").iterdir()
    (log,) = (file for file in opened if file.readlink().name.endswith(".incr.aof"))
    return log.stat().st_size


def write_at_once(scene: Scene) -> None:
    """What is accepted is on disk from now on; what an unsynced second costs is Redis's matter.

    Redis forgets this setting when it is restarted.
    """
    scene.raw.config_set("appendfsync", "always")


def seconds_to_next_take(scene: Scene) -> float:
    """From now, when there is surely something to take or to go on with."""
    began = monotonic()
    scene.producer.submit()

    def is_taken() -> bool:
        return any(line.at > began for line in scene.journal.of("take"))

    wait_until(is_taken, seconds=60, what="a task to be taken after the outage")
    return monotonic() - began


def cut_connections(scene: Scene) -> None:
    scene.events.note("all connections are cut")
    for kind in ("normal", "pubsub"):
        scene.raw.client_kill_filter(_type=kind, skipme=True)


def is_refused(scene: Scene, key: str | None = None) -> bool:
    try:
        scene.producer.try_once(key or scene.producer.new_key())
    except BrokerUnavailable:
        return True
    return False


def submit_until_accepted(scene: Scene, key: str) -> None:
    wait_until(lambda: not is_refused(scene, key), seconds=20, what="a submit to be accepted")


def freeze_all(scene: Scene) -> None:
    scene.redis_of_producer.freeze(new_too=True)
