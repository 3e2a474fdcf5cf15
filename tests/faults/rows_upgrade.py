"""Rows of the fault matrix in which workers and clients of two versions meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic, sleep
from typing import cast

from tests.faults.acts import first_take
from tests.faults.crew import Slot
from tests.faults.newer import NEWER, next_version, with_code
from tests.faults.nursery import Nursery
from tests.faults.oracle import Report
from tests.faults.other_client import OtherClient
from tests.faults.producing import Producer
from tests.faults.requirements import (
    require_few_duplicates,
    require_no_own_exits,
    require_none_failed,
)
from tests.faults.scene import Scene, World
from tests.support.waiting import wait_until
from visionq import Client
from visionq.newer_scripts import NEWER_GRACE_SECONDS

TO_NEWER_SECONDS = 3.0
"""Until an idle newer worker has a newer task that an older one has found: it looks each second."""
END_SECONDS = NEWER_GRACE_SECONDS + 5.0
"""Until a newer task ends where no worker reads it."""


@contextmanager
def next_nursery(world: World) -> Iterator[tuple[Mapping[str, str], Nursery]]:
    """What processes of the next version start with, and its workers."""
    folder = world.folder / "upgrade"
    folder.mkdir()
    more = with_code(next_version(folder))
    with Nursery(more) as nursery:
        yield more, nursery


class Upgrade:
    """A scene of this version with workers and a client of the next one."""

    def __init__(self, scene: Scene, nursery: Nursery, client: OtherClient, *, seed: int) -> None:
        self.scene = scene
        self.crew = scene.crew
        self._nursery = nursery
        self._producer = Producer(
            cast("Client", client),
            name=f"{scene.names.namespace}-newer",
            image=scene.image,
            seed=seed,
            tokens=(10, 40),
        )
        self._producer.accepted = scene.producer.accepted
        self.newer_ids: list[str] = []

    def add_older(self, count: int) -> list[Slot]:
        return self.crew.add(self.scene.spec(), count=count)

    def add_newer(self, count: int) -> list[Slot]:
        return self.crew.add(self.scene.spec(), count=count, nursery=self._nursery)

    def submit_newer(self) -> str:
        """A task that only a newer worker reads."""
        (task_id,) = self._producer.submit(word=NEWER)
        self.newer_ids.append(task_id)
        return task_id

    def submit_plain(self) -> str:
        """From the newer client, without anything new in it."""
        (task_id,) = self._producer.submit()
        return task_id

    def submit_both(self, count: int) -> None:
        for _ in range(count):
            self.submit_newer()
            self.submit_plain()

    def wait_for(self, ids: Sequence[str]) -> None:
        """Until each has a result."""
        has = self.scene.gate.has
        wait_until(lambda: all(map(has, ids)), seconds=60, what=f"{len(ids)} tasks to be done")

    def kill_each(self, *slots: Slot) -> None:
        for slot in slots:
            sleep(self.scene.random.uniform(0.3, 0.8))
            self.crew.kill(slot)

    def seconds_to_newer(self, count: int) -> float:
        """The longest from a submit to the start of a newer task, with nothing else to do."""
        slowest = 0.0
        for _ in range(count):
            self.scene.wait_until_idle()
            began = monotonic()
            slowest = max(slowest, first_take(self.scene, self.submit_newer()).at - began)
        return slowest


def upgraded(world: World) -> Report:
    """Row 46: workers first, back again, and clients first; kill -9 in the mixed fleets."""
    count, rate, num_each, num_asked = world.pick((60, 8.0, 6, 4), (600, 12.0, 60, 20))
    with (
        next_nursery(world) as (more, nursery),
        world.scene("upgraded", concurrency=4) as scene,
        OtherClient(scene.spec().env, more) as client,
    ):
        upgrade = Upgrade(scene, nursery, client, seed=world.seed)
        with scene.producer.steadily(count=count, per_second=rate):
            olds, news = _workers_first(upgrade, num_each)
            _back_again(upgrade, news)
            early = _clients_first(upgrade, olds, num_each)
        slowest = upgrade.seconds_to_newer(num_asked)
        report = scene.report("both orders, 8 kill -9", patience_seconds=20)
        report.within("newer tasks begun after", slowest, TO_NEWER_SECONDS)
        report.require(early > 0, "no plain task of the newer client ran on an old worker")
        _require_all_fields(upgrade, report)
        require_none_failed(scene, report)
        require_few_duplicates(report)
        require_no_own_exits(report)
        if world.size == "full":
            _require_end(upgrade, report)
        return report


def _workers_first(upgrade: Upgrade, num_each: int) -> tuple[list[Slot], list[Slot]]:
    """Two old ones under load, then two newer ones beside them, then the newer client."""
    olds, news = upgrade.add_older(2), upgrade.add_newer(2)
    upgrade.submit_both(num_each)
    upgrade.kill_each(olds[0], news[0])
    upgrade.submit_both(num_each)
    upgrade.kill_each(news[1], olds[1])
    for slot in (*olds, *news):
        upgrade.crew.wait_until_up(slot)
    return olds, news


def _back_again(upgrade: Upgrade, news: list[Slot]) -> None:
    """The newer client first, and its workers when they have done what it has left."""
    upgrade.wait_for(upgrade.newer_ids)
    for slot in news:
        upgrade.crew.retire(slot)


def _clients_first(upgrade: Upgrade, olds: list[Slot], num_each: int) -> int:
    """Newer tasks wait for the first newer worker; returns how many plain ones did not.

    At the end there are two workers of each version.
    """
    upgrade.submit_both(num_each)
    upgrade.kill_each(olds[0])
    scene, newer = upgrade.scene, set(upgrade.newer_ids)
    plain = [upgrade.submit_plain() for _ in range(num_each)]
    upgrade.wait_for(plain)
    waiting = [task_id for task_id in newer if not scene.gate.has(task_id)]
    assert len(waiting) == num_each, f"{len(waiting)} newer tasks wait, not {num_each}"
    news = upgrade.add_newer(2)
    upgrade.kill_each(news[0], olds[1], news[1])
    for slot in (*olds, *news):
        upgrade.crew.wait_until_up(slot)
    return len(plain)


def _require_all_fields(upgrade: Upgrade, report: Report) -> None:
    """Newer tasks came to newer workers only, with their option, and no attempt was counted."""
    journal, crew = upgrade.scene.journal, upgrade.crew
    taken = Counter(line.task_id for line in journal.of("take"))
    whole = Counter(line.task_id for line in journal.of("newer"))
    newer = set(upgrade.newer_ids)
    cut = [task_id for task_id in newer if whole[task_id] != taken[task_id] or not taken[task_id]]
    report.require(not cut, f"{len(cut)} newer tasks were begun without what is new in them")
    report.require(not set(whole) - newer, "a plain task came with the new option")
    statuses = upgrade.scene.client.status_many(sorted(newer))
    more = [one.id for one in statuses if one.attempt > 1 + crew.excused[one.id]]
    report.require(not more, f"{len(more)} newer tasks have attempts that nobody made")
    report.notes.append(f"{len(newer)} newer tasks")


def _require_end(upgrade: Upgrade, report: Report) -> None:
    """Without a newer worker, a newer task ends, and says what to do."""
    for slot in upgrade.crew.slots:
        if slot.pid:
            upgrade.crew.retire(slot)
    (slot,) = upgrade.add_older(1)
    began, scene = monotonic(), upgrade.scene
    task_id = upgrade.submit_newer()
    wait_until(
        lambda: scene.client.status(task_id).is_done, seconds=END_SECONDS + 60, what="its end"
    )
    report.within("ended without a reader after", monotonic() - began, END_SECONDS + 20)
    failure = scene.client.status(task_id).failure
    is_told = failure is not None and failure.code == "unsupported_version"
    report.require(is_told, f"it ended with {failure}")
    upgrade.crew.retire(slot)
