"""Every name that leaves the process: queues, Redis keys and channels, object keys.

String building only. The names are part of the contract and are never derived from module paths,
so that moving code is no migration.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

TASK_NAME = "visionq.run"
"""The Celery task that runs one image task."""

DEFAULT_NAMESPACE = "visionq"
INPUT_FOLDER = "inputs"
RESULT_FOLDER = "results"


@dataclass(frozen=True, slots=True)
class Names:
    """Queue names and Redis keys under one namespace, so that environments can share a Redis."""

    namespace: str = DEFAULT_NAMESPACE

    def queue(self, lane: str) -> str:
        return f"{self.namespace}.{lane}"

    def record(self, task_id: str) -> str:
        return f"{self.namespace}:task:{task_id}"

    def lane(self, lane: str) -> str:
        """The hash with the lane's two counters, `submitted` and `started`."""
        return f"{self.namespace}:lane:{lane}"

    def events(self, task_id: str) -> str:
        """The channel on which a task's changes are announced."""
        return f"{self.namespace}:events:{task_id}"

    def unacked(self) -> str:
        """The hash of messages that a worker has taken and not settled, by delivery tag."""
        return f"{self.namespace}:unacked"

    def unacked_index(self) -> str:
        """The sorted set of their tags, by the time they were taken."""
        return f"{self.namespace}:unacked-index"

    def unacked_mutex(self) -> str:
        """Held by the worker that is looking for overdue ones."""
        return f"{self.namespace}:unacked-mutex"

    def dead(self) -> str:
        """The list of messages no worker could read."""
        return f"{self.namespace}:dead"


def input_key(content: bytes) -> str:
    """The content-addressed key of an uploaded image: equal bytes share one object."""
    return f"{INPUT_FOLDER}/{hashlib.sha256(content).hexdigest()}"


def result_key(task_id: str) -> str:
    """Where a task's result will be; known before the task has run."""
    return f"{RESULT_FOLDER}/{task_id}.json"
