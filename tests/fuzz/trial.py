"""One worker process, batches of messages, and what has to be true after each batch.

The channel, Celery's consumer, the pool and the executor are the real ones; the model answers at
once and the store is in memory.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from tests.bench.sample import picture_key
from tests.bench.worker_main import READY
from tests.fuzz.mutations import CANVAS_QUEUE, messages
from tests.support.waiting import wait_until
from tests.support.workers import environment
from visionq.local import LocalUrls
from visionq.names import Names

REPOSITORY = Path(__file__).parents[2]
READY_SECONDS = 90.0
BATCH_SECONDS = 300.0
UUID = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
IGNORED = b'"ignore_result": true'


@dataclass(slots=True)
class Count:
    """What became of messages: run, refused, dead-lettered, or waiting for their time."""

    ends: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return ", ".join(f"{number} {what}" for what, number in sorted(self.ends.items()))


@contextmanager
def running_worker(urls: LocalUrls, names: Names, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker with an instant model; at the end it has to stop as it is told."""
    env = environment(
        urls,
        names.namespace,
        VISIONQ_WORKER__CONCURRENCY="8",
        VISIONQ_WORKER__LOG_LEVEL="ERROR",
        VISIONQ_WORKER__CANVAS_QUEUES=json.dumps([CANVAS_QUEUE]),
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.worker_main", "ours"],
            cwd=REPOSITORY,
            env=env,
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(
            lambda: READY.encode() in log.read_bytes() or process.poll() is not None,
            seconds=READY_SECONDS,
            what="the worker to be ready",
        )
        assert process.poll() is None, log.read_text()
        yield process
        assert process.poll() is None, log.read_text()[-5000:]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()[-5000:]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


class Trial:
    """Batches against one worker and one Redis that nobody else uses."""

    def __init__(self, raw: redis.Redis, names: Names, worker: subprocess.Popen[bytes]) -> None:
        """`raw` does not decode."""
        self._raw = raw
        self._names = names
        self._worker = worker
        self._queue = names.queue("interactive")
        namespace, prefix = re.escape(names.namespace), re.escape(names.celery_prefix())
        self._known = re.compile(
            rf"{namespace}:(task:{UUID}|lane:(interactive|bulk)(:line)?|open|workers|draining|clock"
            rf"|write-check|dead|dead-messages|dead-index|known:[0-9a-f]+"
            rf"|newer:\d+:({namespace}\.(interactive|bulk)(:messages)?|absent))|{namespace}\.(interactive|bulk)"
            rf"|{prefix}celery-task-meta-{UUID}|{prefix}celery-taskset-meta-{UUID}(\.[jtsdc])?"
            rf"|_kombu\.binding.*"
            rf"|{CANVAS_QUEUE}"
        )

    def run(self, batch: Sequence[bytes]) -> Count:
        """Push the batch, and check what became of each message. Forgets it all at the end."""
        self._raw.lpush(self._queue, *batch)
        wait_until(self._is_idle, seconds=BATCH_SECONDS, what="the batch to be dealt with")
        self._require_alive()
        count = self._ends(batch)
        self._check_keys()
        self._check_good_task()
        self._forget()
        return count

    def _is_idle(self) -> bool:
        self._require_alive()
        names = self._names
        if self._raw.exists(names.unacked(), names.unacked_index(), names.leases(), self._queue):
            return False
        now = float(self._time())
        return not self._raw.zcount(names.open(), "-inf", now + 5)

    def _time(self) -> float:
        seconds, micros = self._raw.time()
        return float(seconds) + float(micros) / 1e6

    def _require_alive(self) -> None:
        assert self._worker.poll() is None, f"the worker has ended with {self._worker.poll()}"

    def _ends(self, batch: Sequence[bytes]) -> Count:
        """Each message has come to exactly one end, and Celery's result says the same."""
        count = Count()
        dead = {as_text(key) for key in self._raw.hkeys(self._names.dead())}
        count.ends["dead-lettered"] = len(dead)
        prefix = self._names.record("")
        ids = [key.removeprefix(prefix) for key in self._keys(f"{prefix}*")]
        num_untold = 0
        for task_id, state, result in self._records(ids):
            assert task_id not in dead, f"{task_id} is {state} and a dead letter"
            if state == "PENDING":
                count.ends["waiting for its time"] += 1
            else:
                count.ends["run" if state == "SUCCESS" else f"refused ({state})"] += 1
                wanted = "SUCCESS" if state == "SUCCESS" else "FAILURE"
                num_untold += result is None
                told = wanted if result is None else result["status"]
                assert told == wanted, f"{task_id} is {state}, and {told} to Celery"
        assert num_untold <= sum(IGNORED in one for one in batch), f"{num_untold} were not told"
        assert count.ends.total() == len(batch), f"of {len(batch)} messages: {count}"
        return count

    def _records(self, ids: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
        """Id, state and Celery's result of the tasks that have a state."""
        pipe = self._raw.pipeline(transaction=False)
        for task_id in ids:
            pipe.hget(self._names.record(task_id), "state")
            pipe.get(self._names.celery_result(task_id))
        replies = pipe.execute()
        for number, task_id in enumerate(ids):
            state, result = replies[2 * number : 2 * number + 2]
            if state is not None:
                yield task_id, state.decode(), json.loads(result) if result else None

    def _keys(self, pattern: str) -> list[str]:
        return [as_text(key) for key in self._raw.scan_iter(match=pattern, count=2000)]

    def _check_keys(self) -> None:
        """No sender has named a key."""
        others = [name for name in self._keys("*") if self._known.fullmatch(name) is None]
        assert not others, f"keys {others[:5]}"

    def _check_good_task(self) -> None:
        task_id = str(uuid.uuid4())
        good = good_message(task_id)
        self._raw.lpush(self._queue, json.dumps(good))
        key = self._names.celery_result(task_id)
        reply: Any = wait_until(lambda: self._raw.get(key), seconds=60, what="a good task's answer")
        assert json.loads(reply)["status"] == "SUCCESS"

    def _forget(self) -> None:
        # What kombu knows of queues it has noted once, and leans on.
        keys = [key for key in self._keys("*") if not key.startswith("_kombu.")]
        for start in range(0, len(keys), 1000):
            self._raw.unlink(*keys[start : start + 1000])


def as_text(key: bytes | str) -> str:
    return key.decode(errors="replace") if isinstance(key, bytes) else key


def good_message(task_id: str) -> dict[str, Any]:
    """One that nothing is wrong with."""
    return {
        "body": json.dumps([[], {"task": {"kind": "ocr", "images": [{"ref": picture_key()}]}}, {}]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"task": "visionq.run", "id": task_id},
        "properties": {"delivery_tag": task_id},
    }


def batches(
    seed: int, count: int, size: int, raw: redis.Redis
) -> Iterator[tuple[int, list[bytes]]]:
    """Number of the batch, and its messages, made when they are asked for: they have times."""
    for number, start in enumerate(range(0, count, size)):
        seconds, _ = raw.time()
        yield number, list(messages(seed + number, min(size, count - start), float(seconds)))
