"""From submit to the moment the waiter knows, on an idle system.

One task at a time, `submit` and `handle.wait()` in turn with a bare `apply_async` and
`AsyncResult.get`; a worker of concurrency 1 for each. Wall time, p50 and p99.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from statistics import median, quantiles
from time import perf_counter

from tests.bench.bare import TASK_NAME, bare_app
from tests.bench.children import Spec, running_workers
from tests.bench.readings import Reading
from tests.bench.rig import Rig
from tests.bench.sample import KIND, QUESTION, message, picture_key
from visionq import Client

OURS, BARE = Spec("ours"), Spec("bare-like-ours")
NUM_TASKS = 200
NUM_WARM_UP = 10
TIMEOUT_SECONDS = 30


def measure_wait(rig: Rig) -> Iterator[Reading]:
    rig.clear()
    with ExitStack() as stack:
        stack.enter_context(running_workers(rig, OURS, BARE))
        client = stack.enter_context(closing(rig.client(OURS.namespace)))
        asks = (_ours(client), _bare(rig, stack))
        seconds = [_seconds_of_each(asks) for _ in range(rig.count(NUM_TASKS) + NUM_WARM_UP)]
    ours, bare = zip(*seconds[NUM_WARM_UP:], strict=True)
    yield Reading(
        bar="wait",
        what="handle.wait / AsyncResult.get, p50",
        measured=median(ours) / median(bare),
        limit=1.5,
        detail=f"p50/p99 {_spread(ours)} against {_spread(bare)}",
    )


def _ours(client: Client) -> Callable[[], None]:
    key = picture_key()
    return lambda: _check(client.submit(KIND, key, QUESTION).wait(TIMEOUT_SECONDS).is_done)


def _bare(rig: Rig, stack: ExitStack) -> Callable[[], None]:
    app = stack.enter_context(bare_app(rig.urls.broker_url, BARE.namespace))
    noop, task = app.tasks[TASK_NAME], message()
    return lambda: _check(noop.apply_async(kwargs={"task": task}).get(timeout=TIMEOUT_SECONDS))


def _check(answer: object) -> None:
    assert answer, "the task has ended without an answer"


def _seconds_of_each(asks: tuple[Callable[[], None], ...]) -> tuple[float, ...]:
    seconds = []
    for ask in asks:
        began = perf_counter()
        ask()
        seconds.append(perf_counter() - began)
    return tuple(seconds)


def _spread(seconds: tuple[float, ...]) -> str:
    return f"{median(seconds) * 1e3:.2f}/{quantiles(seconds, n=100)[98] * 1e3:.2f} ms"
