"""Rows of the fault matrix in which Redis loses records, and nothing else."""

from __future__ import annotations

import json
from contextlib import ExitStack
from time import sleep

from tests.faults.oracle import Report
from tests.faults.requirements import require_few_duplicates, require_no_own_exits
from tests.faults.scene import Scene, World
from visionq.broker import Publisher
from visionq.contract import State, read_task

RUNNING = (State.STARTED, State.PROGRESS)


def records_gone(world: World) -> Report:
    """Row 42: records of half of the finished tasks are deleted, and of some in flight, under load.

    The message of each second finished one comes back, as after a failover.
    """
    count, rate = world.pick((80, 16.0), (1000, 20.0))
    with world.scene("records-gone", tokens=(20, 80)) as scene, ExitStack() as stack:
        scene.crew.add(scene.spec(), count=2)
        publisher = Publisher(
            scene.client._parts.broker,
            scene.names,
            timeout_seconds=2.0,
        )
        stack.callback(publisher.close)
        losses = Losses(scene, publisher)
        with scene.producer.steadily(count=count, per_second=rate) as stream:
            while stream.is_running:
                losses.play()
                sleep(0.2)
        losses.play()
        scene.drain()
        losses.play()
        report = scene.report_of_results(losses.text())
        # The last messages that came back are settled by now, too.
        losses.check()
        report.require(not losses.unknown, f"{len(losses.unknown)} UNKNOWN with an object")
        report.require(not losses.gone_back, f"{len(losses.gone_back)} statuses went back")
        report.require(losses.num_finished > 0, "no record of a finished task was deleted")
        report.require(losses.num_in_flight > 0, "no record of a task in flight was deleted")
        require_few_duplicates(report)
        require_no_own_exits(report)
        return report


class Losses:
    """Deletes records, and looks what the client knows of their tasks then."""

    def __init__(self, scene: Scene, publisher: Publisher) -> None:
        self._scene = scene
        self._publisher = publisher
        self._seen: set[str] = set()
        self._ended: set[str] = set()
        self.num_finished = 0
        self.num_in_flight = 0
        self.num_sent_again = 0
        self.unknown: set[str] = set()
        self.gone_back: set[str] = set()

    def play(self) -> None:
        scene = self._scene
        new = sorted(set(scene.producer.accepted) - self._seen)
        statuses = scene.client.status_many(new)
        finished = [one.id for one in statuses if one.is_done]
        self._seen.update(finished)
        self._lose_finished(finished[::2])
        running = [one.id for one in statuses if one.state in RUNNING]
        chosen = scene.random.sample(running, min(2, len(running)))
        scene.crew.excused.update(chosen)  # each has to begin anew
        scene.lose_records(chosen)
        self.num_in_flight += len(chosen)
        self.check()

    def check(self) -> None:
        """No task with an object is unknown, and none that has ended has not."""
        accepted = sorted(set(self._scene.producer.accepted))
        stored = [task_id for task_id in accepted if self._scene.gate.has(task_id)]
        for status in self._scene.client.status_many(stored, look_in_store=True):
            if not status.is_known:
                self.unknown.add(status.id)
            elif status.is_done:
                self._ended.add(status.id)
            elif status.id in self._ended:
                self.gone_back.add(status.id)

    def text(self) -> str:
        return (
            f"{self.num_finished} records of finished tasks and {self.num_in_flight} of running "
            f"ones deleted, {self.num_sent_again} messages sent again"
        )

    def _lose_finished(self, task_ids: list[str]) -> None:
        scene = self._scene
        tasks = [scene.raw.hget(scene.names.record(task_id), "task") for task_id in task_ids]
        scene.lose_records(task_ids)
        self.num_finished += len(task_ids)
        for task in tasks[::2]:
            self._publisher.publish(read_task(json.loads(str(task))))
            self.num_sent_again += 1
