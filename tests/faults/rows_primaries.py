"""Rows of the fault matrix in which another Redis becomes the primary, and the old one may live on.

Clients and workers know one address that leads elsewhere from then on, or they ask sentinels.
"""

from __future__ import annotations

from contextlib import ExitStack
from time import monotonic

from tests.faults.acts import seconds_to_next_take
from tests.faults.oracle import Report
from tests.faults.proxy import Proxy
from tests.faults.requirements import require_no_own_exits
from tests.faults.scene import Scene, World
from tests.faults.statuses import Statuses
from tests.support.guarded import Guarded, guarded
from tests.support.replicated import replicated

BACK_SECONDS = 5.0
"""From when the address leads to the new primary, or the sentinels name it, to the next take."""
LEASE_SECONDS = 6.0


def demoted_but_alive(world: World) -> Report:
    """Row 38: the address leads to another primary; the old one keeps its connections."""
    count, rate, num_rounds = world.pick((20, 20.0, 2), (50, 10.0, 8))
    with (
        replicated(world.folder / "replicated") as pair,
        world.scene(
            "demoted", lease_seconds=LEASE_SECONDS, tokens=(50, 150), broker_url=pair.url
        ) as scene,
    ):
        slots = scene.crew.add(scene.spec(), count=2)
        backs, num_in_flight = [], 0
        with Statuses(scene) as statuses:
            for _ in range(num_rounds):
                with scene.producer.steadily(count=count, per_second=rate):
                    pass
                num_in_flight += sum(len(scene.journal.in_hand(slot.pid)) for slot in slots)
                scene.events.note("the primary is demoted, and lives on")
                pair.swap()
                scene.raw.connection_pool.disconnect()
                with scene.producer.steadily(count=count, per_second=rate):
                    backs.append(seconds_to_next_take(scene))
        faults = f"{num_rounds} demotions, {num_in_flight} in flight"
        return _report(scene, faults, backs, statuses, num_in_flight)


def named_by_sentinels(world: World) -> Report:
    """Row 39: the primary dies, is replaced as planned, and the first sentinel is lost."""
    count, rate, num_rounds = world.pick((20, 20.0, 3), (50, 10.0, 9))
    with ExitStack() as stack:
        group = stack.enter_context(guarded(world.folder / "guarded"))
        proxy = stack.enter_context(Proxy(group.named()))
        scene = stack.enter_context(
            world.scene(
                "sentinels",
                lease_seconds=LEASE_SECONDS,
                tokens=(50, 150),
                broker_url=f"redis://:{group.password}@127.0.0.1:{proxy.port}/0",
                broker=group.address,
                settings={
                    "VISIONQ_BROKER__URL": group.url,
                    "VISIONQ_BROKER__SENTINEL_PASSWORD": group.sentinel_password,
                },
            )
        )
        slots = scene.crew.add(scene.spec(), count=2)
        backs, num_in_flight = [], 0
        with Statuses(scene) as statuses:
            for number in range(num_rounds):
                with scene.producer.steadily(count=count, per_second=rate):
                    pass
                group.wait_until_ready_to_fail_over()
                scene.producer.submit(len(slots))
                group.wait_until_replicated()
                num_in_flight += sum(len(scene.journal.in_hand(slot.pid)) for slot in slots)
                named_at = _fail_over(scene, group, number % 3)
                proxy.point_to(group.named())
                scene.raw.connection_pool.disconnect()
                with scene.producer.steadily(count=count, per_second=rate):
                    seconds_to_next_take(scene)
                    backs.append(monotonic() - named_at)
                group.heal()
        faults = f"{num_rounds} failovers, {num_in_flight} in flight"
        return _report(scene, faults, backs, statuses, num_in_flight)


def _fail_over(scene: Scene, group: Guarded, way: int) -> float:
    """In one of three ways. Returns when the sentinels named the new primary."""
    if way == 0:
        scene.events.note("the primary is killed")
        return group.wait_until_named(group.kill_primary())
    if way == 2:
        scene.events.note("the first sentinel is killed")
        group.kill(group.sentinels[0])
    scene.events.note("the replica takes over, as planned")
    group.take_turns()
    return monotonic()


def _report(
    scene: Scene, faults: str, backs: list[float], statuses: Statuses, num_in_flight: int
) -> Report:
    report = scene.report(faults, patience_seconds=20)
    report.within("back after", max(backs), BACK_SECONDS)
    report.require(num_in_flight > 0, "nothing was in flight")
    back = statuses.gone_back
    report.require(not back, f"{len(back)} statuses went back: {back[:3]}")
    report.require(statuses.num_asked > 0, "no status was asked for")
    report.notes.append(f"{statuses.num_asked} statuses")
    require_no_own_exits(report)
    return report
