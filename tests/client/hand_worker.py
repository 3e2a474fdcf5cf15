"""The worker's part, played by hand: what the executor does to records and store, and no more."""

import json
from typing import Any

import redis

from visionq.contract import Result, State, Task, dump_result, read_task
from visionq.names import Names, result_key
from visionq.objects import ObjectStore
from visionq.records import Attempt, Records


class HandWorker:
    """Starts and ends tasks of one namespace when a test says so."""

    def __init__(
        self, raw: redis.Redis, names: Names, records: Records, store: ObjectStore
    ) -> None:
        self.raw = raw
        self.names = names
        self.records = records
        self.store = store

    def task(self, task_id: str) -> Task:
        """The task as it stands in its record."""
        return read_task(json.loads(str(self.raw.hget(self.names.record(task_id), "task"))))

    def start(self, task_id: str) -> Attempt:
        return self.records.start(self.task(task_id), owner="hand", max_new_tokens=100)

    def end(self, task_id: str, state: State, **fields: str) -> None:
        """Start the task and end it at once."""
        attempt = self.start(task_id)
        assert self.records.move(task_id, state, fence=attempt.fence, **fields)

    def succeed(self, task_id: str, text: str = "a hand-made answer", value: Any = None) -> None:
        """Result object first, then the record: the executor's order."""
        task = self.task(task_id)
        result = Result(
            task_id=task_id,
            kind=task.kind,
            state=State.SUCCESS,
            finished_at=0.0,
            text=text,
            value=value,
        )
        self.store.put(result_key(task_id), dump_result(result))
        self.end(task_id, State.SUCCESS)

    def messages(self, lane: str = "interactive") -> list[dict[str, Any]]:
        """What lies in the lane's queue, oldest first."""
        queued = self.raw.lrange(self.names.queue(lane), 0, -1)
        return [json.loads(message) for message in reversed(queued)]

    def message_ids(self, lane: str = "interactive") -> list[str]:
        return [message["headers"]["id"] for message in self.messages(lane)]

    def keys(self) -> list[str]:
        """Every key of the namespace: empty means that nothing was sent or noted."""
        return sorted(str(key) for key in self.raw.scan_iter(match=f"{self.names.namespace}*"))
