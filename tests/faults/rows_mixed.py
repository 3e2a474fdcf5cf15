"""The row of the fault matrix in which everything happens at once."""

from __future__ import annotations

from collections.abc import Callable
from time import sleep

from tests.faults.acts import cut_connections, restart_redis, write_at_once
from tests.faults.oracle import Report
from tests.faults.requirements import require_few_duplicates, require_no_own_exits
from tests.faults.scene import World
from visionq_worker.app import EXIT_START


def mixed(world: World) -> Report:
    """Row 36: kill -9, SIGSTOP, cut connections and Redis restarts, in random order."""
    count, rate, num_faults = world.pick((150, 12.0, 9), (2500, 25.0, 60))
    with world.scene("mixed") as scene:
        slots = scene.crew.add(scene.spec(), count=3)
        write_at_once(scene)

        def kill() -> None:
            scene.crew.kill(scene.random.choice(slots))

        def freeze() -> None:
            slot = scene.random.choice(slots)
            scene.crew.freeze(slot)
            sleep(scene.random.uniform(0.5, 2.0) * scene.lease_seconds)
            scene.crew.thaw(slot)

        def restart() -> None:
            restart_redis(scene, scene.random.uniform(0.1, 1.0))

        def cut() -> None:
            cut_connections(scene)

        faults: list[Callable[[], None]] = [kill, freeze, restart, cut]
        # Each one at least once, whatever the seed.
        plan = faults + scene.random.choices(faults, k=num_faults - len(faults))
        with scene.producer.steadily(count=count, per_second=rate):
            for fault in scene.random.sample(plan, len(plan)):
                sleep(scene.random.uniform(0.2, 1.5))
                fault()
        report = scene.report(f"{num_faults} of four sorts", patience_seconds=20)
        require_few_duplicates(report, share=0.01)
        # Who starts while Redis is away leaves again, without having taken anything.
        require_no_own_exits(report, but=EXIT_START)
        return report
