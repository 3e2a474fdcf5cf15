"""What fetching, preparing and storing cost the loop that launches the device's work.

Mean time of a step while the executor's I/O runs beside it at a fixed rate, against the loop alone;
for all of a task's work, and for each part of it. The last reading runs the same work in another
process: what is slow then is not the GIL's doing, but the cores'.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

from tests.bench.readings import Reading
from tests.bench.rig import NAMESPACE, Rig
from tests.bench.timing import Cost, interleave
from tests.bench_engine.beside import PARTS
from tests.bench_engine.children import Child, starting_child
from tests.support.workers import environment

PER_SECOND = 50
SECONDS = 0.8
ROUNDS_FACTOR = 3
"""Rounds are short and many: a virtual core is twice as fast in one second as in another."""
MOST = 1.05

WHAT = {
    "fetch": "fetch of 0.2 MB",
    "prepare": "decode and resize",
    "put": "put of 2 KB",
    "all": "all of these",
    "elsewhere": "all of these in another process",
}


def measure_loop(rig: Rig) -> Iterator[Reading]:
    rig.clear()
    env = environment(rig.urls, NAMESPACE)
    with ExitStack() as stack:
        loop = stack.enter_context(starting_child("tests.bench_engine.loop_main", env=env))
        other = stack.enter_context(starting_child("tests.bench_engine.beside_main", env=env))
        loop.wait_until_ready()
        other.wait_until_ready()
        heard: dict[str, str] = {}
        rounds = rig.rounds * (ROUNDS_FACTOR if rig.scale >= 1 else 1)
        costs = interleave(_variants(loop, other, rig, heard), rounds)
    alone = costs["alone"].wall
    for name, what in WHAT.items():
        yield Reading(
            bar="loop",
            what=f"step beside {PER_SECOND}/s / alone, {what}",
            measured=costs[name].wall / alone,
            limit=MOST if name == "all" else None,
            detail=f"{costs[name].wall * 1e3:.3f} / {alone * 1e3:.3f} ms; at last {heard[name]}",
        )


def _variants(
    loop: Child, other: Child, rig: Rig, heard: dict[str, str]
) -> dict[str, Callable[[], Cost]]:
    seconds = max(SECONDS * rig.scale, 0.2)

    def measure(name: str, part: str | None) -> Cost:
        answer = loop.ask("measure", part=part, per_second=PER_SECOND, seconds=seconds)
        heard[name] = _text(answer)
        return Cost(answer["mean"], 0.0)

    def elsewhere() -> Cost:
        """The other process works for longer than the loop is looked at."""
        work = partial(other.ask, "work", per_second=PER_SECOND, seconds=1.2 * seconds)
        working = threading.Thread(target=work)
        working.start()
        cost = measure("elsewhere", None)
        working.join()
        return cost

    variants: dict[str, Callable[[], Cost]] = {"alone": partial(measure, "alone", None)}
    variants |= {part: partial(measure, part, part) for part in PARTS}
    return variants | {"elsewhere": elsewhere}


def _text(answer: dict[str, float]) -> str:
    reached = f", {answer['per_second']:.0f}/s reached" if answer["per_second"] else ""
    return f"p99 {answer['p99'] * 1e3:.2f} ms{reached}"
