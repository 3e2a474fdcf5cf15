"""Submitting one by one and in bulk, against Celery's own `apply_async`.

The measure is a default `apply_async` of a task registered in this process, with the same keyword
argument, a Redis result backend, and the AsyncResult dropped as a web handler does. CPU time is
this process's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from tests.bench.bare import TASK_NAME, bare_app
from tests.bench.readings import Reading
from tests.bench.rig import Rig
from tests.bench.sample import KIND, QUESTION, message, picture_key
from tests.bench.timing import cost_of, interleave, micros
from visionq import Client, Submission

NUM_TASKS = 1000
MAX_READS_PER_BULK = 200
"""Reads of the server while it takes a bulk of 1,000, which come in pieces of 16 KB. One by one
it would be one read for each of 2,000 commands."""


def measure_submit(rig: Rig) -> Iterator[Reading]:
    """`Client.submit` with a key: a record and a message."""
    rig.clear()
    count = rig.count(NUM_TASKS)
    with closing(rig.client()) as client, _apply_async(rig) as (dropped, kept):
        costs = interleave(
            {
                "ours": lambda: cost_of(lambda: _submit(client, count)),
                "dropped": lambda: cost_of(lambda: dropped(count)),
                "kept": lambda: cost_of(lambda: kept(count)),
            },
            rig.rounds,
        )
    ours, dropped_cost = costs["ours"], costs["dropped"]
    yield Reading(
        bar="submit",
        what="submit / apply_async, CPU",
        measured=ours.cpu / dropped_cost.cpu,
        limit=1.0,
        detail=_pair(ours.cpu / count, dropped_cost.cpu / count),
    )
    yield _aside("submit", "the same, wall", ours.wall, dropped_cost.wall, count)
    yield _aside("submit", "the same, CPU, AsyncResults kept", ours.cpu, costs["kept"].cpu, count)


def measure_submit_many(rig: Rig) -> Iterator[Reading]:
    """`Client.submit_many` of 1,000, against the loop of 1,000 `apply_async`."""
    rig.clear()
    count = rig.count(NUM_TASKS)
    with closing(rig.client()) as client, _apply_async(rig) as (dropped, _):
        costs = interleave(
            {
                "ours": lambda: cost_of(lambda: _submit_many(client, count)),
                "loop": lambda: cost_of(lambda: dropped(count)),
            },
            rig.rounds,
        )
        num_reads = _num_reads(rig, lambda: _submit_many(client, count))
    assert num_reads <= MAX_READS_PER_BULK, f"{num_reads} reads: batching is off"
    yield _gain("wall", costs["loop"].wall, costs["ours"].wall, count)
    yield _gain("CPU", costs["loop"].cpu, costs["ours"].cpu, count)
    yield Reading(
        bar="submit_many",
        what=f"reads by the server for {count} tasks",
        measured=num_reads,
        unit="reads",
        limit=MAX_READS_PER_BULK,
        detail="batching is on; one by one it is 2 per task",
    )


@contextmanager
def _apply_async(rig: Rig) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Two loops of the default `apply_async`: its results dropped at once, or kept to the end."""
    with bare_app(rig.urls.broker_url) as app:
        noop, task = app.tasks[TASK_NAME], message()

        def dropped(count: int) -> None:
            for _ in range(count):
                noop.apply_async(kwargs={"task": task})

        def kept(count: int) -> None:
            results.append([noop.apply_async(kwargs={"task": task}) for _ in range(count)])

        results: list[object] = []
        yield dropped, kept


def _submit(client: Client, count: int) -> None:
    key = picture_key()
    for _ in range(count):
        client.submit(KIND, key, QUESTION)


def _submit_many(client: Client, count: int) -> None:
    key = picture_key()
    client.submit_many(Submission(KIND, key, QUESTION) for _ in range(count))


def _num_reads(rig: Rig, work: Callable[[], None]) -> int:
    """How often the server read from a socket meanwhile, by its own count."""
    before: int = rig.raw.info("stats")["total_reads_processed"]
    work()
    after: int = rig.raw.info("stats")["total_reads_processed"]
    return after - before - 1


def _gain(what: str, loop: float, ours: float, count: int) -> Reading:
    return Reading(
        bar="submit_many",
        what=f"apply_async loop / submit_many, {what}",
        measured=loop / ours,
        sense=">=",
        limit=6.0,
        detail=_pair(loop / count, ours / count),
    )


def _aside(bar: str, what: str, ours: float, theirs: float, count: int) -> Reading:
    return Reading(
        bar=bar, what=what, measured=ours / theirs, detail=_pair(ours / count, theirs / count)
    )


def _pair(ours: float, theirs: float) -> str:
    return f"{micros(ours)} / {micros(theirs)}"
