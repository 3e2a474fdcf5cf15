"""Rows of the fault matrix in which what a task brings along is hostile: pictures and addresses."""

from __future__ import annotations

import socket

from tests.faults.addresses import Listener, addresses
from tests.faults.memory import MEGABYTE, peak_bytes, resident_bytes
from tests.faults.messages import push, renamed, take_message
from tests.faults.oracle import Report
from tests.faults.pictures import corpus
from tests.faults.requirements import require_no_own_exits
from tests.faults.scene import Scene, World
from visionq.contract import FailureCode, State
from visionq.errors import InvalidTask

MEMORY_MEGABYTES = 300
"""What a worker may take at any time beyond what it takes when it is idle."""

REFUSALS = frozenset(
    {
        FailureCode.INVALID_TASK,
        FailureCode.INPUT_NOT_ALLOWED,
        FailureCode.INPUT_MISSING,
        FailureCode.INPUT_UNAVAILABLE,
    }
)
"""Of addresses: no such reference, not from there, nothing there, no such name."""


def hostile_pictures(world: World) -> Report:
    """Row 29: bombs, fragments and other formats end as failures, and odd pictures as answers."""
    pictures = corpus(world.seed)
    with world.scene("hostile-pictures") as scene:
        (slot,) = scene.crew.add(scene.spec())
        idle_bytes = resident_bytes(slot.pid)
        keys = scene.upload(*(picture.content for picture in pictures))
        task_ids = [task_id for key in keys for task_id in scene.producer.submit(image=key)]
        report = scene.report(f"{len(pictures)} pictures", patience_seconds=60)
        grown_bytes = peak_bytes(slot.pid) - idle_bytes
        report.within("MB more at most", grown_bytes / MEGABYTE, MEMORY_MEGABYTES)
        for picture, status in zip(pictures, scene.client.status_many(task_ids), strict=True):
            code = status.failure.code if status.failure else None
            is_answered = status.state is State.SUCCESS
            is_right = picture.is_good in (None, is_answered) and code != FailureCode.INTERNAL
            report.require(is_right, f"{picture.name}: {status.state}, {code}")
        require_no_own_exits(report)
        return report


def foreign_addresses(world: World) -> Report:
    """Row 30: a worker connects to no inner address that a task names, nor does a client.

    URLs are allowed, and so is the listener's port.
    """
    with (
        Listener() as listener,
        world.scene(
            "foreign-addresses",
            settings={
                "VISIONQ_URLS__ALLOWED": "true",
                "VISIONQ_URLS__PORTS": f"[443, {listener.port}]",
                "VISIONQ_URLS__TIMEOUT_SECONDS": "1",
            },
        ) as scene,
    ):
        message = take_message(scene)
        scene.crew.add(scene.spec())
        every = addresses(listener.port)
        chosen = scene.random.sample(every, world.pick(20, len(every)))
        for ref in chosen:
            push(scene, renamed(message, images=[{"ref": ref}]))
        taken_in = [ref for ref in chosen if _is_taken_in(scene, ref)]
        report = scene.report(f"{len(chosen)} addresses", patience_seconds=20)
        report.require(not (num := listener.count()), f"{num} connections were made")
        _require_it_would_notice(listener, report)
        statuses = scene.client.status_many(sorted(scene.producer.accepted))
        codes = {status.failure.code if status.failure else status.state for status in statuses}
        report.notes.append(", ".join(sorted(codes)))
        report.require(codes <= REFUSALS, f"they ended with {sorted(codes)}")
        wrong = [ref for ref in taken_in if not ref.startswith(("https://", "s3://"))]
        report.require(not wrong, f"the client takes {wrong}")
        takes = len(scene.journal.of("take"))
        report.require(takes <= report.accepted, f"{takes} tries of {report.accepted} tasks")
        require_no_own_exits(report)
        return report


def _is_taken_in(scene: Scene, ref: str) -> bool:
    """Whether our client accepts it; then it is one task more for the worker to refuse."""
    try:
        scene.producer.try_once(scene.producer.new_key(), image=ref)
    except InvalidTask:
        return False
    return True


def _require_it_would_notice(listener: Listener, report: Report) -> None:
    with socket.create_connection(("127.0.0.1", listener.port)):
        report.require(listener.count() == 1, "the listener sees no connections")
