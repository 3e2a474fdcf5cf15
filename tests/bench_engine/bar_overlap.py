"""Storing beside computing: a device busy for 20 ms per task, and a store that answers after 20 ms.

The device takes one request at a time. Through a worker whose every answer from the store is late,
fetches included, it should stay as busy as when it is driven directly: what waits for the store
must not keep others from the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

from tests.bench.delay import delayed
from tests.bench.readings import Reading
from tests.bench.rig import Rig
from tests.bench.timing import Cost, interleave
from tests.bench_engine.engines import EngineSpec
from tests.bench_engine.served import Load, load_of, starting_direct, starting_queued

SECONDS = 0.02
SPEC = EngineSpec(sort="simulated", max_running=1, step_seconds=SECONDS, has_caches=False)
NUM_TASKS = 200
CONCURRENCY = 8
LEAST = 0.95


def measure_overlap(rig: Rig) -> Iterator[Reading]:
    rig.clear()
    load = load_of(rig.count(NUM_TASKS), 1)
    costs = _costs(rig, load)
    yield _reading(f"{CONCURRENCY} in hand", costs["overlapped"], costs["alone"], LEAST)
    yield _reading("1 in hand", costs["serial"], costs["alone"], None)


def _costs(rig: Rig, load: Load) -> dict[str, Cost]:
    store = urlsplit(rig.urls.s3_endpoint)
    assert store.hostname is not None
    assert store.port is not None
    with ExitStack() as stack:
        # Two in flight: the next one is there when the device has done with the one before.
        alone = stack.enter_context(starting_direct(SPEC, load, in_flight=2))
        port = stack.enter_context(delayed(store.hostname, store.port, SECONDS))
        overlapped, serial = (
            stack.enter_context(
                starting_queued(
                    rig,
                    SPEC,
                    load,
                    concurrency=concurrency,
                    store_url=f"http://127.0.0.1:{port}",
                )
            )
            for concurrency in (CONCURRENCY, 1)
        )
        alone.child.wait_until_ready()
        for queued in (overlapped, serial):
            queued.worker.wait_until_ready()
            queued.worker.pause()
        variants = {"alone": alone.run, "overlapped": overlapped.run, "serial": serial.run}
        return interleave(variants, rig.rounds)


def _reading(what: str, queued: Cost, alone: Cost, least: float | None) -> Reading:
    return Reading(
        bar="overlap",
        what=f"tasks/s with a store of 20 ms / compute alone, {what}",
        measured=alone.wall / queued.wall,
        sense=">=",
        limit=least,
        detail=f"{1 / queued.wall:.1f} / {1 / alone.wall:.1f} per second",
    )
