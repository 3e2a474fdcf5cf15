"""Phi-3-Vision: transformers' Phi3 with image embeddings written over placeholder tokens.

The decoder, its LongRoPE and `generate` are transformers' own; attention is sdpa, eager or (where
flash-attn is installed) flash_attention_2. Tensor names are the published checkpoint's. Left out:
loading (`weights`), preparing inputs (`processor`), batching (the engine).
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.phi3.modeling_phi3 import Phi3ForCausalLM, Phi3Model

from visionq_worker.model.config import Phi3VConfig
from visionq_worker.model.errors import PromptError
from visionq_worker.model.geometry import TILE_PX, Grid
from visionq_worker.model.vision import VisionEmbedding


class Phi3VModel(Phi3Model):
    """The decoder with its vision embedding, without the language head."""

    config_class = Phi3VConfig
    config: Phi3VConfig

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__(config)
        self.vision_embed_tokens = VisionEmbedding(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Phi3Model.forward; with pixel_values, image embeddings replace the placeholders."""
        if pixel_values is not None and input_ids is not None:
            assert image_sizes is not None, "pixel_values come with image_sizes"
            views, grids = without_empty_tiles(pixel_values, image_sizes)
            inputs_embeds, input_ids = self.embed(input_ids, views, grids), None
        output: BaseModelOutputWithPast = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        return output

    def embed(
        self, input_ids: torch.Tensor, views: torch.Tensor, grids: Sequence[Grid]
    ) -> torch.Tensor:
        """Embeddings of ids (batch, tokens) with the images in place: (batch, tokens, hidden).

        The k-th run of placeholders takes the k-th image. Raises PromptError when there are more
        or fewer placeholders than the images fill.
        """
        placeholders = input_ids == self.config.image_token_id  # (batch, tokens)
        wanted, found = sum(grid.num_tokens for grid in grids), int(placeholders.sum())
        if wanted != found:
            raise PromptError(f"the images fill {wanted} placeholders, the prompt has {found}")
        text: torch.Tensor = self.embed_tokens(input_ids)  # (batch, tokens, hidden)
        images = self.vision_embed_tokens(views, grids).to(text)  # (wanted, hidden)
        return text.masked_scatter(placeholders[..., None], images)


class Phi3VForCausalLM(Phi3ForCausalLM):
    """The model with its language head: what a checkpoint holds and `generate` runs.

    `forward` is Phi3's, which hands pixel_values and image_sizes through to Phi3VModel.
    """

    config_class = Phi3VConfig
    config: Phi3VConfig

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__(config)  # builds a plain Phi3Model; loading does that without memory
        self.model = Phi3VModel(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def prepare_inputs_for_generation(
        self,
        *args: Any,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Phi3's inputs for one step of `generate`, with the images whenever the cache is empty.

        `generate` drops the images after its first step. But when a sequence outgrows the short
        rotary factors (4096 tokens), Phi3 throws the cache away and runs everything again, and
        without this the placeholders' own embeddings would stand where the images were.
        `generate` also reads this signature: what is not named here or in `forward` it refuses,
        inputs_embeds must be named here, and the catch-all must be called kwargs.
        """
        images = {"pixel_values": pixel_values, "image_sizes": image_sizes}
        phi3: Any = super()  # its signature is untyped
        inputs: dict[str, Any] = phi3.prepare_inputs_for_generation(
            *args, inputs_embeds=inputs_embeds, **images, **kwargs
        )
        cache = inputs.get("past_key_values")
        if pixel_values is not None and (cache is None or cache.get_seq_length() == 0):
            inputs |= images
        return inputs


def without_empty_tiles(
    pixel_values: torch.Tensor, image_sizes: torch.Tensor
) -> tuple[torch.Tensor, list[Grid]]:
    """What the tower should see of (images, slots, 3, 336, 336): the views, and the images' grids.

    The zero tiles that pad an image to its slots are dropped: (sum of grid.num_tiles, 3, 336, 336).
    """
    grids = [Grid(height // TILE_PX, width // TILE_PX) for height, width in image_sizes.tolist()]
    used = [image[: grid.num_tiles] for image, grid in zip(pixel_values, grids, strict=True)]
    return torch.cat(used), grids
