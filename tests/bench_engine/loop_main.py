"""A launching loop, and the work of a worker's threads beside it, in a process of its own.

`python -m tests.bench_engine.loop_main`; the store comes from the environment. The loop is the
engine's own, around a device that launches as many small operations for a step as a decoder does
and does not wait for any: nothing hides what slows the launching.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from statistics import mean, quantiles
from time import perf_counter, sleep
from typing import Any

import torch

from tests.bench_engine.beside import Pace, Part, jobs
from tests.bench_engine.children import serve
from tests.bench_engine.engines import endless_tiny
from tests.support.simulated import SimulatedRunner, simulated_engine
from visionq.objects import ObjectStore
from visionq.settings import load_settings
from visionq_worker.engine.options import EngineOptions
from visionq_worker.engine.request import Request
from visionq_worker.engine.scheduler import Chunk
from visionq_worker.model.processor import ModelInputs

NUM_LAUNCHES = 300
"""Of a step: 32 layers of nine or ten kernels."""
NUM_RUNNING = 8
CONTEXT_TOKENS = 1_000_000
"""Requests that outlast every measurement."""


class LaunchingRunner(SimulatedRunner):
    """Launches small operations and notes when each step began."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.began: list[float] = []
        self._tensor = torch.zeros(8)

    def run(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        self.began.append(perf_counter())
        with torch.inference_mode():
            for _ in range(NUM_LAUNCHES):
                torch.add(self._tensor, 1.0)
        return super().run(chunks)


def main() -> None:
    torch.set_num_threads(1)
    loaded = endless_tiny()
    runner = LaunchingRunner(
        answer=(300, 301, 302),
        num_vocabulary=loaded.config.vocab_size,
        num_pages=NUM_RUNNING * CONTEXT_TOKENS // 256,
        num_short=CONTEXT_TOKENS,
        image_token_id=loaded.config.image_token_id,
    )
    options = EngineOptions(max_context_tokens=CONTEXT_TOKENS, keeps_prefixes=False)
    engine = simulated_engine(runner, loaded.processor, options)
    settings = load_settings()
    todo = jobs(ObjectStore(settings.storage.address(), max_connections=32))

    def measure(part: Part | None, per_second: float, seconds: float) -> dict[str, Any]:
        inputs = ModelInputs(input_ids=torch.tensor([[1, 300]]))
        request = Request(inputs=inputs, max_new_tokens=CONTEXT_TOKENS // 2)
        handles = [engine.submit(request) for _ in range(NUM_RUNNING)]
        pace = Pace(todo[part], per_second) if part else None
        running: AbstractContextManager[None] = pace.running() if pace else nullcontext()
        with running:
            sleep(seconds / 10)  # until the threads have their connections
            first, began, num_done = len(runner.began), perf_counter(), pace.num_done if pace else 0
            sleep(seconds)
            times = runner.began[first:]
            num_done = pace.num_done - num_done if pace else 0
            lasted = perf_counter() - began
        for handle in handles:
            handle.cancel()
            handle.wait()
        steps = [after - before for before, after in pairwise(times)]
        return {
            "mean": mean(steps),
            "p99": quantiles(steps, n=100)[98],
            "per_second": num_done / lasted,
        }

    serve({"measure": measure})


if __name__ == "__main__":
    main()
