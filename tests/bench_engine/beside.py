"""What a worker's threads do around the model, at a steady pace, to see what else it slows down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from time import perf_counter
from typing import Literal

from tests.bench_engine.pictures import photograph
from visionq.names import input_key
from visionq.objects import ObjectStore
from visionq_worker.developing import develop_fast
from visionq_worker.images import ImageLimits, open_image
from visionq_worker.jpegs import has_fast_decoder

Part = Literal["fetch", "prepare", "put", "all"]
PARTS: tuple[Part, ...] = ("fetch", "prepare", "put", "all")

NUM_THREADS = 16
NUM_CROPS = 4
"""With 16 crops two cores do not reach 50 a second; what is looked for is the GIL's share."""

LIMITS = ImageLimits(max_pixels=40_000_000, formats=("JPEG", "PNG"))
RESULT = b"x" * 2000


def picture() -> bytes:
    """A JPEG of 0.2 MB and 1 megapixel."""
    return photograph(1, "JPEG")


def jobs(store: ObjectStore) -> Mapping[Part, Callable[[], None]]:
    """One task's part of each sort, and all of them one after the other."""
    content, numbers = picture(), count()
    key = input_key(content)
    store.put(key, content)

    def fetch() -> bytes:
        return store.get(key, max_bytes=len(content))

    def prepare(fetched: bytes) -> None:
        opened = open_image(fetched, LIMITS)
        develop_fast(opened, NUM_CROPS, has_fast_decoder=has_fast_decoder())

    def put() -> None:
        store.put(f"results/{next(numbers)}.json", RESULT, "application/json")

    def everything() -> None:
        prepare(fetch())
        put()

    return {
        "fetch": lambda: (fetch(), None)[1],
        "prepare": lambda: prepare(content),
        "put": put,
        "all": everything,
    }


class Pace:
    """Runs a job so many times a second, in several threads, from `start` to `stop`."""

    def __init__(self, job: Callable[[], None], per_second: float) -> None:
        self.num_done = 0
        self._job = job
        self._gap_seconds = 1 / per_second
        self._stopping = threading.Event()
        self._counting = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """The jobs run while the block does. Raises what a job has raised."""
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            running = [pool.submit(self._repeat, n) for n in range(NUM_THREADS)]
            try:
                yield
            finally:
                self._stopping.set()
            for done in running:
                done.result()

    def _repeat(self, number: int) -> None:
        """This thread's share: each NUM_THREADS-th job, at its time or as soon as may be."""
        due = perf_counter() + number * self._gap_seconds
        while not self._stopping.wait(max(0.0, due - perf_counter())):
            self._job()
            with self._counting:
                self.num_done += 1
            # Who was held still does not catch up.
            due = max(due + NUM_THREADS * self._gap_seconds, perf_counter() - self._gap_seconds)
