"""A model of any size with random weights, made on the device itself, and prompts for it.

Nothing is downloaded and no tokenizer is needed: prompts are random ids around random pictures.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers.generation.configuration_utils import GenerationConfig

from tests.bench_engine.gpu.floors import Prompt
from visionq_worker.model.config import Phi3VConfig
from visionq_worker.model.geometry import TILE_PX, Grid
from visionq_worker.model.phi3v import Phi3VForCausalLM
from visionq_worker.model.pixels import Picture
from visionq_worker.model.processor import ModelInputs, Phi3VProcessor
from visionq_worker.model.weights import LoadedModel

GOLDEN_INDEX = Path(__file__).parents[2] / "model" / "golden" / "phi3v" / "index.json"
"""Holds a config.json of the published form, with its rotary factors, for a smaller model."""

PUBLISHED: dict[str, Any] = {
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
"""Phi-3-Vision and Phi-3.5-Vision, beside a whole CLIP ViT-L/14-336."""

TINY: dict[str, Any] = {
    "vocab_size": 1024,
    "image_token_id": 1000,
    "pad_token_id": 999,
    "vision_config": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
}
"""What a CPU runs in no time; the rest as in the golden figures' model."""

NUM_TEXT = 25
FIRST_ID, LAST_ID = 3, 900
"""Of the text: ordinary tokens in every vocabulary here."""
DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Shape:
    """A prompt with one picture of this grid."""

    grid: Grid

    @property
    def prompt(self) -> Prompt:
        views = self.grid.num_tiles
        return Prompt(num_text=NUM_TEXT, num_image=self.grid.num_tokens, num_views=views)


def published_config(**changes: Any) -> Phi3VConfig:
    """The configuration of the golden figures' small model, with changes."""
    index = json.loads(GOLDEN_INDEX.read_text(encoding="utf-8"))
    return Phi3VConfig(**{**index["config"], **changes})


def random_model(
    config: Phi3VConfig, *, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> LoadedModel:
    """The model on the device. Its answers do not end: the placeholder is its only stop token."""
    with torch.device("meta"):
        model = Phi3VForCausalLM(config)
    torch.nn.Module.to(model, dtype)  # in place, and typed
    model.to_empty(device=device)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            _fill(name, weight)
    _restore_buffers(model, device)
    model.train(False)
    placeholder = config.image_token_id
    model.generation_config = GenerationConfig(
        eos_token_id=[placeholder], pad_token_id=LAST_ID, suppress_tokens=[placeholder]
    )
    processor = Phi3VProcessor(
        Tokenizer(BPE()), image_token_id=placeholder, stop_token_ids=[placeholder]
    )
    return LoadedModel(
        model=model,
        processor=processor,
        config=config,
        model_id="random",
        revision=None,
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        attention="sdpa",
        num_parameters=sum(weight.numel() for weight in model.parameters()),
    )


def _fill(name: str, weight: torch.Tensor) -> None:
    """Norms of 1, no biases, matrices that keep the variance of what they multiply."""
    module, kind = name.split(".")[-2:]
    if "norm" in module or "layrnorm" in module:
        weight.fill_(1.0 if kind == "weight" else 0.0)
    elif kind == "bias":
        weight.zero_()
    else:
        is_table = "embed" in module and module != "patch_embedding"
        fan_in = 1 if is_table or weight.dim() < 2 else weight[0].numel()
        weight.normal_(0.0, fan_in**-0.5)


def _restore_buffers(model: Phi3VForCausalLM, device: torch.device) -> None:
    """Buffers that no checkpoint holds are lost on the meta device: computed again."""
    rotary: Any = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(model.config).to(device)
    embeddings: Any = model.model.vision_embed_tokens.img_processor.vision_model.embeddings
    positions = torch.arange(embeddings.num_positions, device=device).expand((1, -1))
    embeddings.register_buffer("position_ids", positions, persistent=False)
    restored = {"inv_freq", "original_inv_freq", "position_ids"}
    others = {name for name, _ in model.named_buffers() if name.split(".")[-1] not in restored}
    assert not others, f"transformers has new buffers: {others}"


class Prompts:
    """Prompts, no two alike: nothing of them is in a cache."""

    def __init__(self, config: Phi3VConfig) -> None:
        self._placeholder = config.image_token_id
        self._numbers = count()
        self._rng = np.random.default_rng(0)
        self._pixels: dict[Grid, Any] = {}

    def inputs(self, shape: Shape) -> ModelInputs:
        """Half of the text, one picture, the other half."""
        ids = self._rng.integers(FIRST_ID, LAST_ID, NUM_TEXT).tolist()
        start = NUM_TEXT // 2
        picture = Picture(
            self._pixels_of(shape.grid), next(self._numbers).to_bytes(DIGEST_BYTES, "big")
        )
        num_image = shape.grid.num_tokens
        ids[start:start] = [self._placeholder] * num_image
        return ModelInputs(
            input_ids=torch.tensor([ids]),
            pictures=(picture,),
            image_starts=(start,),
            num_image_tokens=num_image,
            image_order=(0,),
            num_crops=shape.grid.rows * shape.grid.columns,
        )

    def text(self, num_tokens: int) -> ModelInputs:
        ids = self._rng.integers(FIRST_ID, LAST_ID, num_tokens)
        return ModelInputs(input_ids=torch.from_numpy(ids)[None])

    def _pixels_of(self, grid: Grid) -> Any:
        """One set of pixels per size: the work does not depend on them, only the digests differ."""
        if grid not in self._pixels:
            shape = (grid.rows * TILE_PX, grid.columns * TILE_PX, 3)
            self._pixels[grid] = self._rng.integers(0, 256, shape, dtype=np.uint8)
        return self._pixels[grid]
