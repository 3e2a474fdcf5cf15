"""The queue in front: tasks per second through Celery, against the engine driven directly.

Once with a device that takes a fixed time for a step, whatever its work, and once with the tiny
model on the CPU, which shares its cores with everything else. The direct side always has as many
requests in flight as the engine generates together. The worker has as many tasks in hand, and
then a quarter more, which is what is shipped: those are being prepared or stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from tests.bench.readings import Reading
from tests.bench.rig import Rig
from tests.bench.timing import Cost, interleave
from tests.bench_engine.engines import EngineSpec
from tests.bench_engine.served import load_of, starting_direct, starting_queued

IN_FLIGHT = 32
CONCURRENCIES = (IN_FLIGHT, IN_FLIGHT * 5 // 4)
LEAST = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An engine and its load; a mean number of tokens."""

    what: str
    spec: EngineSpec
    num_tasks: int
    num_tokens: int


CASES = (
    Case(
        what="device of 20 ms a step",
        spec=EngineSpec(
            sort="simulated", max_running=IN_FLIGHT, step_seconds=0.02, has_caches=False
        ),
        num_tasks=300,
        num_tokens=32,
    ),
    Case(
        what="tiny model",
        spec=EngineSpec(sort="ours", max_running=IN_FLIGHT, has_caches=False),
        num_tasks=200,
        num_tokens=64,
    ),
)


def measure_queue(rig: Rig) -> Iterator[Reading]:
    for case in CASES:
        rig.clear()
        costs = _costs(rig, case)
        direct = costs["direct"]
        for concurrency in CONCURRENCIES:
            queued = costs[str(concurrency)]
            yield Reading(
                bar="queue",
                what=f"tasks/s of queue / direct, {case.what}, {concurrency} in hand",
                measured=direct.wall / queued.wall,
                sense=">=",
                limit=LEAST,
                detail=f"{_text(queued)} / {_text(direct)}",
            )


def _costs(rig: Rig, case: Case) -> dict[str, Cost]:
    load = load_of(rig.count(case.num_tasks), rig.count(case.num_tokens, least=4))
    with ExitStack() as stack:
        direct = stack.enter_context(starting_direct(case.spec, load, in_flight=IN_FLIGHT))
        workers = {
            str(concurrency): stack.enter_context(
                starting_queued(rig, case.spec, load, concurrency=concurrency)
            )
            for concurrency in CONCURRENCIES
        }
        direct.child.wait_until_ready()
        for queued in workers.values():
            queued.worker.wait_until_ready()
            queued.worker.pause()
        variants: dict[str, Callable[[], Cost]] = {"direct": direct.run}
        variants |= {name: queued.run for name, queued in workers.items()}
        return interleave(variants, rig.rounds)


def _text(cost: Cost) -> str:
    return f"{1 / cost.wall:.1f}/s, {cost.cpu * 1e3:.1f} ms CPU"
