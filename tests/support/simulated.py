"""A device that takes a fixed time for each step and answers every request with the same tokens.

It keeps the interface of `visionq_worker.engine.runner.Runner`, so that scheduler, engine and all
that surrounds them can be tested and timed without a model. A step waits without the GIL, as the
driver of a real device does.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import sleep
from typing import Any

import torch

from visionq_worker.engine.batching import BatchingEngine
from visionq_worker.engine.options import EngineOptions
from visionq_worker.engine.request import EngineInfo
from visionq_worker.engine.scheduler import Chunk
from visionq_worker.model.processor import Phi3VProcessor


@dataclass(frozen=True, slots=True)
class Ran:
    """One step as the device saw it: numbers of the sequences, and tokens computed of each."""

    numbers: tuple[int, ...]
    num_tokens: tuple[int, ...]


class SimulatedRunner:
    """Token `answer[i % len(answer)]` is the i-th of every request's answer.

    `errors` are raised by the steps of these numbers (from 0, each attempt counts). Rows of the
    sequences in `nan_numbers` are NaN. While `gate` is a cleared event, steps wait for it. All
    three may be changed while the engine runs. `steps` says what was run, failed steps too.
    """

    def __init__(
        self,
        *,
        step_seconds: float = 0.0,
        answer: Sequence[int] = (5, 6, 7),
        num_vocabulary: int = 64,
        num_pages: int = 1024,
        page_tokens: int = 256,
        num_short: int = 4096,
        image_token_id: int = 1,
        errors: Mapping[int, Exception] | None = None,
    ) -> None:
        assert image_token_id not in answer, "the engine chooses no placeholder"
        self.num_pages = num_pages
        self.page_tokens = page_tokens
        self.num_short = num_short
        self.image_token_id = image_token_id
        self.step_seconds = step_seconds
        self.answer = tuple(answer)
        self.num_vocabulary = num_vocabulary
        self.errors = dict(errors or {})
        self.nan_numbers: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.steps: list[Ran] = []
        self.num_freed = 0

    def run(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        number = len(self.steps)
        self.steps.append(
            Ran(
                numbers=tuple(chunk.sequence.number for chunk in chunks),
                num_tokens=tuple(chunk.num_tokens for chunk in chunks),
            )
        )
        self.gate.wait()
        if self.step_seconds:
            _use_one_core()
            sleep(self.step_seconds)
        if number in self.errors:
            raise self.errors[number]
        return self._logits([chunk for chunk in chunks if chunk.is_last])

    def free_memory(self) -> None:
        self.num_freed += 1

    def feature_counts(self) -> tuple[int, int]:
        return 0, 0

    def _logits(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        logits = torch.zeros(len(chunks), self.num_vocabulary)
        for row, chunk in enumerate(chunks):
            logits[row, self.answer[chunk.sequence.num_generated % len(self.answer)]] = 1.0
            if chunk.sequence.number in self.nan_numbers:
                logits[row] = torch.nan
        return logits


def _use_one_core() -> None:
    """For the calling thread's tensors: what a device computes is not on the CPU.

    After a pause a second thread of OpenMP wakes on the core where the first one spins for it: the
    choice of 31 tokens then took 5.5 ms instead of 0.1, on two virtual cores.
    """
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def simulated_engine(
    runner: SimulatedRunner, processor: Phi3VProcessor, options: EngineOptions, **more: Any
) -> BatchingEngine:
    """The real engine around the simulated device; the processor makes prompts and reads answers.

    The runner's placeholder and vocabulary have to be the processor's. `more` is the engine's.
    """
    info = EngineInfo(
        model="simulated",
        revision="1",
        dtype="none",
        device="none",
        attention="none",
        max_context_tokens=options.max_context_tokens,
    )
    return BatchingEngine(
        runner, processor, info, options, num_vocabulary=runner.num_vocabulary, **more
    )
