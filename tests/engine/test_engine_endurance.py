"""Ten thousand requests: memory stays flat, and every page is free at the end."""

from __future__ import annotations

import gc
import random
from collections import deque

import psutil

from tests.engine.rig import image_inputs, text_inputs
from tests.support.tiny import tiny_model
from visionq.settings import EngineSettings, ModelSettings
from visionq_worker.engine.request import Handle, Request
from visionq_worker.loading import build_engine

NUM_REQUESTS = 10_000
NUM_WARM_UP = 2_000
IN_FLIGHT = 64
MOST_GROWTH_BYTES = 30_000_000
"""A leak of one picture's bytes a hundred requests would be 27 MB; of a handle each, 8 MB."""


def resident_bytes() -> int:
    gc.collect()
    size: int = psutil.Process().memory_info().rss
    return size


def test_memory_stays_flat_over_ten_thousand_requests() -> None:
    loaded, rng = tiny_model(), random.Random(0)
    settings = EngineSettings(
        max_running=IN_FLIGHT, page_tokens=64, cache_bytes=24_000_000, feature_cache_bytes=2_000_000
    )
    engine = build_engine(loaded, ModelSettings(source="tiny", device="cpu"), settings)
    in_flight: deque[Handle] = deque()
    resident = 0
    for number in range(NUM_REQUESTS):
        if number == NUM_WARM_UP:
            resident = resident_bytes()
        if number % 50 == 0:
            inputs = image_inputs(loaded, [number], sizes=[(40, 40)], num_crops=1)
        else:
            inputs = text_inputs(loaded, rng.choice([3, 17, 70]), number)
        request = Request(inputs=inputs, max_new_tokens=rng.randint(1, 4))
        in_flight.append(engine.submit(request))
        if number % 31 == 0:
            in_flight[-1].cancel()
        if len(in_flight) == IN_FLIGHT:
            in_flight.popleft().result()
    while in_flight:
        in_flight.popleft().result()
    growth = resident_bytes() - resident
    metrics = engine.metrics()
    engine.close()
    engine.check()
    assert metrics.requests_total == NUM_REQUESTS
    assert metrics.failures_total == 0
    assert metrics.pages_free == metrics.pages_total
    assert growth < MOST_GROWTH_BYTES
