"""An engine in a process of its own: `python -m tests.bench_engine.engine_main SPEC`.

SPEC is an `EngineSpec` as JSON. It answers the commands below, driven directly, without a queue.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from threading import BoundedSemaphore
from time import perf_counter, process_time
from typing import Any

from PIL import Image

from tests.bench_engine.children import serve
from tests.bench_engine.engines import EngineSpec, build
from tests.bench_engine.pictures import noise
from tests.bench_engine.sample import SMALL_PX, prompt
from visionq_worker.engine.request import Engine, Handle, Request
from visionq_worker.model.processor import ModelInputs

PICTURE_PX = 672
NUM_WARM_UP_TOKENS = 4
NUM_AHEAD = 8
"""Requests prepared while others are generated, as many as a worker of 40 threads has."""


def main() -> None:
    driver = Driver(build(EngineSpec(**json.loads(sys.argv[1]))))
    driver.answer(count=2, num_crops=1, num_tokens=NUM_WARM_UP_TOKENS, first_picture=-2)
    serve({"answer": driver.answer, "drive": driver.drive})


class Driver:
    """Asks the engine about pictures, each of which has a number and is drawn from it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._prompt = prompt()

    def answer(
        self,
        *,
        count: int,
        num_crops: int,
        num_tokens: int,
        first_picture: int,
        is_one_picture: bool = False,
    ) -> dict[str, Any]:
        """Seconds for `count` requests at once, from their pictures on, and their tokens."""
        step = 0 if is_one_picture else 1
        pictures = [noise(2 + first_picture + step * n, PICTURE_PX) for n in range(count)]
        began = perf_counter()
        handles = [self._ask(picture, num_crops, num_tokens) for picture in pictures]
        token_ids = [handle.result().token_ids for handle in handles]
        return {"seconds": perf_counter() - began, "token_ids": token_ids}

    def drive(self, *, in_flight: int, num_tokens: Sequence[int]) -> dict[str, Any]:
        """When each request ended, and CPU seconds, with always so many of them in the engine.

        Another thread prepares some ahead, so that the engine waits for no picture.
        """
        pictures = [noise(number, SMALL_PX) for number in range(len(num_tokens))]
        places = BoundedSemaphore(in_flight)
        ended: list[float] = []

        def end(_handle: Handle) -> None:
            ended.append(perf_counter())
            places.release()

        cpu, handles = process_time(), []
        for inputs, number in zip(self._prepared(pictures), num_tokens, strict=True):
            places.acquire()
            handles.append(self._engine.submit(Request(inputs=inputs, max_new_tokens=number)))
            handles[-1].add_done_callback(end)
        lengths = [len(handle.result().token_ids) for handle in handles]
        assert lengths == list(num_tokens), "every request says as much as it was asked for"
        return {"ended": ended, "cpu": process_time() - cpu}

    def _prepared(self, pictures: Sequence[Image.Image]) -> Iterator[ModelInputs]:
        ready: queue.Queue[ModelInputs] = queue.Queue(NUM_AHEAD)

        def prepare() -> None:
            for picture in pictures:
                ready.put(self._engine.encode(self._prompt, [picture], 1))

        thread = threading.Thread(target=prepare)
        thread.start()
        for _ in pictures:
            yield ready.get()
        thread.join()

    def _ask(self, picture: Image.Image, num_crops: int, num_tokens: int) -> Handle:
        inputs = self._engine.encode(self._prompt, [picture], num_crops)
        return self._engine.submit(Request(inputs=inputs, max_new_tokens=num_tokens))


if __name__ == "__main__":
    main()
