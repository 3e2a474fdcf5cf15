"""Messages as another producer would send them: past our client, which checks them."""

from __future__ import annotations

import base64
import copy
import json
import uuid
from typing import Any

from tests.faults.scene import Scene

Message = dict[str, Any]


def take_message(scene: Scene) -> Message:
    """One of our own, out of the queue; its task is forgotten."""
    (task_id,) = scene.producer.submit()
    text = scene.raw.rpop(scene.names.queue("interactive"))
    assert isinstance(text, str)
    scene.raw.delete(scene.names.record(task_id))
    for key in (scene.names.open(), f"{scene.names.lane('interactive')}:line"):
        scene.raw.zrem(key, task_id)
    scene.producer.accepted.remove(task_id)
    assert not scene.gate.has(task_id), "somebody has run it"
    message: Message = json.loads(text)
    return message


def renamed(message: Message, **changes: Any) -> Message:
    """The same of another task, of which nobody has a record, with other values in its fields."""
    other = copy.deepcopy(message)
    task_id = str(uuid.uuid4())
    args, kwargs, embedded = json.loads(base64.b64decode(other["body"]))
    kwargs["task"] |= {"id": task_id, **changes}
    other["body"] = base64.b64encode(json.dumps([args, kwargs, embedded]).encode()).decode()
    other["headers"] |= {"id": task_id, "root_id": task_id}
    other["properties"] |= {"delivery_tag": str(uuid.uuid4()), "correlation_id": task_id}
    return other


def push(scene: Scene, message: Message) -> str:
    """Into the queue, which counts as accepted; returns the task's id."""
    scene.raw.lpush(scene.names.queue("interactive"), json.dumps(message))
    task_id = str(message["headers"]["id"])
    scene.producer.accepted.append(task_id)
    return task_id
