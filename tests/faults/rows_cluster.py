"""The row of the fault matrix on a Redis Cluster, with all keys in one slot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from tests.faults.journal import Line
from tests.faults.oracle import Report
from tests.faults.requirements import require_no_own_exits
from tests.faults.scene import Scene, World
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

BACK_SECONDS = 15.0
"""After each act, the time to its being noticed included."""
FEW = 20
"""Keys that are moved before anybody is asked for more."""

Act = Callable[[Cluster, Scene], None]


def one_slot(world: World) -> Report:
    """Row 41: workers killed, the owner killed, failed over as planned, the slot moved away."""
    count, rate, num_rounds = world.pick((15, 20.0, 1), (50, 20.0, 4))
    backs: dict[str, float] = dict.fromkeys(ACTS, 0.0)
    nums_in_flight = []
    with _cluster_and_scene(world) as (cluster, scene):
        tag = scene.names.namespace
        slots = scene.crew.add(scene.spec(), count=2)
        for name in [name for _ in range(num_rounds) for name in ACTS]:
            with scene.producer.steadily(count=count, per_second=rate):
                pass
            cluster.wait_until_replicated(tag)
            nums_in_flight.append(sum(len(scene.journal.in_hand(slot.pid)) for slot in slots))
            scene.events.note(name)
            began = monotonic()
            with scene.producer.steadily(count=count, per_second=rate):
                ACTS[name](cluster, scene)
                scene.producer.submit()
                backs[name] = max(backs[name], _next_take(scene).at - began)
            cluster.start_dead()
        report = scene.report(
            f"{num_rounds} times {len(ACTS)} acts, {sum(nums_in_flight)} in flight",
            patience_seconds=20,
        )
        _require_one_slot(report, cluster, tag)
    for name, seconds in backs.items():
        report.within(f"{name}: back after", seconds, BACK_SECONDS)
    report.require(min(nums_in_flight) > 0, "nothing was in flight")
    require_no_own_exits(report)
    return report


@contextmanager
def _cluster_and_scene(world: World) -> Iterator[tuple[Cluster, Scene]]:
    """The scene knows the address of one node, which is not the owner, and outlives it."""
    with Cluster(world.folder / "cluster-servers", num_replicas=1) as cluster:
        seed = cluster.other_primary(f"one-slot-{world.sort}")
        url = cluster.url(seed)
        with world.scene("one-slot", tokens=(50, 150), broker_url=url, hash_tag=True) as scene:
            yield cluster, scene


def _workers_killed(_: Cluster, scene: Scene) -> None:
    for slot in scene.crew.slots:
        scene.crew.kill(slot)


def _owner_killed(cluster: Cluster, scene: Scene) -> None:
    """With SIGKILL; a replica takes over, and the dead one follows it when it is back."""
    cluster.kill(cluster.owner(scene.names.namespace))


def _failed_over(cluster: Cluster, scene: Scene) -> None:
    """As planned: the old owner lives on, as a replica, with its clients' connections."""
    cluster.fail_over(scene.names.namespace)


def _moved_by_hand(cluster: Cluster, scene: Scene) -> None:
    """Key by key: with some on either side, nothing goes on until the last one has moved."""
    tag = scene.names.namespace
    num_refused = scene.producer.num_refused
    with cluster.moving(tag, cluster.other_primary(tag)) as moving:
        moving.move(FEW)
        wait_until(
            lambda: scene.producer.num_refused > num_refused, seconds=10, what="a submit to fail"
        )


def _moved_at_once(cluster: Cluster, scene: Scene) -> None:
    tag = scene.names.namespace
    cluster.migrate_at_once(tag, cluster.other_primary(tag))


ACTS: dict[str, Act] = {
    "workers killed": _workers_killed,
    "owner killed": _owner_killed,
    "failed over": _failed_over,
    "slot moved by hand": _moved_by_hand,
    "slot moved at once": _moved_at_once,
}


def _next_take(scene: Scene) -> Line:
    """Of any task, since others may wait before the newest one."""
    now = monotonic()

    def takes() -> list[Line]:
        return [line for line in scene.journal.of("take") if line.at > now]

    return wait_until(takes, seconds=60, what="a task to be taken after the act")[0]


def _require_one_slot(report: Report, cluster: Cluster, tag: str) -> None:
    num_keys = dict(cluster.num_keys())
    num_of_owner = num_keys.pop(cluster.owner(tag))
    report.require(num_of_owner == cluster.num_keys_in_slot(tag), "keys in other slots")
    report.require(not any(num_keys.values()), "keys on other nodes")
