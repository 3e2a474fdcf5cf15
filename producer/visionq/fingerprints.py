"""What tasks with one idempotency key must have in common: what is asked, and of which images.

Kind, image references with their pages, question and options count. Lane, deadline, delay, tenant
and labels do not: they say how a task is carried out and whose it is. What a task leaves to its
kind equals what the kind says, spelt out. The order of a JSON object's keys does not count, nor
whether a number is written as 1 or 1.0.
"""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, Any

from visionq.contract import dump

if TYPE_CHECKING:
    from visionq.contract import Task
    from visionq.kinds import Kind

DIGEST_BYTES = 16


def fingerprint(task: Task, kind: Kind) -> str:
    """22 characters, the same for tasks of the same content."""
    content = {
        "kind": task.kind,
        "images": [dump(image) for image in task.images],
        "question": None if task.question == kind.default_question else task.question,
        "options": _options(task, kind),
    }
    as_it_travels = json.loads(json.dumps(content))  # there, all keys are strings
    text = json.dumps(_canonical(as_it_travels), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).digest()[:DIGEST_BYTES]
    return urlsafe_b64encode(digest).decode().rstrip("=")


def _options(task: Task, kind: Kind) -> dict[str, Any]:
    """Those that differ from what the kind says anyway."""
    of_kind = {
        "max_new_tokens": kind.max_new_tokens,
        "num_crops": kind.crops(len(task.images)),
    }
    chosen = dump(task.options)
    return {name: value for name, value in chosen.items() if value != of_kind.get(name)}


def _canonical(value: Any) -> Any:
    """Equal JSON values as one: whole numbers without a fraction."""
    if isinstance(value, dict):
        return {name: _canonical(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
