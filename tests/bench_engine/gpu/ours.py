"""The engine on the device: prefill alone, decode alone, and images per second with many in flight.

Everything is measured from outside, by the moments at which tokens arrive: scheduling, sampling
and copies are in it. The engine waits for the device once in a step, so the moments are real.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

from tests.bench_engine.gpu.network import Prompts, Shape
from tests.bench_engine.gpu.plan import Plan
from tests.bench_engine.steady import rate
from visionq_worker.engine.batching import BatchingEngine
from visionq_worker.engine.options import EngineOptions
from visionq_worker.engine.request import EngineInfo, Handle, Request
from visionq_worker.engine.runner import ModelRunner
from visionq_worker.model.attention import choose_attention
from visionq_worker.model.processor import ModelInputs
from visionq_worker.model.weights import LoadedModel

NUM_GATE_TOKENS = 4


@contextmanager
def open_engine(loaded: LoadedModel, attention: str, options: EngineOptions) -> Iterator[Ours]:
    """The engine around the model, as a worker builds it."""
    model = loaded.model
    chosen = choose_attention(
        attention, device=model.device, dtype=model.dtype, page_tokens=options.page_tokens
    )
    info = EngineInfo(
        model=loaded.model_id,
        revision=None,
        dtype=loaded.dtype,
        device=loaded.device,
        attention=chosen.name,
        max_context_tokens=options.max_context_tokens,
    )
    engine = BatchingEngine(
        ModelRunner(model, chosen, options),
        loaded.processor,
        info,
        options,
        num_vocabulary=loaded.config.vocab_size,
    )
    try:
        yield Ours(engine, options, Prompts(loaded.config))
    finally:
        engine.close(cancel=True)


@dataclass(slots=True)
class Told:
    """One request, and when its tokens came."""

    num_prompt: int
    times: list[float] = field(default_factory=list)

    def num_cached(self, moment: float) -> int:
        """Tokens in the cache at that moment, to the step."""
        return self.num_prompt + sum(time <= moment for time in self.times)


@dataclass(frozen=True, slots=True)
class Decoding:
    """A mean step of a whole batch, and the tokens whose keys and values it read, on average."""

    seconds: float
    num_cached: int


@dataclass(frozen=True, slots=True)
class Ours:
    """A running engine and prompts that it has not seen."""

    engine: BatchingEngine
    options: EngineOptions
    prompts: Prompts

    def fits(self, shape: Shape, num_new: int) -> int:
        """How many such requests the engine runs at once: a page of each is kept in reserve."""
        metrics = self.engine.metrics()
        num_pages = math.ceil((shape.prompt.num_tokens + num_new) / self.options.page_tokens)
        return metrics.pages_total // (num_pages + 1)

    def prefill_seconds(self, shape: Shape, batch: int, num_times: int) -> float:
        """From the first step to the last first token of `batch` requests; a median."""
        self._together(shape, 1, 1)
        seconds = []
        for _ in range(num_times):
            began, told = self._together(shape, batch, 1)
            seconds.append(max(one.times[0] for one in told) - began)
        return median(seconds)

    def decode(self, shape: Shape, batch: int, num_steps: int) -> Decoding:
        """The steps between the last request's first token and the first request's last one."""
        _, told = self._together(shape, batch, self.num_new(shape, batch, num_steps))
        begin = max(one.times[0] for one in told)
        end = min(one.times[-1] for one in told)
        youngest = max(told, key=lambda one: one.times[0])
        times = [time for time in youngest.times if begin <= time <= end]
        assert len(times) > num_steps // 2, "too few steps with the whole batch: decode for longer"
        middle = times[len(times) // 2]
        return Decoding(
            seconds=(times[-1] - times[0]) / (len(times) - 1),
            num_cached=sum(one.num_cached(middle) for one in told),
        )

    def num_new(self, shape: Shape, batch: int, num_steps: int) -> int:
        """Tokens for each, so that `num_steps` are left when the last prompt is computed.

        The first request goes on generating while the others' prompts are computed.
        """
        room = self.options.step_tokens - batch
        return num_steps + math.ceil(batch * shape.prompt.num_tokens / room) + 2

    def images_per_second(
        self, shape: Shape, *, num_new: int, in_flight: int, count: int
    ) -> tuple[float, str]:
        """Always `in_flight` requests in the engine; and what was notable."""
        before = self.engine.metrics()
        inputs = [self.prompts.inputs(shape) for _ in range(count)]
        places = threading.BoundedSemaphore(in_flight)
        ended: list[float] = []

        def end(_handle: Handle) -> None:
            ended.append(perf_counter())
            places.release()

        handles = []
        for one in inputs:
            places.acquire()
            handles.append(self.engine.submit(Request(inputs=one, max_new_tokens=num_new)))
            handles[-1].add_done_callback(end)
        lengths = {len(handle.result().token_ids) for handle in handles}
        assert lengths == {num_new}, "every request says as much as it was asked for"
        num_sent_back = self.engine.metrics().preemptions_total - before.preemptions_total
        return rate(ended, count // 4), f"{num_sent_back} preemptions" if num_sent_back else ""

    def _together(self, shape: Shape, batch: int, num_new: int) -> tuple[float, list[Told]]:
        """Requests that the engine finds all at once, and when it began with them."""
        inputs = [self.prompts.inputs(shape) for _ in range(batch)]
        told = [Told(one.num_tokens) for one in inputs]
        with self._held():
            handles = [
                self.engine.submit(_request(one, num_new, tale))
                for one, tale in zip(inputs, told, strict=True)
            ]
            began = perf_counter()
        for handle in handles:
            handle.result()
        return began, told

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The engine's thread stands still: it is in the callback of a request of ours."""
        inside, go_on = threading.Event(), threading.Event()

        def hold(_token_id: int) -> None:
            inside.set()
            go_on.wait()

        inputs = self.prompts.text(NUM_GATE_TOKENS)
        handle = self.engine.submit(Request(inputs=inputs, max_new_tokens=1, on_token=hold))
        inside.wait()
        try:
            yield
        finally:
            go_on.set()
        handle.result()


def _request(inputs: ModelInputs, num_new: int, told: Told) -> Request:
    return Request(
        inputs=inputs,
        max_new_tokens=num_new,
        on_token=lambda _token_id: told.times.append(perf_counter()),
    )


def options_of(plan: Plan, **changes: Any) -> EngineOptions:
    """As shipped, unless the plan or the command line says otherwise."""
    return EngineOptions(**{**plan.engine, **changes})


def batches_that_fit(ours: Ours, shape: Shape, plan: Plan) -> Sequence[int]:
    """The plan's, the larger ones replaced by what the cache holds."""
    batches = [
        min(batch, ours.fits(shape, ours.num_new(shape, batch, plan.num_decode_steps)))
        for batch in plan.batches
    ]
    return sorted(set(batches))
