"""How far bf16 is from float32: the engine's paths beside transformers' own forward, and kernels.

A smaller model of the same form, once in bf16 and once with the same weights in float32. Prompts
with pictures are computed packed in one step, then some given tokens one by one: the engine's error
at each of these positions beside the error of transformers' bf16 forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tests.bench.readings import Reading
from tests.bench_engine.gpu.network import Prompts, Shape, published_config, random_model
from tests.bench_engine.gpu.plan import Plan
from visionq_worker.engine.options import EngineOptions
from visionq_worker.engine.request import Handle, Request
from visionq_worker.engine.runner import ModelRunner
from visionq_worker.engine.scheduler import Chunk
from visionq_worker.engine.sequence import Placement
from visionq_worker.engine.sequence import Sequence as Row
from visionq_worker.model.attention import (
    ATTENTION_NAMES,
    Attention,
    SdpaAttention,
    Span,
    choose_attention,
)
from visionq_worker.model.errors import ModelLoadError
from visionq_worker.model.geometry import Grid
from visionq_worker.model.phi3v import Phi3VForCausalLM
from visionq_worker.model.processor import ModelInputs

SHAPES = (Shape(Grid(1, 1)), Shape(Grid(2, 2)), Shape(Grid(1, 3)))
NUM_FORCED = 8
PAGES_EACH = 4
CACHE_BYTES = 512 * 1024**2
PAGE_TOKENS = 256

NUM_HEADS, HEAD_DIM = 32, 96
DECODES = (1, 300, 782, 2534)
"""Keys of the rows of one new token."""
PREFILLS = ((300, 300), (200, 700))
"""New tokens and keys of the others."""
MOST_KERNEL = 2.0
"""Times the error of PyTorch's own bf16 attention. More is no rounding, but a mistake."""


@dataclass(frozen=True, slots=True)
class Error:
    """Of scores against those in float32."""

    rms: float
    most: float

    def __str__(self) -> str:
        return f"rms {self.rms:.4g}, max {self.most:.4g}"


def measure_accuracy(plan: Plan, device: torch.device) -> Iterator[Reading]:
    exact, rounded = _models(plan, device)
    prompts = Prompts(exact.config)
    cases = [(prompts.inputs(shape), prompts.text(NUM_FORCED)) for shape in SHAPES]
    wanted = torch.cat([_forward(exact, *case) for case in cases])
    theirs = _error(torch.cat([_forward(rounded, *case) for case in cases]), wanted)
    for attention in _attentions(device, plan.dtype):
        ours = _error(_packed(rounded, attention, cases), wanted)
        yield Reading(
            bar="accuracy",
            what=f"logits, rms error of the engine with {attention.name} / of transformers",
            measured=ours.rms / theirs.rms,
            limit=1.0 if plan.is_judged else None,
            detail=f"{ours} / {theirs}, scores' own rms {float(wanted.square().mean().sqrt()):.3g}",
        )
    yield from _kernels(plan, device)


def _models(plan: Plan, device: torch.device) -> tuple[Phi3VForCausalLM, Phi3VForCausalLM]:
    """The same weights in float32 and in the plan's dtype."""
    config = published_config(**plan.accurate)
    rounded = random_model(config, device=device, dtype=plan.dtype).model
    exact = random_model(config, device=device, dtype=torch.float32).model
    exact.load_state_dict(rounded.state_dict())
    return exact, rounded


def _forward(model: Phi3VForCausalLM, inputs: ModelInputs, forced: ModelInputs) -> torch.Tensor:
    """Scores after the prompt and after each given token: (1 + forced, vocabulary) float32."""
    ids = torch.cat([inputs.input_ids, forced.input_ids], dim=1).to(model.device)
    assert inputs.pixel_values is not None
    # Convolutions of float32 may use shorter products unless told otherwise.
    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
        output: Any = model(
            input_ids=ids,
            pixel_values=inputs.pixel_values.to(model.device, model.dtype),
            image_sizes=inputs.image_sizes,
            logits_to_keep=NUM_FORCED + 1,
        )
    scores: torch.Tensor = output.logits[0].float()
    return scores


