"""Rows of the fault matrix in which a worker's machine has no more memory, or no more disk."""

from __future__ import annotations

from time import sleep

from tests.faults.acts import spec_with
from tests.faults.disk import make_room
from tests.faults.memory import MEGABYTE, MemoryKiller, resident_bytes
from tests.faults.oracle import Report
from tests.faults.requirements import (
    require_few_duplicates,
    require_no_own_exits,
    require_none_failed,
)
from tests.faults.scene import World
from tests.faults.spec import GORGE
from tests.support.waiting import wait_until
from visionq.contract import FailureCode

LIMIT_BYTES = 150 * MEGABYTE
"""What a worker may take beyond what it takes when it is idle, before it is killed."""


def memory_eaten(world: World) -> Report:
    """Row 10: a task that eats memory until its worker is killed is given up, the rest flows."""
    count, rate, num_eaters = world.pick((30, 30.0, 1), (1000, 20.0, 3))
    max_attempts = world.pick(3, 5)  # from the second death on it runs alone
    settings = {"VISIONQ_BROKER__MAX_ATTEMPTS": str(max_attempts)}
    with world.scene("memory-eaten", settings=settings) as scene:
        slots = scene.crew.add(scene.spec(), count=2)
        limit = max(resident_bytes(slot.pid) for slot in slots) + LIMIT_BYTES
        with MemoryKiller(scene.crew, limit_bytes=limit):
            with scene.producer.steadily(count=count, per_second=rate):
                eaters = scene.producer.submit(num_eaters, word=GORGE)
            report = scene.report(f"{num_eaters} memory eaters", patience_seconds=20)
        deaths = [sum(eater in gone.in_hand for gone in scene.crew.exits) for eater in eaters]
        report.within("deaths with one eater", max(deaths), max_attempts)
        failures = [status.failure for status in scene.client.status_many(eaters)]
        codes = {failure.code if failure else None for failure in failures}
        report.require(codes == {FailureCode.WORKER_LOST}, f"the eaters ended with {codes}")
        others = sorted(set(scene.producer.accepted) - set(eaters))
        failed = [each for each in scene.client.status_many(others) if each.failure is not None]
        report.require(not failed, f"{len(failed)} innocent tasks failed")
        require_few_duplicates(report)
        require_no_own_exits(report)
        return report


def disk_full(world: World) -> Report:
    """Row 31: workers that can write to no file at all, that of their health included, go on."""
    count, rate, num_kills = world.pick((40, 20.0, 1), (1000, 25.0, 10))
    health_file = world.folder / "health-on-a-full-disk"
    settings = {"VISIONQ_WORKER__HEALTH_FILE": str(health_file)}
    with world.scene("disk-full", settings=settings) as scene:
        slots = scene.crew.add(spec_with(scene, is_disk_full=True), count=2)
        with scene.producer.steadily(count=count, per_second=rate):
            for _ in range(num_kills):  # those that take their places find the disk full, too
                sleep(scene.random.uniform(0.5, 1.5))
                scene.crew.kill(scene.random.choice(slots))
        scene.drain()
        was_full = not health_file.exists()
        for slot in slots:
            scene.crew.wait_until_up(slot)
            make_room(slot.pid)
        wait_until(health_file.exists, what="the health to be written when there is room")
        report = scene.report(f"no disk, {num_kills} kill -9")
        report.require(was_full, "the disk was not full")
        # What ran twice is not judged: a killed worker's last lines may come too late to excuse it.
        require_none_failed(scene, report)
        require_no_own_exits(report)
        return report
