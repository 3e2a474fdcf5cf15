"""Rows of the fault matrix about what is in the queue: copies, garbage, cancelled tasks."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

import pytest

from tests.faults.messages import Message, push, renamed, take_message
from tests.faults.oracle import Report, size_of
from tests.faults.requirements import require_no_own_exits
from tests.faults.scene import World
from tests.support.waiting import wait_until
from visionq.contract import State
from visionq.errors import InvalidTask

TEN_MEGABYTES = 10_000_000
CANCEL_SECONDS = 1.0


def delivered_twice(world: World) -> Report:
    """Row 22: each message is in the queue two or three times, also under another delivery tag."""
    count = world.pick(4, 40)
    with world.scene("delivered-twice", tokens=(50, 100)) as scene:
        queue = scene.names.queue("interactive")
        scene.producer.submit(count)
        for text in [str(item) for item in scene.raw.lrange(queue, 0, -1)]:
            other = json.loads(text)
            other["properties"]["delivery_tag"] = str(uuid.uuid4())
            scene.raw.lpush(queue, text, json.dumps(other))
        scene.crew.add(scene.spec(), count=2)
        report = scene.report(f"{2 * count} copies")
        runs = len(scene.journal.of("run"))
        report.require(runs == count, f"{runs} runs of {count} tasks")
        require_no_own_exits(report)
        return report


def corrupted(world: World) -> Report:
    """Row 23: what cannot be run is put aside, or fails by its id, and the worker lives."""
    with world.scene("corrupted") as scene:
        queue = scene.names.queue("interactive")
        good = take_message(scene)
        scene.crew.add(scene.spec())
        messages = [renamed(good) for _ in HARMS]
        for harm, message in zip(HARMS, messages, strict=True):
            scene.raw.lpush(queue, harm(message))
        scene.producer.submit(2)
        report = scene.report(f"{len(HARMS)} bad messages")
        num_dead = size_of(scene.raw, scene.names.dead())
        found = scene.client.status_many([message["headers"]["id"] for message in messages])
        num_failed = sum(status.state is State.FAILURE for status in found)
        report.require(
            num_dead + num_failed == len(HARMS),
            f"of {len(HARMS)}, {num_dead} were put aside and {num_failed} failed",
        )
        require_no_own_exits(report)
        return report


def oversized(world: World) -> Report:
    """Row 24: ten megabytes are refused by the client, and by the worker."""
    with world.scene("oversized") as scene:
        with pytest.raises(InvalidTask):
            scene.producer.submit(word="x" * TEN_MEGABYTES)
        message = renamed(take_message(scene), question="x" * TEN_MEGABYTES)
        scene.crew.add(scene.spec())
        task_id = push(scene, message)
        scene.producer.submit(2)
        report = scene.report("1 message of 13 MB")
        state = scene.client.status(task_id).state
        report.require(state is State.FAILURE, f"the large task is {state}")
        require_no_own_exits(report)
        return report


def input_missing(world: World) -> Report:
    """Row 28: a picture that is not there fails its task at once, and once."""
    with world.scene("input-missing") as scene:
        scene.crew.add(scene.spec())
        began = monotonic()
        (task_id,) = scene.producer.submit(image="inputs/" + "0" * 64)
        scene.wait_until_idle(seconds=20)
        seconds = monotonic() - began
        report = scene.report("1 missing picture")
        report.within("final after", seconds, 2.0)
        takes = len(scene.journal.of("take", task_id=task_id))
        report.require(takes == 1, f"it was begun {takes} times")
        state = scene.client.status(task_id).state
        report.require(state is State.FAILURE, f"its task is {state}")
        return report


def cancelled(world: World) -> Report:
    """Row 35: who was cancelled while waiting never runs, whoever runs stops soon."""
    count = world.pick(3, 20)
    with world.scene("cancelled") as scene:
        waiting = scene.producer.submit(count)
        for task_id in waiting:
            scene.client.cancel(task_id)
        (slot,) = scene.crew.add(scene.spec())
        running = scene.producer.submit(count, tokens=1500)
        slowest = 0.0
        for task_id in running:
            scene.wait_until_running(task_id)
            began = monotonic()
            scene.client.cancel(task_id)
            wait_until(lambda task=task_id: scene.client.status(task).is_done, what="a cancel")  # type: ignore[misc]
            slowest = max(slowest, monotonic() - began)
        scene.crew.kill(slot)
        scene.crew.wait_until_up(slot)
        sleep(1.0)
        report = scene.report(f"{2 * count} cancels, 1 kill -9", patience_seconds=20)
        report.within("cancelled after", slowest, CANCEL_SECONDS)
        for task_id in waiting:
            runs = len(scene.journal.of("run", task_id=task_id))
            report.require(runs == 0, "a task that was cancelled while it waited has run")
        for task_id in running:
            runs = len(scene.journal.of("run", task_id=task_id))
            report.require(runs == 1, "a task that was cancelled while it ran has run again")
        states = {status.state for status in scene.client.status_many([*waiting, *running])}
        report.require(states == {State.REVOKED}, f"states {sorted(states)}")
        return report


def _with_body(content: bytes) -> Callable[[Message], str]:
    return lambda message: json.dumps({**message, "body": base64.b64encode(content).decode()})


def _with_headers(**changes: Any) -> Callable[[Message], str]:
    return lambda message: json.dumps({**message, "headers": {**message["headers"], **changes}})


HARMS: tuple[Callable[[Message], str | bytes], ...] = (
    lambda message: b"",
    lambda message: b"\xff\xfe\x00 no text",
    lambda message: "{" + json.dumps(message),
    lambda message: json.dumps([message]),
    lambda message: json.dumps("a message"),
    lambda message: json.dumps({**message, "body": "%%%"}),
    lambda message: json.dumps({**message, "content-type": "application/x-python-serialize"}),
    lambda message: json.dumps({**message, "properties": None}),
    _with_body(b"{not json"),
    _with_body(b'{"args": []}'),
    _with_headers(task="somebody.elses"),
    _with_headers(id=None),
)
"""Twelve ways for a list element to be no message of ours."""
