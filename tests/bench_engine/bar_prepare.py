"""Images per second of one core: fetched, decoded, resized, and how many cores a GPU wants.

One thread on one core; what counts is its CPU time, since a thread that waits for the store leaves
the core to others. What a GPU wants is the floor of shared/research/phi3v.md, section 7, for one
H200: if images come slower than that, the device waits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from time import perf_counter, thread_time

from tests.bench.readings import Reading
from tests.bench.rig import Rig
from tests.bench_engine.beside import LIMITS
from tests.bench_engine.pictures import photograph
from tests.bench_engine.stores import store_of
from visionq.names import input_key
from visionq.objects import ObjectStore
from visionq_worker.developing import develop_fast
from visionq_worker.images import open_image
from visionq_worker.jpegs import has_fast_decoder

FILES = ((1, "JPEG"), (4, "JPEG"), (12, "JPEG"), (4, "PNG"))
"""Megapixels and format."""

WANTED = {
    4: {"prefill only": 103.0, "100 tokens, 64 in flight": 53.0},
    16: {"prefill only": 30.0, "100 tokens, 64 in flight": 17.7},
}
"""Images per second at the floor of one H200, by num_crops."""

NUM_IMAGES = 8
"""In a round."""


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of one image's parts, and wall seconds of them together."""

    fetch: float
    develop: float
    wall: float

    @property
    def cpu(self) -> float:
        return self.fetch + self.develop


def measure_prepare(rig: Rig) -> Iterator[Reading]:
    with (
        closing(store_of(rig)) as store,
        ThreadPoolExecutor(1, initializer=stay_on_one_core) as thread,
    ):
        for megapixels, file_format in FILES:
            content = photograph(megapixels, file_format)
            key = input_key(content)
            store.put(key, content)
            for num_crops in WANTED:
                one = partial(_prepare, store, key, num_crops)
                cost = thread.submit(_median, one, rig.rounds * rig.count(NUM_IMAGES, least=1))
                what = f"{megapixels} MP {file_format}, {len(content) / 1e6:.1f} MB"
                yield _reading(what, num_crops, cost.result())


def stay_on_one_core() -> None:
    """Keep this thread, and no other, on one core."""
    if hasattr(os, "sched_setaffinity"):  # Linux; elsewhere the thread may move
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _prepare(store: ObjectStore, key: str, num_crops: int) -> Cost:
    began, start = perf_counter(), thread_time()
    content = store.get(key)
    fetched = thread_time()
    develop_fast(open_image(content, LIMITS), num_crops, has_fast_decoder=has_fast_decoder())
    end = thread_time()
    return Cost(fetched - start, end - fetched, perf_counter() - began)


def _median(work: Callable[[], Cost], count: int) -> Cost:
    """The parts' medians, after one that is not counted."""
    costs = [work() for _ in range(count + 1)][1:]
    parts = {name: median(getattr(cost, name) for cost in costs) for name in Cost.__slots__}
    return replace(costs[0], **parts)


def _reading(what: str, num_crops: int, cost: Cost) -> Reading:
    parts = [f"{name} {getattr(cost, name) * 1e3:.1f}" for name in ("fetch", "develop")]
    wanted = [f"{need * cost.cpu:.1f} ({name})" for name, need in WANTED[num_crops].items()]
    return Reading(
        bar="prepare",
        what=f"{what}, {num_crops} crops, one core",
        measured=1 / cost.cpu,
        unit="images/s",
        detail=f"{', '.join(parts)} ms CPU, {cost.wall * 1e3:.0f} ms; "
        f"cores that one H200 wants: {', '.join(wanted)}",
    )
