"""The row of the fault matrix in which replicas have to confirm what is accepted."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic

from tests.faults.acts import is_refused
from tests.faults.oracle import Report
from tests.faults.replicated import Replicated
from tests.faults.requirements import require_no_own_exits
from tests.faults.scene import REPLICAS_VARIABLE, Scene, World
from tests.support.waiting import wait_until

LAG_SECONDS = 0.05
"""From primary to replica, as between two data centres."""
NUM_THREADS = 4
MUTE_SECONDS = 5.0
"""The longest that a submit may take when nobody confirms it."""


def replicas_confirm(world: World) -> Report:
    """Row 40: primaries are lost while submits return, with what is on its way to the replica.

    With `replicas_to_confirm` nothing of what was accepted is lost; without it, some is, or the row
    would prove nothing. And while there is no replica, submits fail and acks wait.
    """
    report = _primaries_lost(world, num_replicas=1)
    control = _primaries_lost(world, num_replicas=0)
    report.notes.append(f"without it {len(control.lost)} of {control.accepted} lost")
    report.require(bool(control.lost), "nothing is lost without replicas to confirm it either")
    away = _replica_away(world)
    report.notes += away.notes
    report.complaints += away.complaints
    report.events += away.events
    return report


@contextmanager
def _scene(world: World, name: str, *, num_replicas: int) -> Iterator[tuple[Replicated, Scene]]:
    settings = {REPLICAS_VARIABLE: str(num_replicas)}
    with (
        Replicated(world.folder / f"{name}-servers", lag_seconds=LAG_SECONDS) as pair,
        world.scene(name, tokens=(50, 150), broker_url=pair.url, settings=settings) as scene,
    ):
        scene.crew.add(scene.spec(), count=2)
        yield pair, scene


def _primaries_lost(world: World, *, num_replicas: int) -> Report:
    num_rounds, count = world.pick((2, 40), (12, 60))
    with _scene(world, f"lost-{num_replicas}", num_replicas=num_replicas) as (pair, scene):
        for number in range(num_rounds):
            if number and not num_replicas:
                pair.start_replica()
            enough = len(scene.producer.accepted) + scene.random.randint(5, count // 2)
            with ThreadPoolExecutor(NUM_THREADS) as pool:
                submitting = [
                    pool.submit(scene.producer.submit, count // NUM_THREADS)
                    for _ in range(NUM_THREADS)
                ]
                _wait_until_accepted(scene, enough)
                pair.lose_primary()
                scene.events.note("the primary is lost")
                if num_replicas:  # nothing more is accepted before
                    pair.start_replica()
            for each in submitting:
                each.result()
        report = scene.report(f"{num_rounds} primaries lost", patience_seconds=20)
        report.notes.append(f"{report.events.count(': publish')} messages sent again")
        require_no_own_exits(report)
        return report


def _wait_until_accepted(scene: Scene, count: int) -> None:
    wait_until(lambda: len(scene.producer.accepted) >= count, seconds=60, what="submits")


def _replica_away(world: World) -> Report:
    """No replica for a while: what was accepted is done, and its messages are kept."""
    with _scene(world, "no-replica", num_replicas=1) as (pair, scene):
        accepted = scene.producer.submit(8)
        pair.stop_replica()
        scene.events.note("nobody follows the primary")
        began = monotonic()
        refused = is_refused(scene)
        seconds = monotonic() - began
        wait_until(lambda: all(map(scene.gate.has, accepted)), seconds=30, what="the results")
        num_kept = int(scene.raw.hlen(scene.names.unacked()))
        pair.start_replica()
        scene.producer.submit(4)
        report = scene.report("no replica", patience_seconds=20)
        report.require(refused, "a submit was accepted")
        report.require(num_kept == len(accepted), f"{num_kept} messages kept")
        report.within("refused after", seconds, MUTE_SECONDS)
        require_no_own_exits(report)
        return report
