"""Processes that a bar starts: workers that can be held still, and programs that print JSON."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import redis

from tests.bench.rig import Rig
from tests.bench.timing import Cost, cpu_seconds
from tests.bench.worker_main import READY
from tests.support.waiting import wait_until
from tests.support.workers import environment
from visionq.names import Names

WorkerSort = Literal["ours", "bare", "bare-like-ours"]

REPOSITORY = Path(__file__).parents[2]
READY_SECONDS = 90.0
DRAIN_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Spec:
    """Which worker. Each has a namespace of its own, which is the queue's name for a bare one."""

    sort: WorkerSort
    concurrency: int = 1

    @property
    def namespace(self) -> str:
        return f"{self.sort}-{self.concurrency}"

    @property
    def celery_names(self) -> Names:
        """Those of Celery's keys; a bare worker's have no prefix."""
        return Names(self.namespace) if self.sort == "ours" else Names()

    @property
    def unacked(self) -> str:
        """Kombu's hash of the messages that were taken and not acknowledged."""
        return f"{self.namespace}:unacked" if self.sort == "ours" else "unacked"


class Worker:
    """A worker process. Paused ones use no CPU and take no message, so a queue can be filled."""

    def __init__(self, spec: Spec, process: subprocess.Popen[bytes], log: Path) -> None:
        self.spec = spec
        self._process = process
        self._log = log

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def cpu_seconds(self) -> float:
        return cpu_seconds(self._process.pid)

    def wait_until_ready(self) -> None:
        wait_until(
            lambda: READY.encode() in self._log.read_bytes() or self._process.poll() is not None,
            seconds=READY_SECONDS,
            what="the worker to be ready",
        )
        assert self._process.poll() is None, self._log.read_text()


@contextmanager
def starting_worker(rig: Rig, spec: Spec, **more: str) -> Iterator[Worker]:
    """`worker_main` in a process of its own, about to consume. `more` are VISIONQ_ keys."""
    env = {"VISIONQ_WORKER__CONCURRENCY": str(spec.concurrency), **more}
    log = rig.folder / f"{spec.namespace}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.worker_main", spec.sort],
            cwd=REPOSITORY,
            env=environment(rig.urls, spec.namespace, **env),
            stdout=output,
            stderr=output,
        )
    try:
        yield Worker(spec, process, log)
    finally:
        process.kill()  # nothing it holds is wanted any more, and a held one would not hear
        process.wait()


@contextmanager
def running_workers(rig: Rig, *specs: Spec) -> Iterator[list[Worker]]:
    """A worker for each, started side by side and consuming."""
    with ExitStack() as stack:
        workers = [stack.enter_context(starting_worker(rig, spec)) for spec in specs]
        for worker in workers:
            worker.wait_until_ready()
        yield workers


def cost_of_draining(worker: Worker, raw: redis.Redis, fill: Callable[[], list[str]]) -> Cost:
    """What the worker process spends on the tasks that `fill` submits while it is held still.

    `fill` returns their ids. The end is when all have a Celery result and none waits for its
    acknowledgement: the last thing either sort of worker does. Then it is held still again.
    """
    worker.pause()
    keys = [worker.spec.celery_names.celery_result(task_id) for task_id in fill()]
    wall, cpu = perf_counter(), worker.cpu_seconds()
    worker.resume()
    wait_until(
        lambda: raw.exists(*keys[-8:]) and raw.exists(*keys) == len(keys),
        seconds=DRAIN_SECONDS,
        what="all tasks to have a result",
    )
    wait_until(lambda: not raw.exists(worker.spec.unacked), what="all to be acknowledged")
    cost = Cost(perf_counter() - wall, worker.cpu_seconds() - cpu)
    worker.pause()
    return cost


def json_of(command: list[str], settings: Mapping[str, str] | None = None) -> Any:
    """What a Python program prints, as JSON. Its failure is the bench's."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env=settings,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)
