"""The same model under transformers' `generate`: one request at a time, and a static batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import mean
from time import perf_counter
from typing import Any

import torch

from tests.bench_engine.gpu.device import synchronise
from tests.bench_engine.gpu.network import Prompts, Shape
from visionq_worker.engine.reference import ReferenceEngine
from visionq_worker.engine.request import Completion, Request
from visionq_worker.model.processor import ModelInputs
from visionq_worker.model.weights import LoadedModel

NUM_ALONE = 2


@dataclass(frozen=True, slots=True)
class Generated:
    """Seconds for the prompts, for a step, and per image with all its tokens."""

    prefill: float
    step: float
    image: float


def alone(loaded: LoadedModel, shape: Shape, num_new: int) -> Generated:
    """The seed's way: `generate` for one request after the other, from bytes of pixels on."""
    prompts = Prompts(loaded.config)
    engine = ReferenceEngine(loaded, model_name="random", max_context_tokens=16_384)
    with closing(engine), torch.inference_mode():
        completions = [
            engine.submit(Request(inputs=prompts.inputs(shape), max_new_tokens=num_new)).result()
            for _ in range(NUM_ALONE + 1)
        ][1:]
    assert {len(one.token_ids) for one in completions} == {num_new}
    prefill = mean(one.prefill_seconds for one in completions)
    decode = mean(one.decode_seconds for one in completions)
    return Generated(prefill, decode / (num_new - 1), mean(_seconds(one) for one in completions))


def static(
    loaded: LoadedModel, shape: Shape, batch: int, num_new: int, *, is_compiled: bool
) -> Generated:
    """`generate` for a batch of equal lengths with a static cache. Raises what it raises.

    The prompts' time is that of a run for one token. `is_compiled`: with `torch.compile`, as
    transformers does unless told otherwise; that takes minutes.
    """
    prompts = Prompts(loaded.config)
    inputs = [prompts.inputs(shape) for _ in range(batch)]
    _generate(loaded, inputs, min(4, num_new), is_compiled)
    if is_compiled:
        _generate(loaded, inputs, num_new, is_compiled)  # graphs are recorded by the first run
    prefill = _generate(loaded, inputs, 1, is_compiled)
    total = _generate(loaded, inputs, num_new, is_compiled)
    return Generated(prefill, (total - prefill) / (num_new - 1), total / batch)


def _seconds(completion: Completion) -> float:
    return completion.prefill_seconds + completion.decode_seconds


def _generate(
    loaded: LoadedModel, inputs: Sequence[ModelInputs], num_new: int, is_compiled: bool
) -> float:
    """Seconds of one call, pixels included."""
    model: Any = loaded.model
    device, dtype = loaded.model.device, loaded.model.dtype
    synchronise(device)
    began = perf_counter()
    ids = torch.cat([one.input_ids for one in inputs]).to(device)
    # Normalised on the device: on the CPU it would take longer than the rest for a batch of these.
    views = torch.stack([one.pictures[0].views(device) for one in inputs]).to(dtype)
    sizes = torch.tensor([one.pictures[0].pixels.shape[:2] for one in inputs])
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=views,
            image_sizes=sizes,
            max_new_tokens=num_new,
            do_sample=False,
            cache_implementation="static",
            disable_compile=not is_compiled,
        )
    synchronise(device)
    assert output.shape == (len(inputs), ids.shape[1] + num_new)
    return perf_counter() - began