def _packed(
    model: Phi3VForCausalLM,
    attention: Attention,
    cases: Sequence[tuple[ModelInputs, ModelInputs]],
) -> torch.Tensor:
    """The same scores out of the engine's steps, all cases together."""
    options = EngineOptions(cache_bytes=CACHE_BYTES, max_running=8, max_context_tokens=4096)
    runner = ModelRunner(model, attention, options)
    rows = [_row(number, inputs) for number, (inputs, _) in enumerate(cases)]
    steps = [runner.run([Chunk(row, 0, len(row)) for row in rows]).clone()]
    for index in range(NUM_FORCED):
        for row, (_, forced) in zip(rows, cases, strict=True):
            row.token_ids.append(int(forced.input_ids[0, index]))
        steps.append(runner.run([Chunk(row, len(row) - 1, 1) for row in rows]).clone())
    return torch.stack(steps, dim=1).flatten(0, 1)  # by case, then by position


def _row(number: int, inputs: ModelInputs) -> Row:
    assert inputs.num_tokens + NUM_FORCED <= PAGES_EACH * PAGE_TOKENS
    return Row(
        number=number,
        request=Request(inputs=inputs, max_new_tokens=NUM_FORCED + 1),
        handle=Handle(),
        token_ids=inputs.input_ids[0].tolist(),
        num_prompt=inputs.num_tokens,
        placements=tuple(
            Placement(picture, start, start + picture.grid.num_tokens)
            for start, picture in zip(inputs.image_starts, inputs.pictures, strict=True)
        ),
        stop_token_ids=frozenset(),
        seed=0,
        is_long=False,
        page_tokens=PAGE_TOKENS,
        # Backwards: pages of a sequence do not lie one behind the other by nature.
        pages=list(range((number + 1) * PAGES_EACH - 1, number * PAGES_EACH - 1, -1)),
    )


def _attentions(device: torch.device, dtype: torch.dtype) -> Iterator[Attention]:
    """Each implementation that the machine has, by the names of the settings."""
    for name in ATTENTION_NAMES:
        if name == "auto":
            continue
        try:
            yield choose_attention(name, device=device, dtype=dtype, page_tokens=PAGE_TOKENS)
        except ModelLoadError:
            continue


def _kernels(plan: Plan, device: torch.device) -> Iterator[Reading]:
    """Each attention by itself over random pages, against float32."""
    spans, num_pages = _spans()
    num_rows = sum(span.num_new for span in spans)
    generator = torch.Generator(device=device).manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device).to(plan.dtype)

    queries = random(num_rows, NUM_HEADS, HEAD_DIM)
    keys, values = (random(num_pages, PAGE_TOKENS, NUM_HEADS, HEAD_DIM) for _ in range(2))
    plain = SdpaAttention(PAGE_TOKENS)
    wanted = plain(queries.float(), keys.float(), values.float(), plain.plan(spans))
    own = _error(plain(queries, keys, values, plain.plan(spans)).float(), wanted)
    for attention in _attentions(device, plan.dtype):
        own_keys, own_values = _laid(keys, attention), _laid(values, attention)
        output = attention(queries, own_keys, own_values, attention.plan(spans))
        found = _error(output.float(), wanted)
        yield Reading(
            bar="accuracy",
            what=f"attention, max error of {attention.name} / of sdpa",
            measured=found.most / own.most,
            limit=MOST_KERNEL if plan.is_judged else None,
            detail=f"{found} / {own}",
        )


def _spans() -> tuple[list[Span], int]:
    """Decodes first, each with pages of its own, scattered; and how many pages there are."""
    sizes = [(1, num_keys) for num_keys in DECODES] + list(PREFILLS)
    counts = [-(-num_keys // PAGE_TOKENS) for _, num_keys in sizes]
    free = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(0)).tolist()
    spans = []
    for (num_new, num_keys), num_pages in zip(sizes, counts, strict=True):
        pages, free = free[:num_pages], free[num_pages:]
        spans.append(Span(pages, num_keys=num_keys, num_new=num_new))
    return spans, sum(counts)


def _laid(tensor: torch.Tensor, attention: Attention) -> torch.Tensor:
    """The same pages, in memory as the attention wants them."""
    order = attention.cache_order
    back = [order.index(dim) for dim in range(4)]
    return tensor.permute(order).contiguous().permute(back)


def _error(found: torch.Tensor, wanted: torch.Tensor) -> Error:
    difference = found - wanted
    return Error(float(difference.square().mean().sqrt()), float(difference.abs().max()))
