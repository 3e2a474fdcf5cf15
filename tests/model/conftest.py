"""The golden figures of Phi-3-Vision, the small model they were made with, and a tiny checkpoint.

`golden/phi3v/README.md` says what the figures are and gives the formulas repeated here.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from visionq_worker.model.config import HUB_IMAGE_TOKEN_ID, Phi3VConfig
from visionq_worker.model.phi3v import Phi3VForCausalLM, Phi3VModel, without_empty_tiles
from visionq_worker.model.pixels import pixel_values
from visionq_worker.model.tiny import make_tiny
from visionq_worker.model.weights import LoadedModel, load_model

GOLDEN = Path(__file__).parent / "golden" / "phi3v"
NUM_VISION_LAYERS = 3  # the figures' model; its config.json does not say so

U64 = np.uint64


def mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The README's hash of 64 bit numbers, which wrap."""
    z = numbers + U64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> U64(27))) * U64(0x94D049BB133111EB)
    return z ^ (z >> U64(31))


def formula_tensor(name: str, shape: torch.Size) -> torch.Tensor:
    """A weight of the figures' model."""
    first = U64(crc32(name.encode()) << 32)
    bits = mix(first + np.arange(shape.numel(), dtype=np.uint64)) >> U64(40)
    noise = torch.from_numpy((bits / 2.0**23 - 1).astype(np.float32)).view(shape)
    parts = name.split(".")
    if name.endswith("_GN"):
        return noise
    if "norm" in parts[-2] and parts[-1] == "weight":
        return 1 + 0.1 * noise
    return noise * (0.05 if name.endswith("bias") else 0.06)


def formula_image(width: int, height: int, seed: int) -> Image.Image:
    """A picture of the figures' cases."""
    y, x, c = np.ogrid[:height, :width, :3]
    value = (x * (3 + seed) + y * (5 + 2 * seed) + c * (70 + seed) + x * y // (17 + seed)) % 256
    inverted = (x // 24 + y // 24 + seed) % 3 == 0
    return Image.fromarray(np.where(inverted, 255 - value, value).astype(np.uint8))


@dataclass(frozen=True, eq=False)
class GoldenCase:
    """One case of the figures."""

    name: str
    num_crops: int
    prompt: str
    images: tuple[Image.Image, ...]
    figures: dict[str, torch.Tensor]

    @cached_property
    def views(self) -> list[tuple[torch.Tensor, tuple[int, int]]]:
        return [pixel_values(image, self.num_crops) for image in self.images]

    @cached_property
    def model_inputs(self) -> dict[str, torch.Tensor]:
        """What the model takes; ids from the figures, so that no tokenizer is needed."""
        ids = self.figures["input_ids"].long()
        inputs = {"input_ids": torch.where(ids < 0, HUB_IMAGE_TOKEN_ID, ids)}
        if self.images:
            inputs["pixel_values"] = torch.stack([tiles for tiles, _ in self.views])
            inputs["image_sizes"] = torch.tensor([size for _, size in self.views])
        return inputs


def golden_network(index: dict[str, Any], attention: str) -> Phi3VForCausalLM:
    """The figures' model before its weights."""
    ours = {
        "vision_config": {"num_hidden_layers": NUM_VISION_LAYERS},
        "attn_implementation": attention,
    }
    return Phi3VForCausalLM(Phi3VConfig(**{**index["config"], **ours}))


def read_case(name: str, entry: dict[str, Any]) -> GoldenCase:
    return GoldenCase(
        name=name,
        num_crops=entry["num_crops"],
        prompt=entry["prompt"],
        images=tuple(formula_image(**image) for image in entry["images"]),
        figures=load_file(GOLDEN / f"{name}.safetensors"),
    )


@pytest.fixture(scope="session", autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def golden_index() -> dict[str, Any]:
    index: dict[str, Any] = json.loads((GOLDEN / "index.json").read_text())
    return index


@pytest.fixture(scope="session")
def golden_cases(golden_index: dict[str, Any]) -> dict[str, GoldenCase]:
    return {name: read_case(name, entry) for name, entry in golden_index["cases"].items()}


@pytest.fixture(scope="session")
def golden_weights(golden_index: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The formula's tensors, under the names and in the shapes of the figures' model."""
    with torch.device("meta"):
        shapes = golden_network(golden_index, "sdpa").state_dict()
    return {name: formula_tensor(name, shapes[name].shape) for name in golden_index["tensor_names"]}


@pytest.fixture(scope="session")
def golden_models(
    golden_index: dict[str, Any], golden_weights: dict[str, torch.Tensor]
) -> dict[str, Phi3VForCausalLM]:
    """The figures' model per attention implementation, sharing one set of weights."""
    models = {}
    for attention in ("sdpa", "eager"):
        models[attention] = golden_network(golden_index, attention).train(False)
        models[attention].load_state_dict(golden_weights, strict=True, assign=True)
    return models


@pytest.fixture(scope="session")
def golden_embeddings(
    golden_models: dict[str, Phi3VForCausalLM],
) -> Callable[[GoldenCase], torch.Tensor]:
    """A case's prompt with its images in place: (1, tokens, hidden), worked out once a case."""
    embedder: Phi3VModel = golden_models["sdpa"].model

    @cache
    def embeddings(case: GoldenCase) -> torch.Tensor:
        ids = case.model_inputs["input_ids"]
        with torch.inference_mode():
            if not case.images:
                text: torch.Tensor = embedder.embed_tokens(ids)
                return text
            views, grids = without_empty_tiles(
                case.model_inputs["pixel_values"], case.model_inputs["image_sizes"]
            )
            return embedder.embed(ids, views, grids)

    return embeddings


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> LoadedModel:
    return load_model(
        str(tiny_folder), revision=None, device="cpu", dtype="float32", attention="sdpa"
    )


@pytest.fixture(scope="session")
def published_tokenizer() -> Path:
    """The published tokenizer.json, which lies beside the repository where it may be had."""
    file = Path(__file__).parents[3] / "shared" / "phi3v-tokenizer" / "tokenizer.json"
    if not file.is_file():
        pytest.skip("the published tokenizer is not at ../shared/phi3v-tokenizer")
    return file
