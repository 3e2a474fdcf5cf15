"""What a batch teaches: the answers' tokens, and what each patch shows.

The second is asked of the vision tower's features through a head of its own, which the checkpoint
does not have. Without it, a model that sees pages of words from the start learns how long words are
and, for a long time, not one letter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from visionq_worker.model.geometry import TILE_PX
from visionq_worker.model.phi3v import Phi3VForCausalLM
from visionq_worker.model.pixels import CHANNEL_MEAN, CHANNEL_STD
from visionq_worker.pocket.network import GRID
from visionq_worker.pocket.training.examples import NOTHING, NUM_CLASSES, Batch

NOTHING_WEIGHT = 0.1
"""Of a patch that shows nothing beside one that shows something: most show nothing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one batch. `right`: per task, whether every token of its answer was the likeliest.

    Generation that takes the likeliest token writes the whole answer exactly then, but for the
    edges of boxes, which are not judged. `token_errors` is the share of the judged tokens,
    `patch_errors` that of the patches which show something.
    """

    answer_loss: torch.Tensor
    patch_loss: torch.Tensor
    right: torch.Tensor
    token_errors: torch.Tensor
    patch_errors: torch.Tensor


class Lesson(nn.Module):
    """The model with the head for patches."""

    def __init__(self, model: Phi3VForCausalLM) -> None:
        super().__init__()
        self.model = model
        self.patch_head = nn.Linear(model.config.tower.hidden_size, NUM_CLASSES)
        weights = torch.ones(NUM_CLASSES)
        weights[NOTHING] = NOTHING_WEIGHT
        self.class_weights: torch.Tensor
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, batch: Batch) -> Outcome:
        """Nothing here waits for the device: its next steps are queued while it works."""
        vision, count = self.model.model.vision_embed_tokens, len(batch.pixels)
        tower = vision.img_processor.vision_model
        features = tower.features(views(batch.pixels).to(vision.glb_GN))  # (views, 576, width)
        classes = self.patch_head(features).float()  # (views, 576, classes)
        blocks = vision.merged(features).unflatten(0, (count, GRID.num_tiles))
        images = vision.img_projection(vision.arranged(blocks, GRID))  # (pictures, 757, hidden)
        text = self.model.model.embed_tokens(batch.ids)  # (tasks, tokens, hidden)
        placeholders = batch.ids == self.model.config.image_token_id
        hidden = self.model.model(
            inputs_embeds=text.masked_scatter(placeholders[..., None], images), use_cache=False
        ).last_hidden_state
        asked = hidden.flatten(0, 1).index_select(0, batch.asked)  # (answers' tokens, hidden)
        return self.outcome(self.model.lm_head(asked).float(), classes, batch)

    def outcome(self, scores: torch.Tensor, classes: torch.Tensor, batch: Batch) -> Outcome:
        """Scores (answers' tokens, vocabulary), classes (views, 576, classes)."""
        shown, classes = batch.shown.flatten(), classes.flatten(0, 1)
        is_wrong = (scores.argmax(dim=1) != batch.answers).float() * batch.is_judged
        num_wrong = is_wrong.new_zeros(len(batch.ids)).index_add(0, batch.tasks, is_wrong)
        is_shown = (shown != NOTHING).float()
        is_misread = (classes.argmax(dim=1) != shown).float()
        losses = functional.cross_entropy(scores, batch.answers, reduction="none")
        return Outcome(
            answer_loss=(losses * batch.weights).sum() / batch.weights.sum(),
            patch_loss=functional.cross_entropy(classes, shown, self.class_weights.float()),
            right=num_wrong == 0,
            token_errors=is_wrong.sum() / batch.is_judged.sum(),
            patch_errors=(is_misread * is_shown).sum() / is_shown.sum(),
        )


def views(pixels: torch.Tensor) -> torch.Tensor:
    """As `model.pixels.views_of`, for pictures of one size: (5 pictures, 3, 336, 336) float32."""
    mean, std = (
        torch.tensor(numbers, device=pixels.device).view(3, 1, 1)
        for numbers in (CHANNEL_MEAN, CHANNEL_STD)
    )
    values = pixels.permute(0, 3, 1, 2).contiguous().float().div_(255).sub_(mean).div_(std)
    size = (TILE_PX, TILE_PX)
    overview = functional.interpolate(values, size=size, mode="bicubic")
    tiles = values.view(len(values), 3, GRID.rows, TILE_PX, GRID.columns, TILE_PX)
    tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # (pictures, 4, 3, 336, 336)
    return torch.cat([overview[:, None], tiles], dim=1).view(-1, 3, *size)
