"""From a file to what the device is sent, beside the plain way: decode, float, 17 crops.

CPU time of one thread on one core; the ways take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from time import thread_time

import torch

from tests.bench.readings import Reading
from tests.bench.rig import Rig
from tests.bench_engine.bar_prepare import stay_on_one_core
from tests.bench_engine.beside import LIMITS
from tests.bench_engine.pictures import photograph
from tests.bench_engine.plain import plain_pixels
from visionq_worker.developing import develop_exactly, develop_fast
from visionq_worker.images import open_image

FILES = ((1, "JPEG"), (4, "JPEG"), (12, "JPEG"), (4, "PNG"))
"""Megapixels and format."""

LIMITS_OF_FAST = {(1, "JPEG"): 4.0, (4, "JPEG"): 1.6, (12, "JPEG"): 2.2}
"""How many times cheaper than the plain way `limits.decoding = "fast"` has to be."""

NUM_CROPS = 16
NUM_IMAGES = 8
"""In a round."""


def measure_develop(rig: Rig) -> Iterator[Reading]:
    count = rig.rounds * rig.count(NUM_IMAGES, least=1)
    with ThreadPoolExecutor(1, initializer=_work_alone) as thread:
        for megapixels, file_format in FILES:
            content = photograph(megapixels, file_format)
            seconds = thread.submit(_medians, _ways(content), count).result()
            plain = seconds.pop("plain")
            for way, took in seconds.items():
                yield _reading(megapixels, file_format, way, plain, took)


def _work_alone() -> None:
    stay_on_one_core()
    torch.set_num_threads(1)


def _ways(content: bytes) -> Mapping[str, Callable[[], object]]:
    def fast() -> None:
        opened = open_image(content, LIMITS)
        develop_fast(opened, NUM_CROPS, has_fast_decoder=True)

    return {
        "plain": lambda: plain_pixels(content, NUM_CROPS),
        "exact": lambda: develop_exactly(open_image(content, LIMITS), NUM_CROPS),
        "fast": fast,
    }


def _medians(ways: Mapping[str, Callable[[], object]], count: int) -> dict[str, float]:
    """CPU seconds of each way, one after the other in turns; the first turn is not counted."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(count + 1):
        for way, work in ways.items():
            began = thread_time()
            work()
            seconds[way].append(thread_time() - began)
    return {way: median(took[1:]) for way, took in seconds.items()}


def _reading(megapixels: int, file_format: str, way: str, plain: float, took: float) -> Reading:
    file = (megapixels, file_format)
    return Reading(
        bar="develop",
        what=f"{megapixels} MP {file_format}, plain / {way}",
        measured=plain / took,
        sense=">=",
        limit=LIMITS_OF_FAST.get(file) if way == "fast" else None,
        detail=f"{plain * 1e3:.1f} / {took * 1e3:.1f} ms CPU, {NUM_CROPS} crops",
    )
