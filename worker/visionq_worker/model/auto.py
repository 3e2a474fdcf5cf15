"""Transformers' Auto classes for Phi-3-Vision, after an explicit `register()`.

A convenience for notebooks and other tools; the worker does not need it (`weights.load_model`).
With it, AutoConfig, AutoModelForCausalLM, AutoImageProcessor, AutoProcessor and AutoTokenizer use
this package's classes for `model_type: phi3_v` with trust_remote_code=False, though the published
files point to remote code, and nothing asks a question on stdin.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.modeling_auto import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
)
from transformers.models.auto.processing_auto import AutoProcessor

from visionq_worker.model.config import Phi3VConfig
from visionq_worker.model.geometry import num_image_tokens
from visionq_worker.model.phi3v import Phi3VForCausalLM
from visionq_worker.model.pixels import pixel_values
from visionq_worker.model.processor import HUB_NUM_CROPS, Phi3VProcessor


class Phi3VImageProcessor(BaseImageProcessor):
    """Images alone, in the form of transformers' image processors."""

    model_input_names = ["pixel_values", "image_sizes"]  # noqa: RUF012 the base declares it

    def __init__(self, num_crops: int = HUB_NUM_CROPS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_crops = num_crops

    def preprocess(
        self, images: Image.Image | Sequence[Image.Image], num_crops: int | None = None, **_: Any
    ) -> BatchFeature:
        """pixel_values, image_sizes (H, W) and num_img_tokens of some images."""
        batch = [images] if isinstance(images, Image.Image) else images
        crops = self.num_crops if num_crops is None else num_crops
        views = [pixel_values(image, crops) for image in batch]
        return BatchFeature(
            {
                "pixel_values": torch.stack([tiles for tiles, _ in views]),
                "image_sizes": torch.tensor([size for _, size in views]),
                "num_img_tokens": [num_image_tokens(*image.size, crops) for image in batch],
            }
        )


def register() -> None:
    """Make the Auto classes know `phi3_v`; may be called again."""
    AutoConfig.register("phi3_v", Phi3VConfig, exist_ok=True)
    AutoModelForCausalLM.register(Phi3VConfig, Phi3VForCausalLM, exist_ok=True)
    AutoModelForImageTextToText.register(Phi3VConfig, Phi3VForCausalLM, exist_ok=True)
    AutoImageProcessor.register(
        Phi3VConfig, image_processor_classes={"pil": Phi3VImageProcessor}, exist_ok=True
    )
    AutoProcessor.register(Phi3VConfig, Phi3VProcessor, exist_ok=True)
