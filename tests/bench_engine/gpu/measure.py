"""The sections of a run. Each fills its part of the report, and may fail without harming others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from tests.bench.readings import Reading, Sense
from tests.bench_engine.gpu.accuracy import measure_accuracy
from tests.bench_engine.gpu.device import (
    device_name,
    free_memory,
    measured_rates,
    target_rates,
)
from tests.bench_engine.gpu.floors import Floors, Rates
from tests.bench_engine.gpu.network import Shape, published_config, random_model
from tests.bench_engine.gpu.ours import Ours, batches_that_fit, open_engine, options_of
from tests.bench_engine.gpu.plan import Plan
from tests.bench_engine.gpu.report import Report
from tests.bench_engine.gpu.theirs import alone, static
from visionq_worker.model.weights import LoadedModel

log = logging.getLogger(__name__)

MOST_STEP = 1.25
"""Times the floor at the target's bandwidth, at batch 1 and at the largest."""
LEAST_PREFILL = 0.6
"""Of the matrix rate measured in the same run."""
LEAST_GAIN = 10.0
"""Times the images per second of `generate`, one at a time."""
NUM_STATIC = 32
"""Tokens of a static batch: enough for a mean step."""


@dataclass(slots=True)
class Bench:
    """One run on one device."""

    plan: Plan
    device: torch.device
    report: Report
    attention: str = "auto"
    changes: dict[str, int] = field(default_factory=dict)  # of the engine's options
    is_compiled: bool = False
    say: Callable[[str], None] = print
    _loaded: LoadedModel | None = None
    _rates: Rates | None = None

    @property
    def loaded(self) -> LoadedModel:
        """The model, made when it is first wanted."""
        if self._loaded is None:
            config = published_config(**self.plan.model)
            self._loaded = random_model(config, device=self.device, dtype=self.plan.dtype)
        return self._loaded

    @property
    def rates(self) -> Rates:
        if self._rates is None:
            self._rates = measured_rates(
                self.device,
                self.plan.dtype,
                copy_bytes=self.plan.copy_bytes,
                matrix_side=self.plan.matrix_side,
            )
            self.report.machine["copy TB/s"] = round(self._rates.bytes_per_second / 1e12, 3)
            self.report.machine["matrix TFLOP/s"] = round(self._rates.flops / 1e12, 1)
        return self._rates

    @property
    def floors(self) -> Floors:
        return Floors(self.loaded.config)

    def alone(self) -> None:
        """`generate`, one request at a time: the seed's way."""
        plan = self.plan
        for shape in plan.shapes:
            generated = alone(self.loaded, shape, plan.num_new)
            num_image = shape.prompt.num_image
            self.report.figure("prefill", num_image, 1).alone = generated.prefill * 1e3
            self.report.figure("decode", num_image, 1).alone = generated.step * 1e3
            images = self.report.figure("images", num_image, plan.in_flight)
            images.alone = 1 / generated.image

    def static(self) -> None:
        """`generate` for a whole batch with a static cache, where it works."""
        for shape in self.plan.shapes:
            for batch in self.plan.static_batches:
                self._static(shape, batch)

    def engine(self) -> None:
        """The engine: prefill, decode, images per second."""
        options = options_of(self.plan, **self.changes)
        with open_engine(self.loaded, self.attention, options) as ours:
            self.report.machine["attention"] = ours.engine.info.attention
            self.report.machine["step tokens"] = options.step_tokens
            self.report.machine["cache pages"] = ours.engine.metrics().pages_total
            for shape in self.plan.shapes:
                for batch in batches_that_fit(ours, shape, self.plan):
                    self._part(f"prefill of {batch}", self._prefill, ours, shape, batch)
                    self._part(f"decode of {batch}", self._decode, ours, shape, batch)
                self._part("many in flight", self._images, ours, shape)

    def accuracy(self) -> None:
        """Errors of bf16 against float32."""
        self._loaded = None  # the smaller models want its place
        free_memory()
        self.report.readings += measure_accuracy(self.plan, self.device)

    def _part(
        self, name: str, work: Callable[..., None], ours: Ours, shape: Shape, *more: int
    ) -> None:
        """One measurement; what it raises is reported, and the others go on."""
        self.say(f"  {_name(shape)}: {name}")
        try:
            work(ours, shape, *more)
        except Exception as error:  # the others are worth having
            log.exception("%s, %s", name, _name(shape))
            self.report.troubles.append(f"{name}, {_name(shape)}: {_first_line(error)}")

    def _static(self, shape: Shape, batch: int) -> None:
        num_image = shape.prompt.num_image
        prefill = self.report.figure("prefill", num_image, batch)
        decode = self.report.figure("decode", num_image, batch)
        num_new = min(NUM_STATIC, self.plan.num_new)
        self.say(f"  {_name(shape)}: batch of {batch}")
        try:
            generated = static(self.loaded, shape, batch, num_new, is_compiled=self.is_compiled)
        except torch.OutOfMemoryError:
            decode.notes.append("a static batch does not fit into memory")
        except Exception as error:  # of transformers: that it does not work is a finding
            decode.notes.append(f"static batch: {_first_line(error)}")
        else:
            prefill.static, decode.static = generated.prefill * 1e3, generated.step * 1e3
            if batch == self.plan.in_flight:
                seconds = generated.prefill + self.plan.num_new * generated.step
                images = self.report.figure("images", num_image, batch)
                images.static = batch / seconds
        free_memory()

    def _prefill(self, ours: Ours, shape: Shape, batch: int) -> None:
        seconds = ours.prefill_seconds(shape, batch, self.plan.num_prefills)
        floor = batch * self.floors.prefill_seconds(shape.prompt, self.rates)
        figure = self.report.figure("prefill", shape.prompt.num_image, batch)
        figure.ours, figure.floor = seconds * 1e3, floor * 1e3
        self._judge(
            f"prefill, share of the matrix rate, {_name(shape)}, batch {batch}",
            floor / seconds,
            ">=",
            LEAST_PREFILL,
        )

    def _decode(self, ours: Ours, shape: Shape, batch: int) -> None:
        step = ours.decode(shape, batch, self.plan.num_decode_steps)
        floor = self.floors.decode_seconds(step.num_cached, self.rates)
        rates = target_rates(self.rates, device_name(self.device))
        target = self.floors.decode_seconds(step.num_cached, rates)
        figure = self.report.figure("decode", shape.prompt.num_image, batch)
        figure.ours, figure.floor = step.seconds * 1e3, floor * 1e3
        figure.target_floor = target * 1e3
        if batch not in self.plan.batches:
            figure.notes.append("no larger batch fits into the cache")
        is_named = batch == 1 or batch == max(batches_that_fit(ours, shape, self.plan))
        self._judge(
            f"decode, step / floor at the target's bandwidth, {_name(shape)}, batch {batch}",
            step.seconds / target,
            "<=",
            MOST_STEP if is_named else None,
        )

    def _images(self, ours: Ours, shape: Shape) -> None:
        plan = self.plan
        figure = self.report.figure("images", shape.prompt.num_image, plan.in_flight)
        figure.ours, note = ours.images_per_second(
            shape, num_new=plan.num_new, in_flight=plan.in_flight, count=plan.num_images
        )
        figure.floor = self.floors.images_per_second(
            shape.prompt, self.rates, num_new=plan.num_new, in_flight=plan.in_flight
        )
        fitting = ours.fits(shape, plan.num_new)
        if fitting < plan.in_flight:
            figure.notes.append(f"the cache holds {fitting} at once")
        figure.notes += [note] if note else []
        if figure.alone is not None:
            self._judge(
                f"images/s / generate one at a time, {_name(shape)}, {plan.in_flight} in flight",
                figure.ours / figure.alone,
                ">=",
                LEAST_GAIN,
            )

    def _judge(self, what: str, measured: float, sense: Sense, limit: float | None) -> None:
        self.report.readings.append(
            Reading(
                bar="gpu",
                what=what,
                measured=measured,
                sense=sense,
                limit=limit if self.plan.is_judged else None,
            )
        )


SECTIONS: Mapping[str, Callable[[Bench], None]] = {
    "alone": Bench.alone,
    "static": Bench.static,
    "engine": Bench.engine,
    "accuracy": Bench.accuracy,
}
"""In this order: what is measured before the engine finds the device's memory free."""


def _name(shape: Shape) -> str:
    return f"{shape.prompt.num_image} image tokens"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
