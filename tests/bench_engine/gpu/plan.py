"""What a run measures: the published size on a GPU, or a toy that takes the same paths on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from tests.bench_engine.gpu.network import PUBLISHED, TINY, Shape
from visionq_worker.model.geometry import Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes of everything. `is_judged`: whether the targets mean anything here."""

    model: dict[str, Any]
    dtype: torch.dtype
    shapes: tuple[Shape, ...]
    batches: tuple[int, ...]
    static_batches: tuple[int, ...]
    in_flight: int
    num_new: int  # tokens of an answer, where images per second are counted
    num_images: int  # of them
    num_decode_steps: int  # that a mean is taken of
    num_prefills: int  # that a median is taken of
    copy_bytes: int
    matrix_side: int
    is_judged: bool
    engine: dict[str, Any] = field(default_factory=dict)  # of EngineOptions
    accurate: dict[str, Any] = field(default_factory=dict)  # the smaller model's configuration


SHAPES = (Shape(Grid(2, 2)), Shape(Grid(4, 4)))
"""A square picture of 4 and of 16 crops: 757 and 2509 tokens."""

GPU = Plan(
    model=PUBLISHED,
    dtype=torch.bfloat16,
    shapes=SHAPES,
    batches=(1, 8, 32, 64),
    static_batches=(8, 64),
    in_flight=64,
    num_new=100,
    num_images=256,
    num_decode_steps=40,
    num_prefills=3,
    copy_bytes=4 * 1024**3,
    matrix_side=8192,
    is_judged=True,
    accurate={
        "hidden_size": 1152,
        "intermediate_size": 3072,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "vision_config": {"num_hidden_layers": 4},
    },
)

CPU = Plan(
    model=TINY,
    dtype=torch.bfloat16,
    shapes=(Shape(Grid(1, 1)), Shape(Grid(1, 2))),
    batches=(1, 3),
    static_batches=(3,),
    in_flight=3,
    num_new=6,
    num_images=12,
    num_decode_steps=4,
    num_prefills=1,
    copy_bytes=16 * 1024**2,
    matrix_side=256,
    is_judged=False,
    engine={"max_context_tokens": 1024, "max_running": 8, "step_tokens": 512},
    accurate=TINY,
)
