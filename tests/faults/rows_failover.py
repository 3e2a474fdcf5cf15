"""The row of the fault matrix in which a replica of Redis takes the primary's place."""

from __future__ import annotations

from time import monotonic

from tests.faults.failover import Failover
from tests.faults.journal import Line
from tests.faults.oracle import Report
from tests.faults.requirements import require_no_own_exits
from tests.faults.scene import Scene, World
from tests.support.waiting import wait_until

BACK_SECONDS = 10.0
"""After the primary's death, the time to its being missed included."""
WAIT_MS = 5000


def failed_over(world: World) -> Report:
    """Row 19: kill -9 of the primary with tasks in flight; clients reach its successor."""
    count, rate, num_rounds = world.pick((20, 20.0, 1), (50, 10.0, 5))
    with (
        Failover(world.folder / "failover-servers") as pair,
        world.scene("failed-over", tokens=(50, 150), broker_url=pair.url) as scene,
    ):
        slots = scene.crew.add(scene.spec(), count=2)
        backs, nums_in_flight = [], []
        for number in range(num_rounds):
            if number:
                pair.revive_other()
            with scene.producer.steadily(count=count, per_second=rate):
                pass
            _wait_until_replicated(scene)
            nums_in_flight.append(sum(len(scene.journal.in_hand(slot.pid)) for slot in slots))
            scene.events.note("the primary is killed")
            num_before, killed_at = len(scene.producer.accepted), monotonic()
            pair.kill_primary()
            with scene.producer.steadily(count=count, per_second=rate):
                backs.append(_first_take_after(scene, num_before).at - killed_at)
        report = scene.report(
            f"{num_rounds} failovers, {sum(nums_in_flight)} in flight", patience_seconds=20
        )
        report.within("back after", max(backs), BACK_SECONDS)
        report.require(min(nums_in_flight) > 0, "nothing was in flight")
        require_no_own_exits(report)
        return report


def _first_take_after(scene: Scene, num_accepted: int) -> Line:
    """Of a task that was accepted after so many others."""

    def takes() -> list[Line]:
        new = set(scene.producer.accepted[num_accepted:])
        return [line for line in scene.journal.of("take") if line.task_id in new]

    return wait_until(takes, seconds=60, what="a task to be taken after the failover")[0]


def _wait_until_replicated(scene: Scene) -> None:
    """All that was accepted so far is the replica's, too.

    Replication is asynchronous: what a primary has accepted in its last milliseconds may be lost
    with it, whoever its clients are. So the producer pauses here. What workers write in these
    milliseconds may well be lost; the messages and records that are there make up for it.
    """
    with scene.raw.pipeline(transaction=False) as pipe:
        # WAIT is about the writes of its own connection; this one comes after all of the others'.
        pipe.set(f"{scene.names.namespace}:replicated", "", ex=60)
        pipe.wait(1, WAIT_MS)
        _, num_replicas = pipe.execute()
    assert num_replicas == 1, "nobody follows the primary"
