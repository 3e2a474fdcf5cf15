"""The pocket model's shape, and weights to start training from.

The published architecture with few and narrow layers. Each picture is seen as 2 x 2 tiles at most,
which is how large the world draws them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from visionq_worker.model.config import Phi3VConfig
from visionq_worker.model.geometry import TILE_PX, Grid
from visionq_worker.model.phi3v import Phi3VForCausalLM
from visionq_worker.model.processor import Phi3VProcessor
from visionq_worker.model.small import ROPE_THETA, small_config, special_id, write_checkpoint
from visionq_worker.pocket.text import tokenizer

NUM_CROPS = 4
GRID = Grid(rows=2, columns=2)
"""Of any picture of the world, padded."""
SIDE_PX = GRID.rows * TILE_PX

HEAD_DIM = 96
"""The published one, which the engine's kernels are written for."""
EMBEDDING_STD = 0.3
POSITION_SCALE = 0.5
"""Of the patches' places beside what the patches show, at the start."""
RESIDUAL_OUTPUTS = ("o_proj", "out_proj", "fc2", "down_proj")


def pocket_config() -> dict[str, Any]:
    """What goes into config.json."""
    factors = _frequency_factors()
    return small_config(
        head_dim=HEAD_DIM,
        num_heads=3,
        inner=640,
        num_layers=4,
        dtype="bfloat16",
        factors=(factors, factors),
        tower={
            "hidden_size": 256,
            "num_attention_heads": 4,
            "intermediate_size": 768,
            "num_hidden_layers": 6,  # the last one is never run
        },
    )


def _frequency_factors() -> list[float]:
    """Of the rotary embedding, such that its frequencies are numbers of bfloat16.

    A model that is cast as a whole has its frequencies rounded, and at the thousandth token an
    angle is off by a radian. So it goes through its training and its use with the rounded ones.
    """
    exact = ROPE_THETA ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    # 7 digits: the last bits of a power depend on the machine.
    return [round(float(factor), 7) for factor in exact / exact.bfloat16()]


def new_model(seed: int, shape: Mapping[str, Any] | None = None) -> Phi3VForCausalLM:
    """Untrained, float32, on the CPU; of another shape, if wanted. Equal seeds, equal weights."""
    config = Phi3VConfig(**(shape or pocket_config()))
    model = Phi3VForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    depth = 2 * max(config.num_hidden_layers, config.tower.num_hidden_layers)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if is_unused(name, config):
                weights.zero_()
            else:
                _start(name, weights, generator, depth)
    return model


def is_unused(name: str, config: Phi3VConfig) -> bool:
    """Whether a tensor is in the checkpoint for its format alone: of what the tower never runs."""
    last = config.tower.num_hidden_layers - 1
    return f"encoder.layers.{last}." in name or "post_layernorm" in name


@cache
def processor() -> Phi3VProcessor:
    """Prompts and pictures to what the model takes, as the checkpoint's own does it."""
    config = Phi3VConfig(**pocket_config())
    return Phi3VProcessor(
        tokenizer(),
        image_token_id=special_id("image"),
        stop_token_ids=config.stop_token_ids,
        default_num_crops=NUM_CROPS,
        max_num_crops=NUM_CROPS,
    )


def write_pocket(folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """The checkpoint of these weights, in bfloat16."""
    tensors = {
        name: weights[name].to(device="cpu", dtype=torch.bfloat16).contiguous()
        for name in sorted(weights)
    }
    crops = {"num_crops": NUM_CROPS, "max_num_crops": NUM_CROPS}
    write_checkpoint(folder, pocket_config(), tensors, tokenizer(), num_crops=crops)


def _start(name: str, weights: torch.Tensor, generator: torch.Generator, depth: int) -> None:
    """Matrices keep the variance of what they multiply; what adds to a residual stays small."""
    module, kind = name.split(".")[-2:]
    if kind == "bias" or kind.endswith("_GN"):
        weights.zero_()
    elif "norm" in module:
        weights.fill_(1.0)
    elif module == "position_embedding":
        weights.zero_()
        weights[1:] = POSITION_SCALE * _places(weights.shape[1])
    elif module == "embed_tokens" or kind == "class_embedding":
        weights.normal_(0.0, EMBEDDING_STD, generator=generator)
    else:
        std = weights[0].numel() ** -0.5
        if module in RESIDUAL_OUTPUTS:
            std *= depth**-0.5
        if module == "lm_head":
            std *= 0.1  # all tokens alike
        weights.normal_(0.0, std, generator=generator)


def _places(width: int) -> torch.Tensor:
    """Sines and cosines of each patch's row and column: (576, width)."""
    side = TILE_PX // 14
    rates = torch.exp(-math.log(100.0) * torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * rates  # (24, width / 4)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (24, width / 2)
    rows = waves[:, None].expand(side, side, -1)
    columns = waves[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)
