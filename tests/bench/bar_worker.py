"""What our worker adds to Celery's: the whole task around a model that answers at once.

CPU time of the worker process per task, between the first and the last of a filled queue, ours
against a bare Celery no-op that stores an equal result. Both have the thread pool and the same
concurrency. The bare one runs twice: set as ours is (late acks, prefetch 1, log level INFO: ours
writes one line per task and Celery two), and as Celery comes (early acks, prefetch 4, WARNING).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

from tests.bench.bare import TASK_NAME, bare_app
from tests.bench.children import Spec, Worker, WorkerSort, cost_of_draining, running_workers
from tests.bench.readings import Reading
from tests.bench.rig import Rig
from tests.bench.sample import KIND, QUESTION, message, picture_key
from tests.bench.timing import Cost, interleave
from visionq import Client, Submission

NUM_TASKS = 250
ROUNDS_FACTOR = 3
"""Rounds are short and many here: threads that share few cores give no calm figures."""

CONCURRENCIES = (1, 8)
BARE_SORTS: dict[WorkerSort, str] = {"bare-like-ours": "set as ours", "bare": "as it comes"}
LIMIT = 1.5

Fill = Callable[[], list[str]]


def measure_worker(rig: Rig) -> Iterator[Reading]:
    rig.clear()
    count = rig.count(NUM_TASKS)
    costs = _costs(rig, count)
    for concurrency in CONCURRENCIES:
        ours = costs[Spec("ours", concurrency).namespace].per(count)
        for sort, name in BARE_SORTS.items():
            bare = costs[Spec(sort, concurrency).namespace].per(count)
            yield Reading(
                bar="worker",
                what=f"ours / bare, {name}, concurrency {concurrency}, CPU",
                measured=ours.cpu / bare.cpu,
                limit=LIMIT,
                detail=f"{_millis(ours)} / {_millis(bare)}",
            )


def _costs(rig: Rig, count: int) -> dict[str, Cost]:
    """Of `count` tasks, for each worker, all of them in turn."""
    sorts: tuple[WorkerSort, ...] = ("ours", *BARE_SORTS)
    specs = [Spec(sort, concurrency) for concurrency in CONCURRENCIES for sort in sorts]
    with ExitStack() as stack:
        workers = stack.enter_context(running_workers(rig, *specs))
        for worker in workers:
            worker.pause()
        variants = {worker.spec.namespace: _round(rig, stack, worker, count) for worker in workers}
        return interleave(variants, rig.rounds * ROUNDS_FACTOR)


def _round(rig: Rig, stack: ExitStack, worker: Worker, count: int) -> Callable[[], Cost]:
    namespace = worker.spec.namespace
    if worker.spec.sort == "ours":
        fill = our_fill(stack.enter_context(closing(rig.client(namespace))), count)
    else:
        fill = _bare_fill(rig, stack, namespace, count)
    return lambda: cost_of_draining(worker, rig.raw, fill)


def our_fill(client: Client, count: int) -> Fill:
    """Submits `count` tasks and returns their ids."""

    def fill() -> list[str]:
        key = picture_key()
        submissions = [Submission(KIND, key, QUESTION) for _ in range(count)]
        return [handle.id for handle in client.submit_many(submissions)]

    return fill


def _bare_fill(rig: Rig, stack: ExitStack, queue: str, count: int) -> Fill:
    app = stack.enter_context(bare_app(rig.urls.broker_url, queue))
    noop, task = app.tasks[TASK_NAME], message()

    def fill() -> list[str]:
        results = [noop.apply_async(kwargs={"task": task}) for _ in range(count)]
        return [str(result.id) for result in results]

    return fill


def _millis(cost: Cost) -> str:
    return f"{cost.cpu * 1e3:.2f} ms CPU ({1 / cost.wall:.0f}/s)"
